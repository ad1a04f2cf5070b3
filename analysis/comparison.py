"""What the resamples say: intervals, stability of sign and significance, and paired differences of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.association import q_values
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.names import MARKER, OUTCOME, P_RESAMPLED, RESAMPLE, RHO_RESAMPLED, RUN

MIDDLE = "middle"
LOW = "low"
HIGH = "high"
N_RESAMPLES = "n_resamples"
SIGN_CONSISTENCY = "sign_consistency"
SHARE_SIGNIFICANT = "share_significant"
SHARE_DISCOVERED = "share_discovered"
SHARE_HIGHER = "share_higher"
DIFFERS = "differs"

_MEANINGS = {
    MIDDLE: "Median over the resamples.",
    LOW: "Lower end of the percentile interval.",
    HIGH: "Upper end of the percentile interval.",
    N_RESAMPLES: "Resamples in which the correlation exists.",
    SIGN_CONSISTENCY: "Share of the resamples whose rho has the sign that most of them have.",
    SHARE_SIGNIFICANT: "Share of the resamples with p <= alpha.",
    SHARE_DISCOVERED: "Share of the resamples with q <= alpha, adjusted within the resample.",
    SHARE_HIGHER: "Share of the resamples in which the other run has the higher rho.",
    DIFFERS: "The interval of the difference leaves out zero.",
}


def summarise(resampled: xr.Dataset, *, alpha: float = 0.05, family: Sequence[str] = (MARKER, OUTCOME)) -> xr.Dataset:
    """Interval, stability of sign, and share of significant resamples (run, marker, outcome) of rho.

    Variables: middle (the median), low, high, n_resamples, sign_consistency, share_significant,
    share_discovered. `resampled` comes from `bootstrap.resample`. The interval runs from the alpha/2 to the 1
    - alpha/2 quantile of rho (2.5 to 97.5 % by default). share_significant counts p <= alpha,
    share_discovered q <= alpha with p adjusted along `family` within each resample. Resamples without a rho
    are left out; all is NaN where none has one.

    Raises FintuneValueError unless 0 < alpha < 1.
    """
    rho, p = resampled[RHO_RESAMPLED], resampled[P_RESAMPLED]
    q = q_values(p, family=family)
    parts = _interval(rho, alpha) | {
        SIGN_CONSISTENCY: xr.ufuncs.maximum(_share(rho > 0, rho), _share(rho < 0, rho)),
        SHARE_SIGNIFICANT: _share(p <= alpha, p),
        SHARE_DISCOVERED: _share(q <= alpha, q),
    }
    return _described(parts).assign_attrs(resampled.attrs, alpha=alpha, family=list(family))


def compare_runs(resampled: xr.Dataset, *, baseline: str, other: str, alpha: float = 0.05) -> xr.Dataset:
    """Paired difference rho(other) - rho(baseline) (marker, outcome) with its interval.

    Variables: middle (the median), low, high, n_resamples, share_higher, differs. The difference is taken
    within each resample, in which both runs see the same tiles and donors; the interval is the percentile
    interval at level 1 - alpha. Where no resample has both, all is NaN and `differs` is false.

    Raises UnknownNameError for a run that was not resampled, FintuneValueError unless 0 < alpha < 1.
    """
    runs = [str(name) for name in resampled[RUN].to_numpy()]
    for name in (baseline, other):
        if name not in runs:
            raise unknown_name("resampled run", name, runs)
    rho = resampled[RHO_RESAMPLED]
    difference = rho.sel({RUN: other}, drop=True) - rho.sel({RUN: baseline}, drop=True)
    parts = _interval(difference, alpha)
    parts[SHARE_HIGHER] = _share(difference > 0, difference)
    parts[DIFFERS] = (parts[LOW] > 0) | (parts[HIGH] < 0)
    return _described(parts).assign_attrs(resampled.attrs, alpha=alpha, baseline=baseline, other=other)


def without_few(summary: xr.Dataset, enough: xr.DataArray) -> xr.Dataset:
    """`summary` without the ends of intervals, and without a difference, where there are not `enough` donors."""
    kept = summary.assign({name: summary[name].where(enough) for name in (LOW, HIGH)})
    return kept.assign({DIFFERS: summary[DIFFERS] & enough}) if DIFFERS in summary else kept


def _interval(values: xr.DataArray, alpha: float) -> dict[str, xr.DataArray]:
    if not 0 < alpha < 1:
        raise FintuneValueError(f"expected alpha between 0 and 1, got {alpha}; 0.05 gives a 95 % interval")
    levels = (alpha / 2, 0.5, 1 - alpha / 2)
    low, median, high = xr.apply_ufunc(
        _quantiles,
        _in_one_chunk(values),
        kwargs={"levels": levels},
        input_core_dims=[[RESAMPLE]],
        output_core_dims=[[]] * 3,
        dask="parallelized",
        output_dtypes=[np.float64] * 3,
    )
    return {MIDDLE: median, LOW: low, HIGH: high, N_RESAMPLES: values.notnull().sum(RESAMPLE)}


def _quantiles(values: NDArray[Any], *, levels: tuple[float, ...]) -> tuple[NDArray[np.float64], ...]:
    """Quantiles along the last axis without its NaNs; NaN where there is nothing else."""
    missing = np.isnan(values).all(axis=-1)
    found = np.nanquantile(np.where(missing[..., None], 0.0, values), levels, axis=-1)
    return tuple(np.where(missing, np.nan, level) for level in found)


def _share(hit: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    return hit.where(values.notnull()).mean(RESAMPLE)


def _in_one_chunk(values: xr.DataArray) -> xr.DataArray:
    # One number per resample and pair: 10,000 resamples of 80 pairs are 6 MB.
    return values.chunk({RESAMPLE: -1}) if values.chunks is not None else values


def _described(parts: dict[str, xr.DataArray]) -> xr.Dataset:
    return xr.Dataset({name: part.assign_attrs(units="1", long_name=_MEANINGS[name]) for name, part in parts.items()})
