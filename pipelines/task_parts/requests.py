"""What is asked of a task, by the steps that every task has in its own form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.store.annotations.instance_labels import PIECES, Pieces
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.raw.length_units import UNITS, Unit
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.drawings.painting import OVERLAPS, DrawnReading, Overlap
from fintune_xr.tasks.coarser import Stated
from fintune_xr.tasks.validation import MARKS

TrainingTiles: TypeAlias = tuple[dict[str, Any], FitSettings]
"""Tiles of the parts train and val in the form that is learnt from, and the settings with what those tiles tell."""


class Annotated(Protocol):
    """What became of annotations: tiles annotated now and before, and what was left out and why."""

    @property
    def n_added(self) -> int:
        """Tiles annotated now."""

    @property
    def n_present(self) -> int:
        """Tiles that were annotated before."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Files that could not be used, each with its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskReading:
    """How masks of cells are read.

    `pieces` says what becomes of labels in several pieces, `overlap` whose the pixels of two drawn objects are, and
    `classes` which classes of drawn objects are cells, all where it is not said; their coordinates are in `unit`, else
    px, `scale` px of the tile for each. With
    `join` each file of masks, or each page of it, is one cell; `marks` says which cells the masks outline, all or the
    positive ones. They are corrected masks of the run that it `corrects`; with `accept_unchanged` those that came back
    as they were are taken for looked at, and right.

    Raises FintuneValueError for a word that is not one of those known.
    """

    pieces: Pieces | None = None
    overlap: Overlap | None = None
    join: bool = False
    marks: Literal["all", "positive"] | None = None
    corrects: str | None = None
    accept_unchanged: bool = False
    classes: Sequence[str] | None = None
    unit: Unit | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("pieces", PIECES), ("overlap", OVERLAPS), ("marks", MARKS), ("unit", UNITS)):
            if (word := getattr(self, name)) not in (None, *known):
                raise unknown_name(f"word for --{name}", word, known)
        if not 0 < self.scale < math.inf:
            raise FintuneValueError(f"--scale: expected a number above 0, got {self.scale}")

    @property
    def drawn(self) -> DrawnReading:
        """How drawn objects are read."""
        return DrawnReading(self.overlap, None if self.classes is None else tuple(self.classes), self.unit, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeReading:
    """How class masks are read: `legend` is a table of what their codes mean, `ignore` those that are unknown."""

    legend: str | Path | None = None
    ignore: Sequence[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateRequest:
    """How annotations are to be read: the folder's `layout` and `pattern`, and what each task must be told besides.

    With `dry_run` nothing is written; `restart` throws stored annotations away first. `command` is all of it as it
    would be typed.
    """

    layout: str | None = None
    pattern: str | None = None
    restart: bool = False
    dry_run: bool = False
    masks: MaskReading = field(default_factory=MaskReading)
    particles: Reading = field(default_factory=Reading)
    codes: CodeReading = field(default_factory=CodeReading)
    command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """Which runs, all where none is named, are scored on which part of the split, and how often it is resampled.

    `coarser` states the coarser classes that maps of classes are scored under; without it, each under its own.
    """

    runs: tuple[str, ...]
    split: str
    resamples: int
    seed: int
    coarser: Stated = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Where to, which runs and tiles (all where none is named), and how picks are written."""

    to: str
    out: Path
    runs: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()
    tiles: tuple[str, ...] = ()
    frame: Frame | None = None
    pixel_size_a: float | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A format that a cohort is written in: `about` says what of it, `write` writes it and returns the paths.

    `of_tiles` are those that may be written of chosen donors and tiles alone.
    """

    about: str
    write: Callable[[Cohort, ExportRequest], list[Path]]
    of_tiles: bool = False
