"""Counts of positive cells modelled as counts: overdispersed binomial regression on an outcome and covariates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.association import MIN_DONORS_FOR_Q, q_values
from fintune_xr.analysis.groups import of_donors
from fintune_xr.datasets import ANALYSIS
from fintune_xr.names import (
    COUNT_P,
    COUNT_Q,
    COUNT_REASON,
    COVARIATE,
    DISPERSION,
    DONOR,
    LOG_ODDS,
    LOG_ODDS_SE,
    MARKER,
    OUTCOME,
)

Floats = NDArray[np.float64]

REASONS: Final = (
    "",
    "too few donors have cells, the outcome and all covariates",
    "the outcome is the same in all donors, or the covariates explain it",
    "no cell, or every cell, is positive",
    "the fit did not converge: the outcome separates donors with positive cells from those without",
)
_OK, _TOO_FEW, _CONSTANT, _ONE_SIDED, _DIVERGED = range(len(REASONS))
_REASON_DTYPE = np.asarray(REASONS).dtype
_LARGEST: Final = 30.0
"""Log odds per standard deviation of the outcome; a larger one stands for infinity."""


def count_association(
    n_positive: xr.DataArray,
    n_all: xr.DataArray,
    outcomes: xr.DataArray,
    *,
    covariates: xr.DataArray | None = None,
    family: Sequence[str] = (MARKER, OUTCOME),
) -> xr.Dataset:
    """Log odds of a cell being positive per unit of the outcome (run, marker, outcome), with error, p and q.

    `n_positive` and `n_all` (run, donor, marker) are cells of donors; a donor without cells, outcome or a covariate
    (donor, covariate) is left out. Binomial regression with a logit whose variance is the binomial one times a
    dispersion (Pearson's chi-squared over its degrees of freedom), p from Student's t: R's `glm(cbind(positive, all -
    positive) ~ outcome + covariates, family = quasibinomial)`. q as in `associate`, over the same family; none below
    MIN_DONORS_FOR_Q donors. Where there is no fit, the reason says why.

    Reference: McCullagh & Nelder 1989, Generalized Linear Models, section 4.5.
    """
    donors = n_all[DONOR]
    sides = [n_positive.astype(np.float64), n_all.astype(np.float64), of_donors(outcomes, donors)]
    core = [[DONOR]] * 3
    if covariates is not None:
        sides.append(of_donors(covariates, donors))
        core = [*core, [DONOR, COVARIATE]]
    slope, error, dispersion, p, n, reason = xr.apply_ufunc(
        _fits,
        *sides,
        input_core_dims=core,
        output_core_dims=[[]] * 6,
        dask="parallelized",
        output_dtypes=[np.float64] * 4 + [np.int32, _REASON_DTYPE],
    )
    q = q_values(p.where(n >= MIN_DONORS_FOR_Q), family=family)
    parts = {LOG_ODDS: slope, LOG_ODDS_SE: error, DISPERSION: dispersion, COUNT_P: p, COUNT_Q: q, COUNT_REASON: reason}
    return xr.Dataset({name: part.assign_attrs(ANALYSIS[name].attrs) for name, part in parts.items()})


def quasibinomial(positive: Floats, total: Floats, design: Floats) -> tuple[Floats, Floats, float, Floats, bool]:
    """Coefficients, their errors, dispersion, p of each, and whether the fit converged; `design` (donor, k) whole."""
    # Its import takes a second, which --help and other reports need not wait for.
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    with warnings.catch_warnings():
        # Separation and overflow are told by the coefficients, which are looked at below.
        warnings.simplefilter("ignore")
        # Shares weighed by the cells: of two columns of counts, statsmodels' X2 leaves the numbers of cells out.
        fit = GLM(positive / total, design, family=Binomial(), var_weights=total).fit(scale="X2", use_t=True)
    return fit.params, fit.bse, float(fit.scale), fit.pvalues, bool(fit.converged)


def _fits(n_positive: Floats, n_all: Floats, outcome: Floats, covariates: Floats | None = None) -> tuple[Any, ...]:
    n_positive, n_all, outcome = np.broadcast_arrays(n_positive, n_all, outcome)
    shape = outcome.shape[:-1]
    numbers, n, code = np.full((4, *shape), np.nan), np.zeros(shape, np.int32), np.zeros(shape, np.int8)
    more = np.empty((outcome.shape[-1], 0)) if covariates is None else covariates
    for row in np.ndindex(shape):
        numbers[(slice(None), *row)], n[row], code[row] = _fit(n_positive[row], n_all[row], outcome[row], more)
    return (*numbers, n, np.asarray(REASONS)[code])


def _fit(positive: Floats, total: Floats, outcome: Floats, covariates: Floats) -> tuple[Floats, int, int]:
    has = (total > 0) & ~np.isnan(outcome) & ~np.isnan(covariates).any(axis=1)
    positive, total, n = positive[has], total[has], int(has.sum())
    nothing = np.full(4, np.nan)
    if n < 3 + covariates.shape[1]:
        return nothing, n, _TOO_FEW
    table = np.column_stack([outcome[has], covariates[has]])
    spread = table.std(axis=0)
    if spread[0] == 0:
        return nothing, n, _CONSTANT
    if positive.sum() == 0 or positive.sum() == total.sum():
        return nothing, n, _ONE_SIDED
    # Columns of one size keep the fit well conditioned, whatever their units; constant covariates add nothing.
    scaled = ((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0))[:, spread > 0]
    design = np.column_stack([np.ones(n), scaled])
    rank = np.linalg.matrix_rank(design)
    if np.linalg.matrix_rank(np.delete(design, 1, axis=1)) == rank:
        return nothing, n, _CONSTANT
    if n - rank < 1 or rank < design.shape[1]:
        return nothing, n, _TOO_FEW
    slopes, errors, dispersion, p, converged = quasibinomial(positive, total, design)
    if not converged or not np.isfinite(slopes).all() or abs(slopes[1]) > _LARGEST:
        return nothing, n, _DIVERGED
    return np.array([slopes[1] / spread[0], errors[1] / spread[0], dispersion, p[1]]), n, _OK
