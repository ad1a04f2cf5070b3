"""Mean donor ratios of a run, and their paired differences between runs, with intervals over donors."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.errors import unknown_name
from fintune_xr.metrics.donor_tests import jackknife_interval, sign_flip_p
from fintune_xr.names import DONOR, RUN, N, P

MEAN: Final = "mean"
LOW: Final = "low"
HIGH: Final = "high"
N_FLIPS: Final = 99_999
"""Sign flips drawn where donors are too many to try all; p cannot be below 1 / 100,000 there."""


def mean_ratio(ratio: xr.DataArray) -> xr.Dataset:
    """Mean of `ratio` (..., donor, ...) over donors that have one, low, high and n; other dims stay.

    The interval is Student's t over donors at 95 %, within 0 to 1; NaN below 4 donors.
    """
    found = _mean_over_donors(ratio)
    return found.assign({LOW: found[LOW].clip(0, 1), HIGH: found[HIGH].clip(0, 1)})


def ratio_differences(ratio: xr.DataArray, *, baseline: str) -> xr.Dataset:
    """Mean of ratio(run) - ratio(`baseline`) over donors that have both, for every other run: mean, low, high, n, p.

    `ratio` (run, donor, ...). The same donor is compared with itself; p flips the signs of donors. NaN below 4 donors.

    Raises UnknownNameError for a baseline that is no run.
    """
    runs = [str(run) for run in ratio[RUN].to_numpy()]
    if baseline not in runs:
        raise unknown_name("run", baseline, runs)
    others = ratio.sel({RUN: [run for run in runs if run != baseline]})
    paired = others - ratio.sel({RUN: baseline}, drop=True)
    p = xr.apply_ufunc(
        sign_flip_p,
        paired,
        kwargs={"n_flips": N_FLIPS, "seed": 0},
        input_core_dims=[[DONOR]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return _mean_over_donors(paired).assign({P: p}).assign_attrs(baseline=baseline)


def _mean_over_donors(values: xr.DataArray) -> xr.Dataset:
    mean, low, high = xr.apply_ufunc(
        _mean_block,
        values,
        input_core_dims=[[DONOR]],
        output_core_dims=[[]] * 3,
        dask="parallelized",
        output_dtypes=[np.float64] * 3,
    )
    return xr.Dataset({MEAN: mean, LOW: low, HIGH: high, N: values.notnull().sum(DONOR)})


def _mean_block(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    has = ~np.isnan(values)
    n, total = has.sum(axis=-1), np.where(has, values, 0.0).sum(axis=-1)
    mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    without = (total[..., None] - np.where(has, values, 0.0)) / np.maximum(n - 1, 1)[..., None]
    ends = jackknife_interval(mean, without, has)
    return mean, ends[..., 0], ends[..., 1]
