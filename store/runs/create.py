"""A run made, grown with its cohort, and thrown away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
import zarr

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.columns import Sizes, create_columns, grow_columns, stored_columns
from fintune_xr.store.runs.object_log import CellLog
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import (
    ensure_group,
    group_attrs,
    open_column,
    open_writable,
    read_column,
    remove_group,
)
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.tasks.product import Product
from fintune_xr.text import texts

SHARDS_WANTED = 64


def tiles_per_shard(n_tiles: int) -> int:
    """Tiles in one shard of a new run: about 64 shards, and never more than 256 tiles in one; a shard is one task."""
    return min(max(math.ceil(n_tiles / SHARDS_WANTED), 1), shards.MAX_TILES_PER_SHARD)


def create_run(
    cohort: Cohort,
    name: str,
    product: Product,
    sizes: Sizes,
    array_attrs: Mapping[str, Mapping[str, Any]],
    stated: Mapping[str, Any],
) -> None:
    """Makes the run `name` of the tiles of now, all of them pending; whole at the end.

    The run has the attributes `stated`, and its arrays `array_attrs`. `sizes` tells what lies along the further dims of
    columns. A run without pixels is settled how many tiles are one task, and counts the tiles that it has grown to.

    Raises FintuneValueError where `sizes` does not fit the product.
    """
    images = cohort.images(lazy=False)
    path = f"{n.RUNS}/{name}"
    tiles = np.asarray(texts(images[n.TILE]), np.dtypes.StringDType())
    per_shard = tiles_per_shard(tiles.size)
    settled = {n.TILES_PER_SHARD: per_shard, n.N_TILES: tiles.size} if product.array is None else {}
    ensure_group(cohort.location, n.RUNS)
    with explain_write_errors(f"{cohort.url}/{path}"):
        attrs = group_attrs(product.run, **{**stated, n.CREATION: uuid4().hex, **settled, n.COMPLETE: False})
        group = ensure_group(cohort.location, path, attrs)
        if product.array is not None:
            _create_pixels(group, product, images, per_shard)
        planes: Sizes = {n.CHANNEL: texts(images[n.CHANNEL])} if n.CHANNEL in product.run.coords else {}
        create_columns(cohort.location, group, product, {**planes, **sizes}, tiles)
        _set_attrs(group, array_attrs)
        open_writable(cohort.location, path).attrs[n.COMPLETE] = True


def _set_attrs(group: zarr.Group, array_attrs: Mapping[str, Mapping[str, Any]]) -> None:
    for array, told in array_attrs.items():
        group[array].attrs.update(told)


def _create_pixels(group: zarr.Group, product: Product, images: xr.Dataset, per_shard: int) -> None:
    name, spec = str(product.array), product.pixels
    shape = tuple(images.sizes[dim] for dim in spec.dims)
    grid = shards.plan_grid(f"{group.path}/{name}", spec.dtype, shape[1:], per_shard)
    grid = replace(grid, filler=product.initial(name))
    shards.create_sharded(group, name, grid, shape=shape, dims=spec.dims, attrs=spec.attrs)


def grow_run(cohort: Cohort, name: str, product: Product) -> dict[str, zarr.Array[Any]]:
    """Adds the tiles that the cohort has gained; what tells how many there are last, so that a kill is mended.

    Returns the columns of the run for writing, `state` last.
    """
    path = f"{n.RUNS}/{name}"
    names = stored_columns(cohort.location, path, product)
    columns = {c: open_column(cohort.location, f"{path}/{c}") for c in names}
    others = [cohort.location.array(f"{path}/{c}") for c in (n.TILE, product.array) if c is not None]
    lengths = [array.shape[0] for array in (*columns.values(), *others)]
    if product.array is None:
        lengths.append(int(cohort.run_attrs(name)[n.N_TILES]))
    before, after = min(lengths), cohort.images_group().n_tiles
    if before == after:
        return columns
    tiles = read_column(cohort.location, f"{n.IMAGES}/{n.TILE}", slice(before, after))
    with explain_write_errors(f"{cohort.url}/{path}"):
        grow_columns(cohort.location, path, product, tiles, before=before)
        if product.array is None:
            open_writable(cohort.location, path).attrs[n.N_TILES] = after
        else:
            pixels = open_column(cohort.location, f"{path}/{product.array}")
            pixels.resize((after, *pixels.shape[1:]))
    return {c: open_column(cohort.location, f"{path}/{c}") for c in names}


def remove_run(cohort: Cohort, name: str) -> None:
    """Removes a run with its cells, counts and unfinished log."""
    paths = [f"{group}/{name}" for group in (n.RUNS, n.CELLS, n.POSITIVITY, n.MEASUREMENTS)]
    for path in paths:
        remove_group(cohort.location, path)
    CellLog(cohort.location, name).remove()
