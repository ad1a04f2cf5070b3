"""Rank correlation and false discovery rate on plain arrays; no labels, no laziness, no randomness."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import rankdata

from fintune_xr.compilation import compile_kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_PAIRS: Final = 3
"""With fewer pairs the t distribution of rho has no degree of freedom."""

_FEW: Final = 256
"""Up to so many donors, sorting by insertion from the last resample's order beats sorting anew."""

REASONS: Final = (
    "",
    f"fewer than {MIN_PAIRS} donors have both values",
    "the ratio or readout is the same in all donors",
    "the outcome is the same in all donors",
    "the covariates leave no variation or too few donors",
)
_OK, _TOO_FEW, _CONSTANT_A, _CONSTANT_B, _EXPLAINED = range(len(REASONS))


class Correlation(NamedTuple):
    """Rank correlation of many rows: `rho`, two-sided `p`, pairs used `n`, and an index into REASONS.

    `lost` are the degrees of freedom that covariates took.
    """

    rho: Floats
    p: Floats
    n: NDArray[np.int32]
    code: NDArray[np.int8]
    lost: NDArray[np.int32]


def spearman(a: NDArray[Any], b: NDArray[Any]) -> Correlation:
    """Spearman correlation along the last axis; shapes (..., n) broadcast to (...).

    Pairs with a NaN are left out row by row and ties share their mean rank. p is two-sided from Student's t
    with n - 2 degrees of freedom, as R's `cor.test(method = "spearman", exact = FALSE)` and
    `scipy.stats.spearmanr` compute it. A row with fewer than MIN_PAIRS pairs or a constant side is NaN.
    """
    size = np.broadcast_shapes(np.shape(a), np.shape(b))
    # Copies: what NumPy broadcasts is not the kernel's to write to, and compiled code asks for arrays that are.
    a, b = (np.array(np.broadcast_to(side, size), np.float64) for side in (a, b))
    shape = size[:-1]
    rho = np.empty(shape)
    n = np.empty(shape, np.int32)
    code = np.empty(shape, np.int8)
    rows = (-1, size[-1]) if a.size else (0, 1)
    _spearman_rows(
        a.reshape(rows),
        b.reshape(rows),
        rho.reshape(-1),
        n.reshape(-1),
        code.reshape(-1),
    )
    return Correlation(rho, p_value(rho, n), n, code, np.zeros(shape, np.int32))


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
    return Correlation(rho, p_value(rho, n, lost), n, code, lost)


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


def partial_spearman_blocks(
    ratio: Floats, drawn: NDArray[Any], outcome: Floats, covariates: Floats
) -> tuple[Floats, NDArray[np.int32], NDArray[np.int32]]:
    """Rho, n and lost degrees of freedom as in `spearman_blocks`, with `covariates` (donor, k) regressed out."""
    n_resamples, n_runs, _, n_markers = ratio.shape
    shape = (n_resamples, n_runs, n_markers, outcome.shape[1])
    rho, n, lost = np.empty(shape), np.empty(shape, np.int32), np.empty(shape, np.int32)
    for r in range(n_resamples):
        rows = np.repeat(np.arange(drawn.shape[1]), drawn[r])
        sides = ratio[r].swapaxes(1, 2)[:, :, None, rows], outcome.T[:, rows]
        found = partial_spearman(*sides, covariates[rows])
        rho[r], n[r], lost[r] = found.rho, found.n, found.lost
    return rho, n, lost


def _partial_row(a: Floats, b: Floats, covariates: Floats) -> tuple[float, int, int, int]:
    complete = ~(np.isnan(a) | np.isnan(b) | np.isnan(covariates).any(axis=1))
    n = int(complete.sum())
    if n < MIN_PAIRS:
        return np.nan, n, _TOO_FEW, 0
    ranks = rankdata(np.column_stack([a, b, covariates])[complete], axis=0) - (n + 1) / 2
    spread = np.abs(ranks).max(axis=0)
    if spread[0] == 0 or spread[1] == 0:
        return np.nan, n, _CONSTANT_A if spread[0] == 0 else _CONSTANT_B, 0
    basis = covariate_space(ranks[:, 2:])
    lost = basis.shape[1]
    left = ranks[:, :2] - basis @ (basis.T @ ranks[:, :2])
    squares = (left**2).sum(axis=0)
    # Rounding leaves about 1e-16 of the variance where the covariates explain all of it.
    if n - 2 - lost < 1 or np.any(squares < 1e-12 * (ranks[:, :2] ** 2).sum(axis=0)):
        return np.nan, n, _EXPLAINED, lost
    rho = (left[:, 0] @ left[:, 1]) / np.sqrt(squares.prod())
    return float(np.clip(rho, -1, 1)), n, _OK, lost


