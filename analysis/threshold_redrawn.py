"""Rho over donors drawn anew, with the threshold of positivity found anew among the cells of those donors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import ALL_SCHEMES, DONORS_THRESHOLD, P_OF_RESAMPLES, drawn_donors, rho_over_draws
from fintune_xr.analysis.groups import of_donors
from fintune_xr.analysis.kernels import thresholds as kernels
from fintune_xr.datasets import BOOTSTRAP
from fintune_xr.errors import FintuneValueError
from fintune_xr.schema import check_dataset

FITS: Final = {"otsu": kernels.otsu, "mixture": kernels.mixture}
"""Rules whose threshold is that of all cells of a marker, so that other donors move it."""


def resample_thresholds(
    histogram: xr.DataArray,
    n_all: xr.DataArray,
    outcomes: xr.DataArray,
    *,
    rules: Mapping[str, str],
    n_resamples: int,
    seed: int,
    first: int = 0,
    covariates: xr.DataArray | None = None,
) -> xr.Dataset:
    """Ratio (resample, run, donor, marker), rho and p (resample, run, marker, outcome) as `bootstrap.resample`, lazy.

    `histogram` (run, donor, marker, bin) are cells by log(1 + signal), `n_all` (run, donor, marker) all cells, both in
    memory; `rules` names the rule of each run, otsu or mixture. Donors are those that the scheme `donors` draws with
    this seed, so that the two are compared resample by resample. A positive cell lies in a bin whose centre is above
    the threshold: with Otsu's, which is an edge of a bin, that is exact.

    Raises FintuneValueError for a rule that no other donors move.
    """
    wrong = {run: rule for run, rule in rules.items() if rule not in FITS}
    if wrong:
        raise FintuneValueError(
            f"scheme {DONORS_THRESHOLD}: the rules {', '.join(sorted(set(wrong.values())))} of {', '.join(wrong)} have "
            "no threshold that other donors would move. Use the scheme donors."
        )
    index, drawn = drawn_donors(histogram[n.DONOR], n_resamples=n_resamples, seed=seed, first=first)
    fits = [rules[str(run)] for run in histogram[n.RUN].values]
    ratio: xr.DataArray = xr.apply_ufunc(
        _ratios,
        drawn,
        histogram,
        n_all,
        kwargs={"fits": fits},
        input_core_dims=[[n.DONOR], [n.RUN, n.DONOR, n.MARKER, n.BIN], [n.RUN, n.DONOR, n.MARKER]],
        output_core_dims=[[n.RUN, n.DONOR, n.MARKER]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    ratio = ratio.assign_coords({name: histogram[name] for name in (n.RUN, n.DONOR, n.MARKER)})
    tables = [outcomes.transpose(n.DONOR, n.OUTCOME)]
    tables += [] if covariates is None else [covariates.transpose(n.DONOR, n.COVARIATE)]
    rho, p = rho_over_draws(ratio, drawn, [of_donors(table, histogram[n.DONOR].values) for table in tables])
    parts = {n.RATIO_RESAMPLED: ratio.where(drawn > 0), n.RHO_RESAMPLED: rho, n.P_RESAMPLED: p, n.N_DRAWN: drawn}
    named = {name: part.assign_attrs(BOOTSTRAP[name].attrs) for name, part in parts.items()}
    facts: dict[str, Any] = {"scheme": DONORS_THRESHOLD, "scheme_meaning": ALL_SCHEMES[DONORS_THRESHOLD], "seed": seed}
    facts[n.P_METHOD] = P_OF_RESAMPLES
    if covariates is not None:
        facts["covariates"] = [str(name) for name in covariates[n.COVARIATE].to_numpy()]
    found = xr.Dataset(named, attrs=facts).assign_coords({n.RESAMPLE: index[n.RESAMPLE]})
    return check_dataset(found.transpose(n.RESAMPLE, n.RUN, n.DONOR, n.MARKER, n.OUTCOME), BOOTSTRAP)


def _ratios(
    drawn: NDArray[np.int32], histogram: NDArray[np.int64], n_all: NDArray[Any], *, fits: list[str]
) -> NDArray[np.float64]:
    """Ratio (resample, run, donor, marker) with the thresholds of the donors drawn (resample, donor)."""
    flat = drawn.reshape(-1, drawn.shape[-1])
    above = np.concatenate([np.cumsum(histogram[..., ::-1], axis=-1)[..., ::-1], np.zeros_like(histogram[..., :1])], -1)
    found = np.full((len(flat), *n_all.shape), np.nan)
    for row, times in enumerate(flat):
        pooled = np.einsum("d,rdmb->rmb", times, histogram)
        for run, rule in enumerate(fits):
            limits = np.log1p(FITS[rule](pooled[run]).counts)
            for marker, limit in enumerate(limits):
                if not np.isnan(limit):
                    first = int(np.searchsorted(kernels.CENTRES, limit, side="right"))
                    found[row, run, :, marker] = above[run, :, marker, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_all > 0, found / n_all, np.nan).reshape(*drawn.shape[:-1], *n_all.shape)
