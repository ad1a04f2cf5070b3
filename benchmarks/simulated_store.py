"""Stores of any number of tiny tiles, for what depends on the number of tiles and not on their pixels."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_column

TILES_PER_DONOR = 100


def create_store(path: Path, n_tiles: int, *, side: int) -> Cohort:
    """A cohort of `n_tiles` tiles of `side` px, a hundred per donor; all hold the same pixels.

    Labels are written at once, not shard by shard as an ingest does: a hundred thousand tiles in seconds.
    """
    channels = [n.DAPI, n.MARKER_CHANNEL]
    cohort = create_cohort(path, kind="if", channels=channels, tile_shape=(side, side), dtype="uint16")
    target = cohort.images_group()
    pixels = np.random.default_rng(0).poisson(300, (len(channels), side, side)).astype(np.uint16)
    encoded, size = shards.encode_tile(pixels, target.grid), target.grid.tiles_per_shard
    for shard, first in enumerate(range(0, n_tiles, size)):
        shards.write_shard(cohort.location, target.grid, shard, repeat(encoded, min(size, n_tiles - first)))
    told = _labels(n_tiles, side)
    for name, spec in target.labels.items():
        column = open_column(cohort.location, f"{n.IMAGES}/{name}")
        column.resize((n_tiles, *column.shape[1:]))
        column[:] = told.get(name, "" if spec.dtype == "str" else 0)
    array = open_column(cohort.location, f"{n.IMAGES}/{n.IMAGE}")
    array.resize((n_tiles, *array.shape[1:]))
    return cohort


def _labels(n_tiles: int, side: int) -> dict[str, Any]:
    donors = [f"donor-{tile // TILES_PER_DONOR:03d}" for tile in range(n_tiles)]
    tiles = [f"{donor}/GFAP/tile-{tile:06d}" for tile, donor in enumerate(donors)]
    sources = [[f"{tile}_b0c0.tif", f"{tile}_b0c1.tif"] for tile in tiles]
    text = {
        n.TILE: tiles, n.DONOR: donors, n.MARKER: ["GFAP"] * n_tiles, n.SPLIT: [""] * n_tiles,
        n.SOURCE: sources, n.SHA256: [["0" * 64] * 2] * n_tiles,
    }  # fmt: skip
    lengths = {n.HEIGHT: side, n.WIDTH: side}
    return {
        **{name: np.array(values, np.dtypes.StringDType()) for name, values in text.items()},
        **{name: np.full(n_tiles, length) for name, length in lengths.items()},
    }
