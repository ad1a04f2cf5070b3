"""The size of a tile's pixels, out of what its name and the headers of its files tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from fintune_xr.cohort_kinds import EM, HE, IF
from fintune_xr.store.raw.readers import Header
from fintune_xr.store.raw.readers.pixel_side import A_IN_UM, alike

# Sides in um between which pixels of pictures of a kind lie: of cells, which light shows and which are 5 to 50 um
# wide, and of particles in micrographs of electrons. Both have room for what is unusual.
_OF_CELLS: Final = (0.005, 20.0)
_PLAUSIBLE: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {IF.name: _OF_CELLS, HE.name: _OF_CELLS, EM.name: (5e-6, 0.1)}
)
# What programs write where nobody told them the size of a pixel.
_DEFAULT_UM: Final = 1.0
_EXACTLY: Final = 1e-6
# How many um a number is in the units that it may have been meant in.
_MEANT: Final = {"nm": 1e-3, "angstrom": 1e-4, "mm": 1e3, "m": 1e6}
_SAY_IT: Final = "Say it: column mpp of --samples, or group mpp of --pattern"


def side_of_tile(headers: Iterable[tuple[str, Header]], named_um: float, kind: str) -> tuple[float, str]:
    """Side of a pixel in angstrom, 0 where nothing tells it, and why what is told is not taken.

    `headers` are those of the tile's files, by what the files are called; `named_um` is what the tile's name tells, 0
    where it does not, and `kind` what the cohort is of. What tells nothing contradicts nothing; where two tell
    different sizes, none is taken. A size that can hardly be that of a pixel of this kind of picture is taken from
    nobody but the name.
    """
    planes = list(headers)
    doubts = [f"{header.doubt} ({file})" for file, header in planes if header.doubt]
    if doubts:
        return 0.0, doubts[0]
    told = [(file, header.pixel_size_a) for file, header in planes if header.pixel_size_a > 0]
    hardly = {file: _doubt(side / A_IN_UM, kind) for file, side in told}
    if named_um > 0 and (doubt := _out_of_range(named_um, kind)):
        return 0.0, f"{doubt} (its name)"
    if named_um > 0:
        told = [("its name", named_um * A_IN_UM), *(one for one in told if not hardly[one[0]])]
    for where, side in told[1:]:
        if not alike(side, told[0][1]):
            one, other = (f"{value / A_IN_UM:.4g} um ({name})" for name, value in (told[0], (where, side)))
            return 0.0, f"two sizes of pixels for one tile: {one} and {other}"
    if not told:
        return 0.0, ""
    where, side = told[0]
    doubt = hardly.get(where, "")
    return (0.0, f"{doubt} ({where})") if doubt else (side, "")


def _doubt(side_um: float, kind: str) -> str:
    """Why a side can hardly be that of a pixel, empty where it can."""
    is_default = _PLAUSIBLE.get(kind) == _OF_CELLS and math.isclose(side_um, _DEFAULT_UM, rel_tol=_EXACTLY)
    if is_default:
        return f"1 um is what programs write where nobody told them the size of a pixel. {_SAY_IT}"
    return _out_of_range(side_um, kind)


def _out_of_range(side_um: float, kind: str) -> str:
    low, high = _PLAUSIBLE.get(kind, (0.0, math.inf))
    if not low <= side_um <= high:
        meant = next((f"{side_um:.4g} {unit}" for unit, um in _MEANT.items() if low <= side_um * um <= high), "")
        hint = f" Is it {meant}?" if meant else ""
        return f"{side_um:.4g} um is no size of a pixel here, expected {low:g} to {high:g} um.{hint} {_SAY_IT}"
    return ""