def covariate_space(ranks: Floats) -> Floats:
    """Orthonormal basis (n, rank) of what the centred ranks (n, k) of covariates span; constant ones add nothing."""
    basis, size, _ = np.linalg.svd(ranks, full_matrices=False)
    tolerance = size.max(initial=0.0) * max(ranks.shape) * np.finfo(np.float64).eps
    return np.asarray(basis[:, size > tolerance], np.float64)


@compile_kernel
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


@compile_kernel
def _centred_ranks(values: Floats, order: Ints, weight: Ints, centred: Floats) -> tuple[int, float]:
    """Fills `centred` with weight times centred mean rank; returns the number of pairs and the sum of squares."""
    n = _mean_ranks(values, order, weight, centred)
    squares = 0.0
    for i in range(values.size):
        if weight[i] == 0:
            centred[i] = 0.0
        else:
            from_middle = centred[i] - (n + 1) / 2
            squares += weight[i] * from_middle * from_middle
            centred[i] = weight[i] * from_middle
    return n, squares


@compile_kernel
def _rho(values: Floats, order: Ints, weight: Ints, n: int, centred: Floats, squares: float) -> tuple[float, int]:
    """Rho of `values` with the side that `_centred_ranks` gave, and the index of the reason where it is NaN.

    Mean ranks are multiples of one half: the sums are exact, and a sum of squares of zero means constant.
    """
    if n < MIN_PAIRS:
        return np.nan, _TOO_FEW
    total = 0
    own = both = 0.0
    i = 0
    while i < order.size and not np.isnan(values[order[i]]):
        value = values[order[i]]
        tied = 0
        beside = 0.0
        while i < order.size and values[order[i]] == value:
            tied += weight[order[i]]
            beside += centred[order[i]]
            i += 1
        from_middle = total + (tied - n) / 2
        own += tied * from_middle * from_middle
        both += from_middle * beside
        total += tied
    if own == 0:
        return np.nan, _CONSTANT_A
    if squares == 0:
        return np.nan, _CONSTANT_B
    return min(1.0, max(-1.0, both / np.sqrt(own * squares))), _OK


@compile_kernel
def _spearman_rows(a: Floats, b: Floats, rho: Floats, n: NDArray[np.int32], code: NDArray[np.int8]) -> None:
    size = a.shape[1]
    weight = np.empty(size, np.int64)
    centred = np.zeros(size)
    for row in range(rho.size):
        for i in range(size):
            weight[i] = 0 if np.isnan(a[row, i]) or np.isnan(b[row, i]) else 1
        n[row], squares = _centred_ranks(b[row], np.argsort(b[row]), weight, centred)
        rho[row], code[row] = _rho(a[row], np.argsort(a[row]), weight, n[row], centred, squares)


@compile_kernel
def _resort(values: Floats, order: Ints) -> None:
    """Brings `order` into the order of `values`, NaN last; fast where it nearly is, as from resample to resample."""
    if order.size > _FEW:
        order[:] = np.argsort(values)
        return
    for i in range(1, order.size):
        item = order[i]
        value = values[item]
        j = i
        while j > 0 and (values[order[j - 1]] > value or np.isnan(values[order[j - 1]]) > np.isnan(value)):
            order[j] = order[j - 1]
            j -= 1
        order[j] = item


@compile_kernel
def _spearman_resamples(ratio: Floats, drawn: Ints, outcome: Floats, rho: Floats, n: NDArray[np.int32]) -> None:
    n_outcomes, size = outcome.shape
    order = np.empty((rho.shape[1], rho.shape[2], size), np.int64)
    order[:] = np.arange(size)
    present = np.full(size, -1, np.int64)
    weight = np.zeros((n_outcomes, size), np.int64)
    centred = np.zeros((n_outcomes, size))
    pairs = np.zeros(n_outcomes, np.int64)
    squares = np.zeros(n_outcomes)
    outcome_order = np.empty((n_outcomes, size), np.int64)
    for k in range(n_outcomes):
        outcome_order[k] = np.argsort(outcome[k])
    values = np.empty(size)
    for r, run, marker in np.ndindex(rho.shape[0], rho.shape[1], rho.shape[2]):
        same = True
        for d in range(size):
            values[d] = ratio[r, run, d, marker]
            here = 0 if np.isnan(values[d]) else drawn[r, d]
            same = same and here == present[d]
            present[d] = here
        # The outcomes' ranks change only with the donors that are present, which is seldom.
        for k in range(0 if same else n_outcomes):
            for d in range(size):
                weight[k, d] = 0 if np.isnan(outcome[k, d]) else present[d]
            pairs[k], squares[k] = _centred_ranks(outcome[k], outcome_order[k], weight[k], centred[k])
        _resort(values, order[run, marker])
        for k in range(n_outcomes):
            n[r, run, marker, k] = pairs[k]
            found, _ = _rho(values, order[run, marker], weight[k], pairs[k], centred[k], squares[k])
            rho[r, run, marker, k] = found
