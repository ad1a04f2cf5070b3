"""Particles of one micrograph as their file tells them, and how a field becomes a number."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

# Names under which coordinates travel, without capitals, blanks, '-' and '_'.
X_NAMES: Final = ("xcoordinate", "x", "xcoord", "rlncoordinatex", "xpx", "xpixel", "axis1")
Y_NAMES: Final = ("ycoordinate", "y", "ycoord", "rlncoordinatey", "ypx", "ypixel", "axis0")
CENTRE_NAMES: Final = (
    ("ycenter", "ycentre", "centery", "centrey", "cy"), ("xcenter", "xcentre", "centerx", "centrex", "cx"),
)  # fmt: skip
# The two corners of a box.
FIRST_NAMES: Final = (("ymin", "y1", "top"), ("xmin", "x1", "left"))
LAST_NAMES: Final = (("ymax", "y2", "bottom"), ("xmax", "x2", "right"))
# Lengths in the specimen, in which some programs tabulate positions.
OF_SPECIMEN: Final = re.compile(
    r"[xy](coord(inate)?)?(angstroms?|angst|ang|å|a|nm|um|µm|μm|microns?)|.*centeredcoordinate[xy]angst"
)
SCORE_NAMES: Final = ("score", "confidence", "autopickfigureofmerit", "rlnautopickfigureofmerit", "probability")
WIDTH_NAMES: Final = ("width", "w", "boxwidth")
HEIGHT_NAMES: Final = ("height", "h", "boxheight")
DIAMETER_NAMES: Final = ("diameter", "diameterpx")
CENTRES: Final = "centres of particles"
CORNERS: Final = "corners of boxes, whose centres are stored"
FRACTIONS: Final = "fractions of the micrograph's sides"

UNIT_NAMES: Final = ("unit", "units", "lengthunit", "coordinateunit")
"""Columns, and keys of JSON, that say what lengths are in."""

SIDE_NAMES: Final = ("apix", "angpix", "pixelsize", "pixelsizea", "pixelsizeangstrom", "pixelsizeang")
"""Columns, and keys of JSON, that say how many angstrom the pixels are that are counted in."""
BINNING_NAMES: Final = ("binning", "bin", "binfactor", "binningfactor", "downsampling", "downsample")
"""The same of the picture that was picked on, as a whole number of pixels of another."""

# What tells the rows of a table apart: particles from noise, or one kind of them from another.
KIND_NAMES: Final = ("label", "class", "classname", "category", "kind", "type", "isparticle", "particleclass")
MICROGRAPH_NAMES: Final = (
    "micrograph", "micrographname", "imagename", "rlnmicrographname", "filename", "image", "imagefile",
)  # fmt: skip
# What tells planes of a volume or a movie apart, and micrographs by numbers or as tilt series: a table is of one.
PLANE_NAMES: Final = ("z", "zcoordinate", "zcoord", "rlncoordinatez", "zpx", "slice", "frame", "plane", "section")
NUMBER_NAMES: Final = ("micrographid", "imageid", "imagenumber", "rlntomoname", "rlnmicrographid")


@dataclass(frozen=True, slots=True, eq=False)
class Particles:
    """Centres `yx` (particle, 2) and `diameter` (particle,) in px; a diameter that is not told is NaN.

    Of particles that their file has twice there is one; `n_twice` are those that were left away. `meaning` is what the
    numbers in the file are; where `is_fraction`, `yx` are parts of the micrograph's height and width. `lowest_score` is
    that of the file's particles, NaN where it has none. `picture` are height and width of what the fractions are of,
    where the file tells them. `unit` is what the file says that its lengths are in, empty where it says nothing, and
    `pixel_size_a` the side in angstrom of the pixels that it counts in, 0 where it does not tell.
    """

    yx: NDArray[np.float64]
    diameter: NDArray[np.float64]
    n_twice: int = 0
    meaning: str = CENTRES
    is_fraction: bool = False
    lowest_score: float = math.nan
    picture: tuple[int, int] | None = None
    unit: str = ""
    pixel_size_a: float = 0.0

    def __len__(self) -> int:
        return len(self.yx)


def particles(
    rows: Iterable[tuple[float, float, float]], *, meaning: str = CENTRES, is_fraction: bool = False
) -> Particles:
    """Particles of rows (y, x, diameter)."""
    listed = list(rows)
    # NaN is unequal to itself: a diameter that is not told is compared as None.
    once = list({(y, x, None if math.isnan(size) else size): (y, x, size) for y, x, size in listed}.values())
    table = np.array(once, np.float64).reshape(-1, 3)
    meaning = FRACTIONS if is_fraction else meaning
    return Particles(table[:, :2], table[:, 2], len(listed) - len(once), meaning, is_fraction)


def check_pixels(found: Particles) -> Particles:
    """`found` itself, once its centres can be pixels; raises TileReadError where they are fractions of the picture."""
    if (
        not found.is_fraction
        and not found.unit
        and len(found) > 1
        and found.yx.min() >= 0
        and found.yx.max() <= 1
        and (found.yx % 1).any()
    ):
        raise TileReadError(
            "fractions: all coordinates lie between 0 and 1. Multiply them by the width and height of the micrograph."
        )
    return found


def check_one_kind(values: Sequence[str], column: str) -> None:
    """Raises TileReadError where `values`, one for each row, are of several kinds: all would be taken for particles.

    Where no two are equal, they are taken for numbers of the particles.
    """
    kinds = Counter(value.strip() for value in values)
    if len(kinds) < 2 or (len(kinds) == len(values) > 2):
        return
    listed = ", ".join(f"{kind or 'empty'} ({count})" for kind, count in kinds.most_common(4))
    raise TileReadError(
        f"several kinds: {column!r} tells rows apart, {listed}, and all would be particles. Keep those that are, and "
        f"leave {column!r} out."
    )


_ONE: Final = ("1", "1.0", "")


def one_unit(values: Iterable[object]) -> str:
    """The unit that all of `values` name, empty where none does. Raises TileReadError where they name several."""
    told = list(dict.fromkeys(text for value in values if value is not None and (text := str(value).strip())))
    if len(told) > 1:
        raise TileReadError(f"unit: rows are in several units, {', '.join(told[:4])}. Write all of them in one.")
    return told[0] if told else ""


def one_side(told: Mapping[str, Iterable[object]]) -> float:
    """Side in angstrom of the pixels that are counted in, out of values by plain name; 0 where none tells it.

    Raises TileReadError where values differ, or say that the picture was binned, and not what its pixels are.
    """
    sides = {number(value, name, "a row") for name, values in told.items() if name in SIDE_NAMES for value in values}
    if len(sides) > 1:
        raise TileReadError(f"pixels of several sizes: {', '.join(f'{side:g}' for side in sorted(sides)[:4])} A")
    binned = {str(v) for name, values in told.items() if name in BINNING_NAMES for v in values if str(v) not in _ONE}
    if binned and not sides:
        raise TileReadError(
            f"binned: the file says that it counts in a picture binned by {', '.join(sorted(binned)[:4])}. Multiply "
            "its lengths by that, and leave the word out; or leave it out alone, and read it with --scale"
        )
    return max(sides, default=0.0)


def check_one_picture(values: Iterable[object], column: str) -> None:
    """Raises TileReadError where `values`, one for each particle, are of several planes or pictures: a micrograph has
    one, and all would come to lie on it. Columns of other names are left alone.
    """
    name = plain_name(column)
    if name not in (*PLANE_NAMES, *NUMBER_NAMES):
        return
    told = list(dict.fromkeys(str(value).strip() for value in values))
    if len(told) < 2:
        return
    listed = ", ".join(told[:4]) + (", …" if len(told) > 4 else "")
    what, remedy = "planes", "Keep the rows of the plane that is meant"
    if name in NUMBER_NAMES:
        what, remedy = "micrographs", "Name the micrograph of each row in a column 'micrograph'"
    raise TileReadError(
        f"several {what}: {column!r} tells rows apart, {listed}, and all would lie on one micrograph. {remedy}, and "
        f"leave {column!r} out."
    )


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
