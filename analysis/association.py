"""Does the donor ratio follow an outcome: Spearman correlation with Benjamini-Hochberg q-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.groups import of_donors
from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.analysis.kernels import permutation
from fintune_xr.datasets import ANALYSIS
from fintune_xr.errors import unknown_name
from fintune_xr.names import COVARIATE, DONOR, MARKER, OUTCOME, P_METHOD, P_RESOLUTION, REASON, RHO, N, P, Q

MIN_DONORS_FOR_Q: Final = 5
"""With 4 donors no two-sided p is below 0.083; a q of fewer would only make the family larger."""

_REASON_DTYPE = np.asarray(kernels.REASONS).dtype
_METHOD_DTYPE = np.asarray(permutation.METHODS).dtype


def associate(
    ratio: xr.DataArray,
    outcomes: xr.DataArray,
    *,
    covariates: xr.DataArray | None = None,
    family: Sequence[str] = (MARKER, OUTCOME),
) -> xr.Dataset:
    """Rho, p, q, n, reason, p_method and p_resolution (run, marker, outcome) of the donor ratio with each outcome.

    `ratio` (run, donor, marker); `outcomes` (donor, outcome), of which donors may be missing; a NaN on either
    side leaves the donor out for that pair. p is two-sided, from permutations of the donors where there are few or
    ties matter and from Student's t beyond (`kernels.permutation`); `p_method` says which, `p_resolution` is the
    smallest p that it can tell. q is adjusted jointly along the dims `family` (kept in its attributes), other dims
    being separate families; a pair with fewer than MIN_DONORS_FOR_Q donors has no q and is in no family. With
    `covariates` (donor, covariate) rho is the partial Spearman correlation, over donors that have all of them. Where
    there is no rho, `reason` says why.

    Raises UnknownNameError if `family` names a dim that the result does not have.
    """
    sides, core = _sides(ratio, outcomes, covariates)
    rho, p, n, reason, method, resolution = xr.apply_ufunc(
        _tested,
        *sides,
        input_core_dims=core,
        output_core_dims=[[]] * 6,
        dask="parallelized",
        output_dtypes=[np.float64, np.float64, np.int32, _REASON_DTYPE, _METHOD_DTYPE, np.float64],
    )
    q = q_values(p.where(n >= MIN_DONORS_FOR_Q), family=family)
    parts = {RHO: rho, P: p, Q: q, N: n, REASON: reason, P_METHOD: method, P_RESOLUTION: resolution}
    result = xr.Dataset({name: part.assign_attrs(ANALYSIS[name].attrs) for name, part in parts.items()})
    result[Q].attrs["family"] = list(family)
    adjusted = [] if covariates is None else [str(name) for name in covariates[COVARIATE].to_numpy()]
    return result.assign_attrs(family=list(family), covariates=adjusted)


def rank_correlation(
    ratio: xr.DataArray, outcomes: xr.DataArray, *, covariates: xr.DataArray | None = None
) -> xr.DataArray:
    """Rho (..., marker, outcome) as in `associate`, without a test."""
    sides, core = _sides(ratio, outcomes, covariates)
    rho: xr.DataArray = xr.apply_ufunc(
        _rho, *sides, input_core_dims=core, dask="parallelized", output_dtypes=[np.float64]
    )
    return rho.assign_attrs(ANALYSIS[RHO].attrs)


def _sides(
    ratio: xr.DataArray, outcomes: xr.DataArray, covariates: xr.DataArray | None
) -> tuple[list[xr.DataArray], list[list[str]]]:
    """What is correlated, brought to the donors of `ratio`, and the dims that are consumed."""
    donors = ratio[DONOR]
    sides, core = [ratio, of_donors(outcomes, donors)], [[DONOR], [DONOR]]
    if covariates is not None:
        sides.append(of_donors(covariates, donors))
        core.append([DONOR, COVARIATE])
    return sides, core


def q_values(p: xr.DataArray, *, family: Sequence[str]) -> xr.DataArray:
    """Benjamini-Hochberg q-values of `p`, adjusted jointly along the dims `family`; same dims as `p`.

    Other dims are separate families. NaN p-values are in no family and stay NaN.

    Raises UnknownNameError if `family` names a dim that `p` does not have.
    Reference: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289.
    """
    for dim in family:
        if dim not in p.dims:
            raise unknown_name("dim for the family of tests", dim, map(str, p.dims))
    if p.chunks is not None:
        p = p.chunk(dict.fromkeys(family, -1))  # a family is a few hundred numbers
    q: xr.DataArray = xr.apply_ufunc(
        _q_block,
        p,
        kwargs={"n_dims": len(family)},
        input_core_dims=[list(family)],
        output_core_dims=[list(family)],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return q.transpose(*p.dims)


def _q_block(p: NDArray[np.float64], *, n_dims: int) -> NDArray[np.float64]:
    flat = p.reshape(*p.shape[: p.ndim - n_dims], -1)
    return kernels.fdr_bh(flat).reshape(p.shape)


def _correlated(
    ratio: NDArray[Any], outcome: NDArray[Any], covariates: NDArray[Any] | None = None
) -> kernels.Correlation:
    if covariates is None:
        return kernels.spearman(ratio, outcome)
    return kernels.partial_spearman(ratio, outcome, covariates)


def _rho(ratio: NDArray[Any], outcome: NDArray[Any], covariates: NDArray[Any] | None = None) -> NDArray[np.float64]:
    return _correlated(ratio, outcome, covariates).rho


def _tested(
    ratio: NDArray[Any], outcome: NDArray[Any], covariates: NDArray[Any] | None = None
) -> tuple[NDArray[Any], ...]:
    found = _correlated(ratio, outcome, covariates)
    p, method, resolution = permutation.permutation_p(ratio, outcome, found, covariates)
    reason = np.asarray(kernels.REASONS)[found.code]
    return found.rho, p, found.n, reason, np.asarray(permutation.METHODS)[method], resolution
