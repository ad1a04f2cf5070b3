"""The part of a stored tile that holds pixels: arrays are as long as the largest tile, others lie in their corner."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final

import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n

SIDES: Final = {n.Z: n.DEPTH, n.Y: n.HEIGHT, n.X: n.WIDTH}
"""The coordinate that tells how long a tile is along each dim."""


def tile_pixels(tiles: xr.Dataset, at: int, variable: str = n.IMAGE) -> NDArray[Any]:
    """Pixels (…, y, x) of the tile at this position along `tile`, in memory, without what fills it up at its ends.

    `tiles` are images of a cohort, or a run or annotations with the sizes of their tiles.
    """
    array = tiles[variable].isel({n.TILE: at})
    return array.isel(real_part(tiles, array.dims, at)).values


def real_part(tiles: xr.Dataset, dims: Iterable[Hashable], at: int | tuple[()] = ()) -> dict[str, slice]:
    """The part of each of `dims` that holds pixels of the tile at this position, or of the only tile there is."""
    return {dim: slice(0, int(tiles[side].values[at])) for dim, side in SIDES.items() if dim in dims}
