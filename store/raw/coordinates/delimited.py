"""Coordinates in tables of text: CSV as CryoPPP and others write it, and EMAN's BOX."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import (
    DIAMETER_NAMES,
    HEIGHT_NAMES,
    MICROGRAPH_NAMES,
    WIDTH_NAMES,
    X_NAMES,
    Y_NAMES,
    Particles,
    check_pixels,
    number,
    particles,
    plain_name,
    positive,
)


def parse_csv(text: str) -> dict[str, Particles]:
    """Particles by micrograph ("" without such a column) of a CSV whose first row names the columns.

    `X-Coordinate, Y-Coordinate, Diameter`, in CryoPPP's short or long form, or `x, y`; other columns are left alone.
    With columns `width` and `height` (or `w` and `h`) and no diameter, x and y are the corner of a box, as in BOX.

    Raises TileReadError where the columns are missing or a row is malformed.
    """
    rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    if not rows:
        raise TileReadError("malformed: expected a row of column names, found nothing")
    header = [plain_name(name) for name in rows[0]]
    x, y = _column(header, X_NAMES), _column(header, Y_NAMES)
    if x is None or y is None:
        raise TileReadError(f"malformed: expected columns X-Coordinate and Y-Coordinate, found {rows[0]}"[:200])
    diameter, micrograph = _column(header, DIAMETER_NAMES), _column(header, MICROGRAPH_NAMES)
    box = (_column(header, HEIGHT_NAMES), _column(header, WIDTH_NAMES)) if diameter is None else (None, None)
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for place, row in enumerate(rows[1:], start=2):
        if not any(field.strip() for field in row):
            continue
        if len(row) != len(header):
            raise TileReadError(f"malformed: row {place}: expected {len(header)} fields, found {len(row)}")
        here = f"row {place}"
        size = math.nan if diameter is None else positive(row[diameter], "Diameter", here)
        name = "" if micrograph is None else row[micrograph].strip()
        half_y, half_x = _halves(row, box, here)
        centre_y, centre_x = number(row[y], "Y-Coordinate", here), number(row[x], "X-Coordinate", here)
        found[name].append((centre_y + half_y, centre_x + half_x, size))
    if not found and micrograph is None:
        found[""] = []
    return {name: check_pixels(particles(rows)) for name, rows in found.items()}


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
    return {"": particles(found)}


def _halves(row: Sequence[str], box: tuple[int | None, int | None], here: str) -> tuple[float, float]:
    """Half of a box's height and width, 0 where the table has no boxes."""
    height, width = box
    if height is None or width is None:
        return 0.0, 0.0
    return positive(row[height], "height", here) / 2, positive(row[width], "width", here) / 2


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)
