"""The labels of any dataset that holds some, as those of images have them: names along dims, tiles with their donor."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec

import xarray as xr
from xarray.indexes import PandasIndex

from fintune_xr import names as n
from fintune_xr.store.labels.group_index import GroupIndex
from fintune_xr.store.zarr_io.groups import with_dim_indexes

INDEXED: Final = (n.DONOR, n.MARKER, n.SPLIT)

P = ParamSpec("P")


def with_named_labels(dataset: xr.Dataset) -> xr.Dataset:
    """`dataset` with the index of tiles where there are some, and one that knows its names for each dim of names.

    Whatever is selected of it is asked for, and refused, as it is of images and runs.
    """
    plain = [
        name
        for name, index in dataset.xindexes.items()
        if type(index) is PandasIndex and dataset[name].dtype.kind in "OU"
    ]
    return with_tile_index(dataset.drop_indexes(plain)) if plain or n.TILE in dataset.coords else dataset


def with_tile_index(dataset: xr.Dataset) -> xr.Dataset:
    """`dataset` with one index over tile, donor, marker, split, field: `.sel(donor=…, marker=…)` takes any of them."""
    if any(isinstance(index, GroupIndex) for index in dataset.xindexes.values()):
        return with_dim_indexes(dataset)
    of_tiles = (n.TILE, *INDEXED, n.FIELD) if n.TILE in dataset.dims else ()
    names = [name for name in of_tiles if name in dataset.coords and dataset[name].dims == (n.TILE,)]
    if n.TILE not in names:
        return with_dim_indexes(dataset)
    return with_dim_indexes(dataset.drop_indexes(names, errors="ignore").set_xindex(names, GroupIndex))


def gives_named_labels(verb: Callable[P, xr.Dataset]) -> Callable[P, xr.Dataset]:
    """`verb`, which gives its dataset with such labels."""

    @wraps(verb)
    def called(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
        return with_named_labels(verb(*args, **kwargs))

    return called
