"""What the stored images say of themselves to viewers: axes, sizes of pixels, and how their channels are shown."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.real_part import real_part
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.ome_zarr import (
    describe,
    few_pixels,
    image_ome,
    pixel_sides,
    ranges_of,
    sample_positions,
    shown_channels,
    stored_ome,
)
from fintune_xr.store.zarr_io.tile_reader import TileReader
from fintune_xr.text import texts


def describe_images(cohort: Cohort) -> None:
    """Writes `ome` of the images where tiles were added since it was written, or it is not there yet.

    A few tiles are read for the range of values that is shown.
    """
    images = cohort.images(lazy=False)
    n_tiles = images.sizes[n.TILE]
    if not n_tiles or _n_described(cohort) == n_tiles:
        return
    ome = image_ome(cohort.title, [str(dim) for dim in images[n.IMAGE].dims], pixel_sides(images))
    ome["multiscales"][0]["metadata"] = {n.N_TILES: n_tiles}
    channels = shown_channels(texts(images[n.CHANNEL]), _ranges(cohort, images), np.dtype(images[n.IMAGE].dtype))
    describe(cohort.location, n.IMAGES, {**ome, "omero": {"channels": channels}})


def _ranges(cohort: Cohort, images: xr.Dataset) -> list[tuple[float, float]]:
    """Shown values of each channel: all of a byte, and of wider pixels those that some tiles hold."""
    if images[n.IMAGE].dtype == np.uint8:
        return [(0.0, 255.0)] * images.sizes[n.CHANNEL]
    reader, dims = TileReader(cohort.location, f"{n.IMAGES}/{n.IMAGE}"), images[n.IMAGE].dims[1:]

    def looked_at(at: int) -> NDArray[Any]:
        real = real_part(images, dims, at)
        return few_pixels(reader[at][tuple(real.get(str(dim), slice(None)) for dim in dims)])

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return ranges_of(list(pool.map(looked_at, sample_positions(images.sizes[n.TILE]))))


def _n_described(cohort: Cohort) -> int:
    told: list[dict[str, Any]] = stored_ome(cohort.location, n.IMAGES).get("multiscales", [])
    return int(told[0]["metadata"][n.N_TILES]) if told else 0
