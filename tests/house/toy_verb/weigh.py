"""What a new verb does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fintune_xr import names as n
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import open_cohort


def weigh(store: str | Path, *, per: int = 1) -> dict[str, float]:
    """Counts of the first plane of each tile, by its id, `per` so many."""
    images = open_cohort(store).images(lazy=False)
    tiles = [str(tile) for tile in images[n.TILE].values]
    return {tile: float(np.sum(tile_pixels(images, at)[0])) / per for at, tile in enumerate(tiles)}
