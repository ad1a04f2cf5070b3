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
    "the outcome or a covariate separates donors without positive cells, or without others, from the rest",
    "all donors lie on the fitted curve, so that nothing tells how far it may be wrong",
    "the fit did not converge",
)
_OK, _TOO_FEW, _CONSTANT, _ONE_SIDED, _SEPARATED, _NO_SPREAD, _DIVERGED = range(len(REASONS))
_REASON_DTYPE = np.asarray(REASONS).dtype
_ALIKE: Final = 1e-7
"""Columns whose independent part is this small beside them say the same, as in R's fits."""
_ROUNDING: Final = 1e-12
"""A spread of a column this small beside its values is none."""
_LEAST: Final = 1e-6
"""A dispersion below it is that of counts which were rounded to whole ones: chance alone makes one."""


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
    MIN_DONORS_FOR_Q donors. Where there is no fit, the reason says why; so it does where the largest likelihood lies at
    infinity, for which R prints numbers.

    References: McCullagh & Nelder 1989, Generalized Linear Models, section 4.5; Konis 2007, Linear programming
    algorithms for detecting separated data in binary logistic regression models.
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
        # What they are about is told by what comes back.
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
    has = (total > 0) & np.isfinite(outcome) & np.isfinite(covariates).all(axis=1)
    positive, total, outcome, covariates = positive[has], total[has], outcome[has], covariates[has]
    nothing, n = np.full(4, np.nan), int(has.sum())
    if n < 3:
        return nothing, n, _TOO_FEW
    others = np.column_stack([np.ones(n), _independent(covariates)])
    # Columns of one size keep the fit well conditioned, whatever their units.
    unit = float(outcome.std())
    if unit <= _ROUNDING * np.abs(outcome).max() or _rank(_joined(others, outcome)) == others.shape[1]:
        return nothing, n, _CONSTANT if n > others.shape[1] else _TOO_FEW
    design = _joined(others, outcome)
    if n <= design.shape[1]:
        return nothing, n, _TOO_FEW
    if positive.sum() == 0 or positive.sum() == total.sum():
        return nothing, n, _ONE_SIDED
    if is_separated(positive, total, design):
        return nothing, n, _SEPARATED
    slopes, errors, dispersion, p, converged = quasibinomial(positive, total, design)
    if dispersion < _LEAST:
        return nothing, n, _NO_SPREAD
    if not converged or not np.isfinite([slopes[-1], errors[-1]]).all():
        return nothing, n, _DIVERGED
    return np.array([slopes[-1] / unit, errors[-1] / unit, dispersion, p[-1]]), n, _OK


def is_separated(positive: Floats, total: Floats, design: Floats) -> bool:
    """Whether the likelihood has no largest value: one direction of `design` (donor, k) never fits worse.

    Along it donors with positive cells and others keep their odds, those without positive cells only lose odds and
    those with nothing else only gain them. Then a fit ends where its steps do, with any numbers.
    """
    from scipy.optimize import linprog

    none, every = positive == 0, positive == total
    mixed = design[~(none | every)]
    if mixed.size and np.linalg.matrix_rank(mixed) == design.shape[1]:
        return False
    gains = np.concatenate([design[every], -design[none]])
    # The equal sides may be missing; HiGHS takes no empty ones.
    equal = {"A_eq": mixed, "b_eq": np.zeros(len(mixed))} if len(mixed) else {}
    best = linprog(-gains.sum(axis=0), A_ub=-gains, b_ub=np.zeros(len(gains)), bounds=(-1, 1), **equal)
    return bool(-best.fun > _ALIKE)


def _joined(others: Floats, outcome: Floats) -> Floats:
    return np.column_stack([others, (outcome - outcome.mean()) / (outcome.std() or 1.0)])


def _rank(design: Floats) -> int:
    return int(np.linalg.matrix_rank(design, rtol=_ALIKE))


def _independent(covariates: Floats) -> Floats:
    """Columns (donor, k) that span what the centred covariates do, each once; constant ones add nothing."""
    centred = covariates - covariates.mean(axis=0)
    spread = centred.std(axis=0)
    varies = spread > _ROUNDING * np.abs(covariates).max(axis=0, initial=0.0)
    scaled = centred[:, varies] / spread[varies]
    if not scaled.size:
        return np.empty((len(covariates), 0))
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.asarray(left[:, sizes > _ALIKE * sizes[0]] * np.sqrt(len(covariates)))
