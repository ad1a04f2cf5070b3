"""Options of `annotate` and `import-run`, grouped by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates


@dataclass(frozen=True)
class CellMasks:
    """How masks of cells are read."""

    pieces: Annotated[
        Literal["keep", "split"] | None,
        Parameter(help="Masks: labels in several pieces stay one cell each, or each piece becomes a cell."),
    ] = None
    overlap: Annotated[
        Literal["first", "last"] | None,
        Parameter(help="Drawn objects: whose pixels of two are, of the first drawn or of the last; default: refused."),
    ] = None
    classes: Annotated[
        list[str] | None,
        Parameter(help="Drawn objects: the classes that are cells; others are left away.", consume_multiple=True),
    ] = None
    join: Annotated[
        bool, Parameter(help="Masks: each file or page is one cell, and those of a tile are its mask.", negative="")
    ] = False


@dataclass(frozen=True)
class TrueMasks(CellMasks):
    """How masks of cells that are taken for true are read."""

    marks: Annotated[
        Literal["all", "positive"] | None,
        Parameter(help="Masks: they outline all cells of a tile, or its marker-positive cells alone."),
    ] = None
    corrects: Annotated[
        str | None,
        Parameter(
            completer=candidates.runs,
            help="Masks: they are those of this run, corrected; what was changed is recorded.",
        ),
    ] = None
    accept_unchanged: Annotated[
        bool,
        Parameter(help="With --corrects: masks that came back as they were are right.", negative=""),
    ] = False


@dataclass(frozen=True)
class Lengths:
    """What coordinates of drawn objects and of particles are."""

    scale: Annotated[
        float, Parameter(help="Particles, drawn objects: pixels of the image's file per pixel of the coordinates.")
    ] = 1.0
    unit: Annotated[
        Literal["px", "um", "angstrom"] | None,
        Parameter(
            help="Particles, drawn objects: unit of the coordinates. Default: what the file says, else px, refused "
            "where it can hardly be."
        ),
    ] = None


@dataclass(frozen=True)
class Coordinates(Lengths):
    """How coordinates of particles are meant."""

    diameter: Annotated[
        float | None, Parameter(help="Particles: diameter, in pixels of the coordinates, where no file tells it.")
    ] = None
    frame: Annotated[
        Literal["image", "file"] | None,
        Parameter(help="Particles: rows count from the top of the picture, or as the file stores them."),
    ] = None
    drop_outside: Annotated[
        bool, Parameter(help="Particles: leave away points that lie outside their micrograph.", negative="")
    ] = False
    merge_closer: Annotated[
        float | None,
        Parameter(
            help="Particles: of points closer together than this, in the unit of the coordinates, keep the first."
        ),
    ] = None


@dataclass(frozen=True)
class Codes:
    """What the codes of class masks mean."""

    legend: Annotated[
        Path | None,
        Parameter(help="Class masks: CSV, TSV or JSON of what codes or colours mean (label, code, #rrggbb)."),
    ] = None
    ignore: Annotated[
        list[int] | None, Parameter(help="Class masks: codes of pixels that are unknown.", consume_multiple=True)
    ] = None
