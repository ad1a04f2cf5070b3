"""The size of a tile's pixels, out of what its name and the headers of its files tell."""

from __future__ import annotations

from collections.abc import Iterable

from fintune_xr.store.raw.readers import Header
from fintune_xr.store.raw.readers.pixel_side import A_IN_UM, alike


def side_of_tile(headers: Iterable[tuple[str, Header]], named_um: float) -> tuple[float, str]:
    """Side of a pixel in angstrom, 0 where nothing tells it, and why what is told is not taken.

    `headers` are those of the tile's files, by what the files are called; `named_um` is what the tile's name tells, 0
    where it does not. What tells nothing contradicts nothing; where two tell different sizes, none is taken.
    """
    planes = list(headers)
    doubts = [f"{header.doubt} ({file})" for file, header in planes if header.doubt]
    if doubts:
        return 0.0, doubts[0]
    told = [(file, header.pixel_size_a) for file, header in planes if header.pixel_size_a > 0]
    if named_um > 0:
        told.insert(0, ("its name", named_um * A_IN_UM))
    for where, side in told[1:]:
        if not alike(side, told[0][1]):
            one, other = (f"{value / A_IN_UM:.4g} um ({name})" for name, value in (told[0], (where, side)))
            return 0.0, f"two sizes of pixels for one tile: {one} and {other}"
    return (told[0][1], "") if told else (0.0, "")
