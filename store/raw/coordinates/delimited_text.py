"""Coordinates in tables of text: CSV as CryoPPP and others write it, Topaz's tables, and EMAN's BOX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import (
    CENTRE_NAMES,
    CENTRES,
    CORNERS,
    DIAMETER_NAMES,
    FIRST_NAMES,
    HEIGHT_NAMES,
    KIND_NAMES,
    LAST_NAMES,
    MICROGRAPH_NAMES,
    OF_SPECIMEN,
    PLANE_NAMES,
    SCORE_NAMES,
    UNIT_NAMES,
    WIDTH_NAMES,
    X_NAMES,
    Y_NAMES,
    Particles,
    check_one_kind,
    check_one_picture,
    number,
    one_side,
    one_unit,
    particles,
    plain_name,
    positive,
)

_AXES: Final = ("Y-Coordinate", "X-Coordinate")
_KNOWN: Final = frozenset(
    (*X_NAMES, *Y_NAMES, *DIAMETER_NAMES, *MICROGRAPH_NAMES, *SCORE_NAMES, *HEIGHT_NAMES, *WIDTH_NAMES)
).union(*CENTRE_NAMES, *FIRST_NAMES, *LAST_NAMES)
# How napari calls the axes of points, the last two being rows and columns, and what it saves of shapes besides.
_NAPARI_AXIS: Final = re.compile(r"axis(\d+)")
_NAPARI_SHAPES: Final = frozenset({"shapetype", "vertexindex"})
# ImageJ's corner of a box, beside which X and Y are the centroid.
_IMAGEJ_CORNER: Final = ("by", "bx")
HEADERLESS: Final = "malformed: the first row holds numbers"
"""How the refusal of a table without names of columns begins."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a table hold what: rows first, then columns of the picture; None where there is no such column.

    `size` are height and width of a box whose corner the position is, `last` its opposite corner.
    """

    position: tuple[int, int]
    size: tuple[int, int] | None
    last: tuple[int, int] | None
    diameter: int | None
    micrograph: int | None
    score: int | None
    kinds: tuple[int, ...] = ()

    @property
    def meaning(self) -> str:
        """What the positions are, in words."""
        return CENTRES if self.size is None and self.last is None else CORNERS


def parse_csv(text: str, *, separator: str = ",") -> dict[str, Particles]:
    """Particles by micrograph ("" without such a column) of a table whose first row names the columns.

    `X-Coordinate, Y-Coordinate, Diameter`, in CryoPPP's short or long form, or `x, y`; other columns are left alone.
    With columns `width` and `height` (or `w` and `h`) and no diameter, x and y are the corner of a box, as in BOX;
    `xmin, ymin, xmax, ymax` are two corners of one, and `x_center`, `y_center` the centre whatever stands beside. So
    are ImageJ's X and Y beside BX and BY. Of napari's axes the last two are rows and columns. A column `unit` says what
    lengths are in.

    Raises TileReadError where columns are missing, there twice, or lengths in the specimen, where a row is malformed,
    or where a column such as `label`, `z` or `image_id` tells several kinds of rows, planes or pictures apart.
    """
    rows = list(csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True))
    if not rows:
        raise TileReadError("malformed: expected a row of column names, found nothing")
    header = _of_napari([plain_name(name) for name in rows[0]])
    columns = _columns(header, rows[0])
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for place, row in enumerate(rows[1:], start=2):
        if not any(field.strip() for field in row):
            continue
        if len(row) != len(header):
            raise TileReadError(f"malformed: row {place}: expected {len(header)} fields, found {len(row)}")
        here = f"row {place}"
        name = "" if columns.micrograph is None else row[columns.micrograph].strip()
        found[name].append(_particle(row, columns, here))
        if columns.score is not None:
            scores[name].append(_score(row[columns.score]))
    filled = [row for row in rows[1:] if any(map(str.strip, row))]
    for at in columns.kinds:
        check_one_kind([row[at] for row in filled], rows[0][at])
    for at, name in enumerate(header):
        if columns.micrograph is None or name in PLANE_NAMES:
            check_one_picture([row[at] for row in filled], rows[0][at] if name != "plane" else name)
    if not found and columns.micrograph is None:
        found[""] = []
    made = {name: particles(rows, meaning=columns.meaning) for name, rows in found.items()}
    unit = one_unit(row[at] for at, name in enumerate(header) if name in UNIT_NAMES for row in filled)
    side = one_side({name: [row[at] for row in filled] for at, name in enumerate(header)})
    return {
        name: replace(one, lowest_score=_lowest(scores[name]), unit=unit, pixel_size_a=side)
        for name, one in made.items()
    }


def parse_tabs(text: str) -> dict[str, Particles]:
    """Particles of a table whose fields tabs part, as Topaz writes it; otherwise as `parse_csv`."""
    return parse_csv(text, separator="\t")


def parse_box(text: str) -> dict[str, Particles]:
    """Particles of a BOX: rows of x, y, width and height, x and y being the corner of lowest row and column.

    The centre is x + width / 2, the pixel that EMAN and RELION take for it. The box is no diameter: it is drawn wider
    than the particle.

    Raises TileReadError for a row without four numbers or with a box that is none.
    """
    found = []
    for place, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 4:
            raise TileReadError(f"malformed: row {place}: expected x, y, width, height, found {line!r}"[:200])
        here = f"row {place}"
        x, y = number(fields[0], "x", here), number(fields[1], "y", here)
        width, height = positive(fields[2], "width", here), positive(fields[3], "height", here)
        found.append((y + height / 2, x + width / 2, math.nan))
    return {"": particles(found, meaning=CORNERS)}


def _of_napari(header: list[str]) -> list[str]:
    """Plain names of columns, in which the last two axes of napari's points are y and x, and those before are planes.

    Raises TileReadError for napari's shapes, whose rows are corners.
    """
    if _NAPARI_SHAPES & set(header):
        raise TileReadError(
            "malformed: rows are corners of shapes that napari saved, and no particles. Save a layer of points."
        )
    axes = sorted((int(found[1]), at) for at, name in enumerate(header) if (found := _NAPARI_AXIS.fullmatch(name)))
    if len(axes) < 3:
        return header
    named = list(header)
    for place, (_, at) in enumerate(reversed(axes)):
        named[at] = ("x", "y")[place] if place < 2 else "plane"
    return named


def _columns(header: Sequence[str], written: Sequence[str]) -> _Columns:
    _check_lengths(header, written)
    _check_once(header, written)
    centre, place = _pair(header, CENTRE_NAMES), _pair(header, (Y_NAMES, X_NAMES))
    first, last = _pair(header, FIRST_NAMES), _pair(header, LAST_NAMES)
    size = _pair(header, (HEIGHT_NAMES, WIDTH_NAMES))
    is_of_imagej = _pair(header, ((_IMAGEJ_CORNER[0],), (_IMAGEJ_CORNER[1],))) is not None
    diameter, micrograph, score = (_column(header, one) for one in (DIAMETER_NAMES, MICROGRAPH_NAMES, SCORE_NAMES))
    others = (diameter, micrograph, score, tuple(at for at, name in enumerate(header) if name in KIND_NAMES))
    if centre is not None:
        return _Columns(centre, None, None, *others)
    if place is not None:
        return _Columns(place, size if diameter is None and not is_of_imagej else None, None, *others)
    if first is not None and (last is not None or size is not None):
        return _Columns(first, None if last is not None else size, last, *others)
    if all(map(_is_number, " ".join(written).split())):
        raise TileReadError(f"{HEADERLESS}, expected names of columns, such as x and y. Write them above it.")
    raise TileReadError(f"malformed: expected columns X-Coordinate and Y-Coordinate, found {list(written)}"[:200])


def _check_lengths(header: Sequence[str], written: Sequence[str]) -> None:
    named = [name for plain, name in zip(header, written, strict=True) if OF_SPECIMEN.fullmatch(plain)]
    if named:
        raise TileReadError(
            f"not in px: the columns {', '.join(named)} are lengths in the specimen. Name them x and y, and read them "
            "with --unit angstrom."
        )


def _check_once(header: Sequence[str], written: Sequence[str]) -> None:
    twice = [name for plain, name in zip(header, written, strict=True) if plain in _KNOWN and header.count(plain) > 1]
    if twice:
        raise TileReadError(f"malformed: columns {', '.join(twice)} are there twice. Leave in the one that is meant.")


def _particle(row: Sequence[str], columns: _Columns, here: str) -> tuple[float, float, float]:
    y, x = (number(row[at], name, here) for at, name in zip(columns.position, _AXES, strict=True))
    if columns.size is not None:
        height, width = (
            positive(row[at], name, here) for at, name in zip(columns.size, ("height", "width"), strict=True)
        )
        y, x = y + height / 2, x + width / 2
    if columns.last is not None:
        last_y, last_x = (number(row[at], name, here) for at, name in zip(columns.last, _AXES, strict=True))
        y, x = (y + last_y) / 2, (x + last_x) / 2
    return y, x, math.nan if columns.diameter is None else positive(row[columns.diameter], "Diameter", here)


def _is_number(text: str) -> bool:
    return not math.isnan(_score(text))


def _score(text: str) -> float:
    """A score, NaN where there is none: it decides nothing, and is only told."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _lowest(scores: Sequence[float]) -> float:
    return min((score for score in scores if math.isfinite(score)), default=math.nan)


def _pair(header: Sequence[str], names: tuple[Sequence[str], Sequence[str]]) -> tuple[int, int] | None:
    """Positions of the columns of rows and of columns, where both are there."""
    y, x = (_column(header, one) for one in names)
    return None if y is None or x is None else (y, x)


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
