"""Intervals as they are stored beside scores."""

from __future__ import annotations

import math

import xarray as xr

from fintune_xr import names as n


def ends(scores: xr.Dataset, name: str) -> tuple[float, float]:
    """Ends of the stored interval of a score; NaN where a single donor or micrograph gave none."""
    if f"{name}_{n.INTERVAL}" not in scores:
        return float("nan"), float("nan")
    low, high = scores[f"{name}_{n.INTERVAL}"].values[[0, -1]]
    return float(low), float(high)


def interval_of(scores: xr.Dataset, name: str) -> xr.DataArray:
    """The stored interval of a score, NaN where there is none."""
    if f"{name}_{n.INTERVAL}" in scores:
        return scores[f"{name}_{n.INTERVAL}"]
    return xr.full_like(scores[name], math.nan, dtype=float).expand_dims({n.QUANTILE: 2}, axis=-1)


def level(scores: xr.Dataset) -> str:
    """How much of the resamples an interval holds, as per cent."""
    if n.QUANTILE not in scores.coords:
        return "missing"
    low, high = scores[n.QUANTILE].values[[0, -1]]
    return f"{100 * (high - low):.0f}\u202f%"
