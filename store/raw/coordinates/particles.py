"""Particles of one micrograph as their file tells them, and how a field becomes a number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

# Names under which coordinates travel, without capitals, blanks, '-' and '_'.
X_NAMES: Final = ("xcoordinate", "x", "xcoord", "rlncoordinatex")
Y_NAMES: Final = ("ycoordinate", "y", "ycoord", "rlncoordinatey")
DIAMETER_NAMES: Final = ("diameter", "diameterpx")
MICROGRAPH_NAMES: Final = ("micrograph", "micrographname", "imagename", "rlnmicrographname")


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Centres `yx` (particle, 2) and `diameter` (particle,) in px; a diameter that is not told is NaN."""

    yx: NDArray[np.float64]
    diameter: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.yx)


def particles(rows: Iterable[tuple[float, float, float]]) -> Particles:
    """Particles of rows (y, x, diameter)."""
    table = np.array(list(rows), np.float64).reshape(-1, 3)
    return Particles(table[:, :2], table[:, 2])


def plain_name(text: str) -> str:
    """A column's name as it is compared: `X-Coordinate` and `x_coordinate` are the same."""
    return "".join(letter for letter in text.lower() if letter.isalnum())


def number(value: object, what: str, row: str) -> float:
    """`value` as a finite number; raises TileReadError naming the row and the field."""
    try:
        found = float(str(value).strip()) if not isinstance(value, bool) else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise TileReadError(f"malformed: {row}: expected a number as {what}, found {value!r}"[:200])
    return found


def positive(value: object, what: str, row: str) -> float:
    """`value` as a number above 0; raises TileReadError naming the row and the field."""
    found = number(value, what, row)
    if found <= 0:
        raise TileReadError(f"malformed: {row}: expected a {what} above 0, found {value!r}"[:200])
    return found
