"""Units of lengths: those that coordinates are said to be in, and how many um each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from fintune_xr.errors import TileReadError

Unit: TypeAlias = Literal["px", "um", "angstrom"]
"""What the numbers of a file of drawn objects or of particles are, where it is said."""

UNITS: Final = ("px", "um", "angstrom")
PX: Final = "px"

UM_OF: Final[Mapping[str, float]] = MappingProxyType({
    "m": 1e6, "cm": 1e4, "mm": 1e3, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4, "inch": 25400.0,
    **dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("millimeter", "millimetre"), 1e3), **dict.fromkeys(("nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("centimeter", "centimetre"), 1e4),
})  # fmt: skip
"""How many um units are, by the names that programs write."""

_PIXELS: Final = ("px", "pixel", "pixels", "pix")
# Under which keys files of JSON state the unit of their coordinates, and the parts of them that are asked for it.
_KEYS: Final = ("unit", "units", "coordinateunit", "coordinateunits", "lengthunit")
_PARTS: Final = ("properties", "metadata", "info")


def um_of(unit: str) -> float | None:
    """How many um `unit` is, 0 for pixels, None where nothing is known of it."""
    name = unit.strip().casefold()
    known = UM_OF.get(name, UM_OF.get(name.removesuffix("s")))
    return 0.0 if name in _PIXELS else known


def stated_unit(document: Any, parts: Iterable[Any] = ()) -> str:
    """The unit that a parsed JSON file, or one of its `parts`, states for its coordinates; empty where none is stated.

    Raises TileReadError where several are.
    """
    records = [document, *parts]
    records += [one.get(part) for one in records if isinstance(one, Mapping) for part in _PARTS]
    told = {
        str(value)
        for one in records
        if isinstance(one, Mapping)
        for key, value in one.items()
        if isinstance(value, str) and value.strip() and "".join(filter(str.isalnum, str(key).lower())) in _KEYS
    }
    if len(told) > 1:
        raise TileReadError(f"unit: the file states several, {', '.join(sorted(told))}. Keep the one that is meant.")
    return next(iter(told), "")


def agreed_um(asked: Unit | None, stated: str) -> float:
    """How many um the unit of coordinates is, 0 where they are px: that which was asked for, or which the file states.

    Raises TileReadError where both are there and differ, and where nothing is known of the one that is stated.
    """
    told = um_of(stated) if stated else None
    if asked is None:
        if stated and told is None:
            raise TileReadError(f"unit: the file's coordinates are in {stated!r}. Say what that is: --unit px or um")
        return told or 0.0
    own = um_of(asked) or 0.0
    if told is not None and told != own:
        raise TileReadError(f"unit: the file says that its coordinates are in {stated!r}, --unit says {asked}")
    return own


def px_per_unit(um: float, side_um: float) -> float:
    """How many px of `side_um` a length of one unit of `um` is; 1 where the unit is px.

    Raises TileReadError where the size of the pixels is not known.
    """
    if not um:
        return 1.0
    if not side_um > 0:
        raise TileReadError("unit: the coordinates are lengths, and the tile does not tell the size of its pixels")
    return um / side_um
