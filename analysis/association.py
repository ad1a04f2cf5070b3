"""Does the donor ratio follow an outcome: Spearman correlation with Benjamini-Hochberg q-values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.groups import of_donors
from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.datasets import ANALYSIS
from fintune_xr.errors import unknown_name
from fintune_xr.names import COVARIATE, DONOR, MARKER, OUTCOME, REASON, RHO, N, P, Q

_REASON_DTYPE = np.asarray(kernels.REASONS).dtype


def associate(
    ratio: xr.DataArray,
    outcomes: xr.DataArray,
    *,
    covariates: xr.DataArray | None = None,
    family: Sequence[str] = (MARKER, OUTCOME),
) -> xr.Dataset:
    """Rho, p, q, n and reason (run, marker, outcome) of the donor ratio with each outcome.

    `ratio` (run, donor, marker); `outcomes` (donor, outcome), of which donors may be missing; a NaN on either
    side leaves the donor out for that pair. p is two-sided from Student's t; q is adjusted jointly along the
    dims `family` (kept in its attributes), other dims being separate families. With `covariates` (donor,
    covariate) rho is the partial Spearman correlation, over donors that have all of them. Where there is no
    rho, `reason` says why.

    Raises UnknownNameError if `family` names a dim that the result does not have.
    """
    donors = ratio[DONOR]
    sides = [ratio, of_donors(outcomes, donors)]
    core = [[DONOR], [DONOR]]
    block: Callable[..., tuple[NDArray[Any], ...]] = _spearman
    if covariates is not None:
        sides.append(of_donors(covariates, donors))
        core.append([DONOR, COVARIATE])
        block = _partial_spearman
    rho, p, n, reason = xr.apply_ufunc(
        block,
        *sides,
        input_core_dims=core,
        output_core_dims=[[]] * 4,
        dask="parallelized",
        output_dtypes=[np.float64, np.float64, np.int32, _REASON_DTYPE],
    )
    parts = {RHO: rho, P: p, Q: q_values(p, family=family), N: n, REASON: reason}
    result = xr.Dataset({name: part.assign_attrs(ANALYSIS[name].attrs) for name, part in parts.items()})
    result[Q].attrs["family"] = list(family)
    adjusted = [] if covariates is None else [str(name) for name in covariates[COVARIATE].to_numpy()]
    return result.assign_attrs(family=list(family), covariates=adjusted)


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


def _spearman(ratio: NDArray[Any], outcome: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return _with_reasons(kernels.spearman(ratio, outcome))


def _partial_spearman(ratio: NDArray[Any], outcome: NDArray[Any], covariates: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return _with_reasons(kernels.partial_spearman(ratio, outcome, covariates))


def _with_reasons(found: kernels.Correlation) -> tuple[NDArray[Any], ...]:
    return found.rho, found.p, found.n, np.asarray(kernels.REASONS)[found.code]
