"""What is to be said of the sizes of pixels: which were not taken and why, and where one store holds several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.same_bytes import tile_column
from fintune_xr.store.raw.pairing import TileFiles

# Columns that tell the side of a stored pixel, with their unit in words.
_COLUMNS = {n.PIXEL_SIZE_A: "angstrom", n.MPP: "um"}


def doubt_lines(tiles: Sequence[TileFiles]) -> list[str]:
    """A line about tiles whose files tell a size of pixels that was not taken; none where there are none."""
    doubtful = [tile for tile in tiles if tile.doubt]
    if not doubtful:
        return []
    first = doubtful[0]
    return [f"size of pixels not taken from {len(doubtful)} of {len(tiles)} tiles, e.g. {first.tile}: {first.doubt}"]


def size_lines(cohort: Cohort) -> list[str]:
    """Lines about stored tiles of several sizes of pixels, and about tiles of which none is known beside others."""
    group = cohort.images_group()
    n_tiles = group.n_tiles
    for column, unit in _COLUMNS.items():
        # Alone: to open the images is to read all their labels.
        sides = tile_column(group, column, n_tiles)
        if sides.size:
            return _told(sides, unit)
    return []


def _told(sides: NDArray[np.float64], unit: str) -> list[str]:
    known = sorted({f"{side:.4g}" for side in sides if side > 0}, key=float)
    lines = []
    if len(known) > 1:
        lines.append(
            f"stored pixels are of {len(known)} sizes, {', '.join(known)} {unit}, so objects of one kind differ in px. "
            "One store for each size is easier to learn from."
        )
    unknown = int(np.count_nonzero(sides == 0))
    if known and unknown:
        lines.append(f"{unknown} of {sides.size} tiles do not tell the size of their pixels, the others do")
    return lines
