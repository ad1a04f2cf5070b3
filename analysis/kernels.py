"""Rank correlation and false discovery rate on plain arrays; no labels, no laziness, no randomness."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import rankdata

from fintune_xr.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_PAIRS: Final = 3
"""With fewer pairs the t distribution of rho has no degree of freedom."""

REASONS: Final = (
    "",
    f"fewer than {MIN_PAIRS} donors have both values",
    "the ratio is the same in all donors",
    "the outcome is the same in all donors",
    "the covariates leave no variation or too few donors",
)
_OK, _TOO_FEW, _CONSTANT_A, _CONSTANT_B, _EXPLAINED = range(len(REASONS))


class Correlation(NamedTuple):
    """Rank correlation of many rows: `rho`, two-sided `p`, pairs used `n`, and an index into REASONS."""

    rho: Floats
    p: Floats
    n: NDArray[np.int32]
    code: NDArray[np.int8]


def spearman(a: NDArray[Any], b: NDArray[Any]) -> Correlation:
    """Spearman correlation along the last axis; shapes (..., n) broadcast to (...).

    Pairs with a NaN are left out row by row and ties share their mean rank. p is two-sided from Student's t
    with n - 2 degrees of freedom, as R's `cor.test(method = "spearman", exact = FALSE)` and
    `scipy.stats.spearmanr` compute it. A row with fewer than MIN_PAIRS pairs or a constant side is NaN.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    shape = a.shape[:-1]
    rho = np.empty(shape)
    n = np.empty(shape, np.int32)
    code = np.empty(shape, np.int8)
    rows = (-1, a.shape[-1]) if a.size else (0, 1)
    _spearman_rows(
        np.ascontiguousarray(a).reshape(rows), np.ascontiguousarray(b).reshape(rows),
        rho.reshape(-1), n.reshape(-1), code.reshape(-1),
    )
    return Correlation(rho, p_value(rho, n), n, code)


def p_value(rho: Floats, n: NDArray[Any], n_covariates: NDArray[Any] | int = 0) -> Floats:
    """Two-sided p of `rho` over `n` pairs from Student's t with n - 2 - `n_covariates` degrees of freedom.

    NaN where rho is NaN or no degree of freedom is left; 0 where rho is exactly 1 or -1.
    """
    freedom = np.asarray(n, np.float64) - 2 - n_covariates
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(rho) * np.sqrt(freedom / ((1 - rho) * (1 + rho)))
        return np.where(freedom > 0, 2 * stdtr(freedom, -t), np.nan)


def partial_spearman(a: NDArray[Any], b: NDArray[Any], covariates: NDArray[Any]) -> Correlation:
    """Spearman correlation of `a` and `b` (..., n) after the ranks of `covariates` (n, k) were regressed out.

    Ranks are taken over the pairs without NaN in a, b or any covariate. p as in `spearman` with one degree of
    freedom less for every linearly independent covariate. Equals `ppcor::pcor.test(method = "spearman")`.
    Reference: Kendall & Gibbons 1990, Rank Correlation Methods, ch. 8.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    covariates = np.asarray(covariates, np.float64)
    shape = a.shape[:-1]
    rho, n, code = np.empty(shape), np.empty(shape, np.int32), np.empty(shape, np.int8)
    lost = np.empty(shape, np.int32)
    for row in np.ndindex(shape):
        rho[row], n[row], code[row], lost[row] = _partial_row(a[row], b[row], covariates)
    return Correlation(rho, p_value(rho, n, lost), n, code)


def fdr_bh(p: NDArray[Any]) -> Floats:
    """Benjamini-Hochberg q-values of `p` (..., n), adjusted jointly along the last axis.

    NaN p-values are left out of the family and stay NaN, as in R's `p.adjust(method = "BH")`.
    Reference: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, axis=-1)
    ascending = np.take_along_axis(p, order, axis=-1)
    size = np.maximum(np.sum(~np.isnan(p), axis=-1, keepdims=True), 1)
    scaled = np.where(np.isnan(ascending), np.inf, ascending) * (size / np.arange(1, p.shape[-1] + 1))
    smallest = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    q = np.empty_like(p)
    np.put_along_axis(q, order, np.minimum(smallest, 1.0), axis=-1)
    return np.where(np.isnan(p), np.nan, q)


