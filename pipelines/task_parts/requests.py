"""What is asked of a task, by the steps that every task has in its own form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from fintune_xr.finetune.settings import FitSettings
from fintune_xr.store.annotations.instance_labels import Pieces
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.drawn.painting import Overlap

TrainingTiles: TypeAlias = tuple[dict[str, Any], FitSettings]
"""Tiles of the parts train and val in the form that is learnt from, and the settings with what those tiles tell."""


class Annotated(Protocol):
    """What became of annotations: tiles annotated now and before, and what was left out and why."""

    @property
    def n_added(self) -> int: ...

    @property
    def n_present(self) -> int: ...

    @property
    def left_out(self) -> tuple[LeftOut, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateRequest:
    """How annotations are to be read: the folder's `layout` and `pattern`, and how coordinates are meant.

    `legend` is a table of what the codes of class masks mean, `ignore` the codes of pixels that are unknown.
    `marks` says which cells the masks outline, all or the positive ones; `pieces` says what becomes of labels in
    several pieces, `overlap` whose the pixels of two drawn objects are, and with `join` each file of masks, or each
    page of it, is one cell. With `dry_run` nothing is written.
    """

    layout: str | None = None
    pattern: str | None = None
    restart: bool = False
    legend: Path | None = None
    ignore: tuple[int, ...] | None = None
    reading: Reading = field(default_factory=Reading)
    pieces: Pieces | None = None
    overlap: Overlap | None = None
    join: bool = False
    marks: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """Which runs, all where none is named, are scored on which part of the split, and how often it is resampled."""

    runs: tuple[str, ...]
    split: str
    resamples: int
    seed: int


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
