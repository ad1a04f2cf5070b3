"""The fraction of marker-positive cells of each donor, from the counts of its tiles and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.groups import TileGroups, tile_groups, with_runs
from fintune_xr.datasets import ANALYSIS
from fintune_xr.names import DONOR, MARKER, N_ALL, N_POSITIVE, N_TILES, RATIO, RATIO_HIGH, RATIO_LOW, RUN, TILE

_SUM = "sum"


def marker_ratio(n_positive: xr.DataArray, n_all: xr.DataArray) -> xr.Dataset:
    """Ratio, n_positive, n_all and n_tiles (run, donor, marker): sums of cells over the tiles of each donor.

    `n_positive` and `n_all` (tile) or (run, tile) carry `donor` and `marker` along `tile`. A tile where
    either is negative (not done, quarantined, no threshold) is left out of all sums. The ratio is NaN without
    cells.

    Raises FintuneValueError where the coordinates are missing.
    """
    groups = tile_groups(n_all)
    sums = xr.apply_ufunc(
        _group_sums,
        with_runs(n_positive),
        with_runs(n_all),
        kwargs={"groups": groups},
        input_core_dims=[[TILE], [TILE]],
        output_core_dims=[[DONOR, MARKER, _SUM]],
        exclude_dims={TILE},
        join="exact",
        dask="parallelized",
        output_dtypes=[np.int64],
        dask_gufunc_kwargs={"output_sizes": _sizes(groups) | {_SUM: 3}},
    ).assign_coords({DONOR: groups.donors, MARKER: groups.markers})
    positive, total, tiles = (sums.isel({_SUM: i}) for i in range(3))
    parts = {
        RATIO: positive / total.where(total > 0),
        N_POSITIVE: positive,
        N_ALL: total,
        N_TILES: tiles.astype(np.int32),
    }
    return xr.Dataset({name: part.assign_attrs(ANALYSIS[name].attrs) for name, part in parts.items()})


def ratio_bounds(ratio: xr.Dataset, quarantined: xr.DataArray) -> xr.Dataset:
    """Ratio_low and ratio_high (run, donor, marker): the ratio had the quarantined tiles been read.

    `ratio` comes from `marker_ratio`; `quarantined` (tile) or (run, tile) is true where a tile was lost. Each
    lost tile is given the mean number of cells of the donor's other tiles, none of them positive or all of
    them. Both are NaN where the ratio is.

    Raises FintuneValueError where the coordinates are missing.
    """
    groups = tile_groups(quarantined)
    lost = xr.apply_ufunc(
        _lost_tiles,
        with_runs(quarantined),
        kwargs={"groups": groups},
        input_core_dims=[[TILE]],
        output_core_dims=[[DONOR, MARKER]],
        dask="parallelized",
        output_dtypes=[np.int64],
        dask_gufunc_kwargs={"output_sizes": _sizes(groups)},
    ).assign_coords({DONOR: groups.donors, MARKER: groups.markers})
    lost = lost.reindex({DONOR: ratio[DONOR], MARKER: ratio[MARKER]}, fill_value=0)
    if lost.sizes[RUN] == 1 and RUN not in quarantined.dims:
        lost = lost.isel({RUN: 0}, drop=True)
    share = ratio[N_TILES] / (ratio[N_TILES] + lost)
    low = ratio[RATIO] * share
    high = low + (1 - share).where(ratio[RATIO].notnull())
    return xr.Dataset(
        {
            RATIO_LOW: low.assign_attrs(long_name="Ratio if no cell of the quarantined tiles were positive."),
            RATIO_HIGH: high.assign_attrs(long_name="Ratio if every cell of the quarantined tiles were positive."),
        }
    )


def _sizes(groups: TileGroups) -> dict[str, int]:
    return {DONOR: groups.donors.size, MARKER: groups.markers.size}


def _group_sums(n_positive: NDArray[Any], n_all: NDArray[Any], *, groups: TileGroups) -> NDArray[np.int64]:
    known = (n_positive >= 0) & (n_all >= 0)
    parts = (np.where(known, n_positive, 0), np.where(known, n_all, 0), known)
    return np.stack([_summed(part, groups) for part in parts], axis=-1)


def _lost_tiles(quarantined: NDArray[Any], *, groups: TileGroups) -> NDArray[np.int64]:
    return _summed(quarantined, groups)


def _summed(values: NDArray[Any], groups: TileGroups) -> NDArray[np.int64]:
    """Sums (..., donor, marker) of `values` (..., tile)."""
    sums = np.zeros((groups.donors.size * groups.markers.size, *values.shape[:-1]), np.int64)
    np.add.at(sums, groups.group_of_tile, np.moveaxis(values, -1, 0).astype(np.int64))
    return np.moveaxis(sums, 0, -1).reshape(*values.shape[:-1], *groups.shape)
