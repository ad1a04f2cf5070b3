"""A region of tissue as statistics take it: its code, and its area in every tile whose regions are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import unknown_name
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.cell_table import region_names
from fintune_xr.text import text_array, texts


@dataclass(frozen=True, slots=True, eq=False)
class TissueRegion:
    """Code of a region, whether the regions of a tile (tile,) are known, and its area there (tile,), 0 where not."""

    code: int
    is_known: NDArray[np.bool_]
    area_px: NDArray[np.int64]


def tissue_region(cohort: Cohort, name: str) -> TissueRegion:
    """The stored region of that name.

    Raises StoreNotFoundError where no regions are stored, UnknownNameError for another name.
    """
    regions = cohort.regions(lazy=False)
    codes = {told: code for code, told in region_names(regions[n.REGION_MASK].attrs).items()}
    if name not in codes:
        raise unknown_name("region", name, codes)
    place = {tile: at for at, tile in enumerate(texts(regions[n.TILE]))}
    rows = np.array([place.get(tile, -1) for tile in text_array(cohort.images(lazy=False)[n.TILE]).tolist()], np.int64)
    area = regions[n.REGION_PX].values[:, texts(regions[n.REGION]).index(name)]
    return TissueRegion(codes[name], rows >= 0, np.where(rows >= 0, area[rows], 0))
