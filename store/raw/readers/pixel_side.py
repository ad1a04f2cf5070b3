"""How large a pixel is in the specimen, as a TIFF tells it: in OME-XML, in ImageJ's words, or as a resolution."""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.length_units import UM_OF
from fintune_xr.store.raw.readers.ome_xml import has_ome, pixels_of

A_IN_UM: Final = 1e4
# Sides closer than this are the same: resolutions are stored as fractions of whole numbers.
SAME: Final = 0.02

# Tags by their numbers, since tifffile looks through all tags of a page for a name.
_X_AND_Y_RESOLUTION: Final = (282, 283)
_RESOLUTION_UNIT: Final = 296
_INCH_OR_CM: Final = {2: "inch", 3: "cm"}
# A resolution for printing (72 to 1200 dots per inch are 353 to 21 um) says nothing of the specimen.
_MOST_UM_OF_PRINT: Final = 10.0

Sides: TypeAlias = tuple[float, float]
"""Width and height of a pixel in um."""


def stated_side(pages: Any, plane: Any) -> tuple[float, str]:
    """Side of a pixel of `plane` in angstrom, 0 where nothing tells it; and why what is told is not taken.

    Pixels that are no squares, and OME-XML and resolution that contradict each other, tell no side.
    """
    try:
        found = {"OME-XML": _of_ome(pages), "the resolution": _of_resolution(pages, plane)}
    except (TileReadError, ValueError, TypeError) as error:
        return 0.0, f"unreadable: {error}"[:160]
    known = {where: sides for where, sides in found.items() if sides is not None}
    for where, (x, y) in known.items():
        if not alike(x, y):
            return 0.0, f"pixels are no squares: {where} says {x:.4g} x {y:.4g} um"
    values = [x for x, _ in known.values()]
    if len(values) == 2 and not alike(*values):
        told = " and ".join(f"{where} says {x:.4g} um" for where, (x, _) in known.items())
        return 0.0, f"two sizes in one file: {told}"
    return (round(values[0] * A_IN_UM, 6), "") if values else (0.0, "")


def side_of_squares(x: float, y: float) -> tuple[float, str]:
    """Side in angstrom of a pixel that the file says is `x` by `y` um, as `stated_side` gives it; 0 tells nothing."""
    sides = _sides(x, y)
    if sides is None:
        return 0.0, ""
    return (round(x * A_IN_UM, 6), "") if alike(x, y) else (0.0, f"pixels are no squares: {x:.4g} x {y:.4g} um")


def alike(one: float, other: float) -> bool:
    """Whether two sides are the same but for rounding."""
    return abs(one - other) <= SAME * max(one, other)


def _of_ome(pages: Any) -> Sides | None:
    description = str(getattr(pages[0], "description", "") or "")
    pixels = pixels_of(description) if has_ome(description) else None
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        told, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "um")
        sides.append(_in_um(float(told), unit) if told else 0.0)
    return _sides(sides[0], sides[1])


def _of_resolution(pages: Any, plane: Any) -> Sides | None:
    tags = plane.tags
    told = pages.parent.imagej_metadata if pages.parent.is_imagej else None
    unit = str((told or {}).get("unit", "")).strip().casefold() or _unit_tag(tags)
    x, y = (_pixels_per_unit(tags, tag) for tag in _X_AND_Y_RESOLUTION)
    if not (unit and x and y):
        return None
    most = _MOST_UM_OF_PRINT if unit in _INCH_OR_CM.values() else math.inf
    return _sides(_in_um(1 / x, unit), _in_um(1 / y, unit), most)


def _unit_tag(tags: Any) -> str:
    tag = tags.get(_RESOLUTION_UNIT)
    return "" if tag is None else _INCH_OR_CM.get(int(tag.value), "")


def _pixels_per_unit(tags: Any, number: int) -> float:
    tag = tags.get(number)
    if tag is None:
        return 0.0
    pixels, units = tag.value
    return float(pixels) / float(units) if units else 0.0


def _in_um(side: float, unit: str) -> float:
    """`side` in um; 0 for units of which nothing is known, such as pixels."""
    return side * UM_OF.get(unit.strip().casefold(), 0.0)


def _sides(x: float, y: float, most: float = math.inf) -> Sides | None:
    """Both sides, None where one is no length, or more than `most`."""
    return (x, y) if all(0 < side <= most and math.isfinite(side) for side in (x, y)) else None
