"""Marker-positive cells where the run segments the positive cells themselves."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fintune_xr.analysis.kernels import thresholds as kernels
from fintune_xr.analysis.positivity.rules import DetectedRule, of_rule
from fintune_xr.names import N_ALL, N_POSITIVE, N_WITHOUT_NUCLEUS, REASON, THRESHOLD, TILE, X, Y

_NOT_IN_BOTH = "the tile is not done in both runs"
_COUNT = "count"


def count_nuclei(masks: xr.DataArray, nuclei: xr.DataArray) -> xr.DataArray:
    """Nuclei, instances with a nucleus, and instances without (tile, count), lazy.

    `masks` (tile, y, x) are the run's instances and `nuclei` (tile, y, x) those of the DAPI-only run on the same
    tiles. An instance has a nucleus where the centroid of one lies in it.
    """
    whole = {TILE: 1, Y: -1, X: -1}
    found: xr.DataArray = xr.apply_ufunc(
        kernels.nuclei_in_instances,
        masks.reset_coords(drop=True).chunk(whole),
        nuclei.reset_coords(drop=True).chunk(whole),
        input_core_dims=[[Y, X]] * 2,
        output_core_dims=[[_COUNT]],
        join="exact",
        dask="parallelized",
        output_dtypes=[np.int32],
        dask_gufunc_kwargs={"output_sizes": {_COUNT: 3}},
    )
    return found


def apply_detected(counts: xr.DataArray, tiles: xr.DataArray, *, rule: DetectedRule) -> xr.Dataset:
    """N_all, n_positive, n_without_nucleus, threshold and reason (rule, tile).

    `counts` come from `count_nuclei` for exactly the tiles done in both runs; `tiles` (tile) names all tiles of the
    cohort, and the others get -1. All cells are the nuclei; positive are the instances that hold one, so that the
    ratio is at most one. There is no threshold (NaN).
    """
    found = counts.reindex({TILE: tiles[TILE].to_numpy()}, fill_value=-1)
    parts = {name: found.isel({_COUNT: i}) for i, name in enumerate((N_ALL, N_POSITIVE, N_WITHOUT_NUCLEUS))}
    parts[THRESHOLD] = xr.full_like(parts[N_ALL], np.nan, np.float32)
    parts[REASON] = xr.full_like(parts[N_ALL], "", object).where(parts[N_ALL] >= 0, _NOT_IN_BOTH)
    return of_rule(parts, rule)