def spearman_blocks(ratio: Floats, drawn: NDArray[Any], outcome: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Rho and n, each (resample, run, marker, outcome), of every resample.

    `ratio` (resample, run, donor, marker), `drawn` (resample, donor) the times that a donor is in the
    resample, `outcome` (donor, outcome). A donor drawn twice counts as two pairs with tied values.
    """
    n_resamples, n_runs, _, n_markers = ratio.shape
    shape = (n_resamples, n_runs, n_markers, outcome.shape[1])
    rho, n = np.empty(shape), np.empty(shape, np.int32)
    columns = np.ascontiguousarray(outcome.T, dtype=np.float64)
    _spearman_resamples(np.ascontiguousarray(ratio, np.float64), drawn.astype(np.int64), columns, rho, n)
    return rho, n


def _partial_row(a: Floats, b: Floats, covariates: Floats) -> tuple[float, int, int, int]:
    complete = ~(np.isnan(a) | np.isnan(b) | np.isnan(covariates).any(axis=1))
    n = int(complete.sum())
    if n < MIN_PAIRS:
        return np.nan, n, _TOO_FEW, 0
    ranks = rankdata(np.column_stack([a, b, covariates])[complete], axis=0) - (n + 1) / 2
    spread = np.abs(ranks).max(axis=0)
    if spread[0] == 0 or spread[1] == 0:
        return np.nan, n, _CONSTANT_A if spread[0] == 0 else _CONSTANT_B, 0
    fit, _, lost, _ = np.linalg.lstsq(ranks[:, 2:], ranks[:, :2])
    left = ranks[:, :2] - ranks[:, 2:] @ fit
    squares = (left**2).sum(axis=0)
    # Rounding leaves about 1e-16 of the variance where the covariates explain all of it.
    if n - 2 - lost < 1 or np.any(squares < 1e-12 * (ranks[:, :2] ** 2).sum(axis=0)):
        return np.nan, n, _EXPLAINED, int(lost)
    rho = (left[:, 0] @ left[:, 1]) / np.sqrt(squares.prod())
    return float(np.clip(rho, -1, 1)), n, _OK, int(lost)


@compiled
def _mean_ranks(values: Floats, order: Ints, weight: Ints, ranks: Floats) -> int:
    """Fills `ranks` with the mean rank of every value of positive weight; returns the sum of the weights."""
    total = 0
    i = 0
    while i < order.size:
        if weight[order[i]] == 0:
            i += 1
            continue
        value = values[order[i]]
        tied = 0
        j = i
        while j < order.size and (weight[order[j]] == 0 or values[order[j]] == value):
            tied += weight[order[j]]
            j += 1
        for k in range(i, j):
            ranks[order[k]] = total + (tied + 1) / 2
        total += tied
        i = j
    return total


@compiled
def _rank_pearson(a: Floats, b: Floats, weight: Ints, n: int) -> tuple[float, int]:
    """Pearson correlation of weighted mean ranks, and the index of the reason where it is NaN."""
    if n < MIN_PAIRS:
        return np.nan, _TOO_FEW
    middle = (n + 1) / 2
    # Mean ranks are multiples of one half: these sums are exact, and zero means constant.
    aa = bb = ab = 0.0
    for i in range(a.size):
        if weight[i] > 0:
            x, y = a[i] - middle, b[i] - middle
            aa += weight[i] * x * x
            bb += weight[i] * y * y
            ab += weight[i] * x * y
    if aa == 0:
        return np.nan, _CONSTANT_A
    if bb == 0:
        return np.nan, _CONSTANT_B
    return min(1.0, max(-1.0, ab / np.sqrt(aa * bb))), _OK


@compiled
def _spearman_rows(a: Floats, b: Floats, rho: Floats, n: NDArray[np.int32], code: NDArray[np.int8]) -> None:
    size = a.shape[1]
    weight = np.empty(size, np.int64)
    ranks = np.zeros((2, size))
    for row in range(rho.size):
        for i in range(size):
            weight[i] = 0 if np.isnan(a[row, i]) or np.isnan(b[row, i]) else 1
        n[row] = _mean_ranks(a[row], np.argsort(a[row]), weight, ranks[0])
        _mean_ranks(b[row], np.argsort(b[row]), weight, ranks[1])
        rho[row], code[row] = _rank_pearson(ranks[0], ranks[1], weight, n[row])


@compiled
def _spearman_resamples(
    ratio: Floats, drawn: Ints, outcome: Floats, rho: Floats, n: NDArray[np.int32]
) -> None:
    n_outcomes, size = outcome.shape
    weight = np.empty(size, np.int64)
    values = np.empty(size)
    ranks = np.zeros((2, size))
    outcome_order = np.empty((n_outcomes, size), np.int64)
    for k in range(n_outcomes):
        outcome_order[k] = np.argsort(outcome[k])
    for r, run, marker in np.ndindex(rho.shape[0], rho.shape[1], rho.shape[2]):
        values[:] = ratio[r, run, :, marker]
        # One sort serves all outcomes: leaving donors out does not change the order of the others.
        order = np.argsort(values)
        for k in range(n_outcomes):
            for d in range(size):
                missing = np.isnan(values[d]) or np.isnan(outcome[k, d])
                weight[d] = 0 if missing else drawn[r, d]
            pairs = _mean_ranks(values, order, weight, ranks[0])
            _mean_ranks(outcome[k], outcome_order[k], weight, ranks[1])
            n[r, run, marker, k] = pairs
            rho[r, run, marker, k], _ = _rank_pearson(ranks[0], ranks[1], weight, pairs)
