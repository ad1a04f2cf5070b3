"""Parts of the split as they are read: what has not been assigned has a name, and is stored without one."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fintune_xr import names as n


def with_part_names(tiles: xr.Dataset) -> xr.Dataset:
    """`tiles` whose coordinate `split` (tile,) says `unassigned` where the store holds an empty string.

    Where no tile has a part the one word is held once, and cannot be written to: a million copies are 40 MB.
    """
    if n.SPLIT not in tiles.coords:
        return tiles
    split = tiles[n.SPLIT].variable
    is_bare = split.values == ""
    if is_bare.all():
        named = np.broadcast_to(np.array(n.UNASSIGNED), split.shape)
    else:
        named = np.where(is_bare, n.UNASSIGNED, split.values)
    return tiles.assign_coords({n.SPLIT: split.copy(data=named)})
