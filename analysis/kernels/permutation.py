"""P-values of rank correlations from permutations of the donors, on plain arrays; they are never 0.

To MAX_EXACT pairs every order of the outcome is tried. Below MIN_T pairs, and where one value is shared by more than
half of the pairs, N_DRAWS orders are drawn; beyond, Student's t is close enough. With covariates the residuals of the
ranks are permuted and cleared of the covariates again.

References: Phipson & Smyth 2010, Permutation p-values should never be zero, Stat. Appl. Genet. Mol. Biol. 9:39;
Freedman & Lane 1983, A nonstochastic interpretation of reported significance levels, J. Bus. Econ. Stat. 1:292.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import rankdata

from fintune_xr.analysis.kernels.correlation import MIN_PAIRS, Correlation, Floats, Ints, covariate_space, p_value
from fintune_xr.analysis.kernels.resampling import SEED_STEP, below, place_of
from fintune_xr.compilation import compile_kernel

MAX_EXACT: Final = 9
"""9! = 362,880 orders take a few milliseconds, ten times as many do not."""
MIN_T: Final = 30
N_DRAWS: Final = 99_999
KEY: Final = np.uint64(0x5045524D55544544)
"""Place of the draws in the random stream; they depend on it and on the number of pairs, and on nothing else."""

METHODS: Final = ("", "exact permutation", "Monte-Carlo permutation", "Student t")
NO_TEST, EXACT, MONTE_CARLO, STUDENT_T = range(len(METHODS))

_SAME: Final = 1e-9
"""Two statistics that differ by less, relative to the largest there can be, are equal but for rounding."""


class Tested(NamedTuple):
    """Two-sided `p`, the index of its method in METHODS, and the smallest p that the method could have told."""

    p: Floats
    method: NDArray[np.int8]
    resolution: Floats


def permutation_p(
    a: NDArray[Any], b: NDArray[Any], found: Correlation, covariates: NDArray[Any] | None = None
) -> Tested:
    """P-values of the correlations `found` (...) of `a` and `b` (..., n), with `covariates` (n, k) or without.

    p is the share of orders whose rho is at least as far from zero, the observed one among them; of drawn orders
    (1 + those) / (1 + N_DRAWS). The order of the pairs does not matter. NaN where there is no rho.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    p, resolution = np.full(found.rho.shape, np.nan), np.full(found.rho.shape, np.nan)
    method = np.zeros(found.rho.shape, np.int8)
    for row in np.ndindex(found.rho.shape):
        if not np.isnan(found.rho[row]):
            pairs = _complete(a[row], b[row], covariates)
            p[row], method[row], resolution[row] = _tested(pairs, float(found.p[row]))
    return Tested(p, method, resolution)


def smallest_p(n: NDArray[Any] | int) -> Floats:
    """Smallest two-sided p that the order of `n` pairs can have: 2 / n!, never 0."""
    smallest: Floats = np.maximum(2 * np.exp(-gammaln(np.asarray(n, np.float64) + 1)), np.finfo(np.float64).tiny)
    return smallest


def resampled_p(rho: Floats, n: NDArray[Any], n_covariates: NDArray[Any] | int = 0) -> Floats:
    """P (...) of many resamples at once: `rho` (...) over `n` (...) pairs, too many to permute each of them.

    To MAX_EXACT pairs from the distribution of rho over all orders of pairs without ties, beyond from Student's t.
    Every covariate counts as a pair less. NaN where rho is; never 0.
    """
    size = np.broadcast_to(np.asarray(n) - n_covariates, rho.shape)
    p = np.fmax(p_value(rho, n, n_covariates), smallest_p(size)) + 0 * rho
    for few in range(MIN_PAIRS, MAX_EXACT + 1):
        here = (size == few) & ~np.isnan(rho)
        far, share = _distribution(few)
        p[here] = share[np.searchsorted(far, np.abs(rho[here]) - _SAME)]
    return p


@functools.cache
def _distribution(n: int) -> tuple[Floats, Floats]:
    """Every |rho| of n pairs without ties, ascending, and the share of the orders that reach it.

    Orders are counted by the set of ranks that are placed and their sum of products with the places.
    """
    largest = n * (n + 1) * (2 * n + 1) // 6
    ways = np.zeros((1 << n, largest + 1))
    ways[0, 0] = 1
    for placed in range(1 << n):
        place = placed.bit_count() + 1
        for rank in (r for r in range(n) if not placed >> r & 1):
            ways[placed | 1 << rank, place * (rank + 1) :] += ways[placed, : largest + 1 - place * (rank + 1)]
    square = (largest - n * (n + 1) ** 2 / 4) or 1.0
    rho = np.abs(np.arange(largest + 1) - n * (n + 1) ** 2 / 4) / square
    far = np.unique(rho[ways[-1] > 0])
    share = np.array([ways[-1][rho >= one - _SAME].sum() for one in far]) / math.factorial(n)
    return far, share


def _complete(a: Floats, b: Floats, covariates: NDArray[Any] | None) -> Floats:
    """Pairs (n, 2 + k) without a NaN, in an order that the values fix."""
    table = np.column_stack([a, b] if covariates is None else [a, b, np.asarray(covariates, np.float64)])
    table = table[~np.isnan(table).any(axis=1)]
    return np.asarray(table[np.lexsort(table.T[::-1])], np.float64)


def _tested(pairs: Floats, p_of_t: float) -> tuple[float, int, float]:
    n = len(pairs)
    if n >= MIN_T and not _has_large_tie(pairs):
        return max(p_of_t, float(smallest_p(n))), STUDENT_T, float(smallest_p(n))
    count = _plain_counts if pairs.shape[1] == 2 else _partial_counts
    n_extreme, n_orders = count(pairs, n <= MAX_EXACT)
    if n <= MAX_EXACT:
        return n_extreme / n_orders, EXACT, 1 / n_orders
    return (1 + n_extreme) / (1 + n_orders), MONTE_CARLO, 1 / (1 + n_orders)


def _has_large_tie(pairs: Floats) -> bool:
    return any(2 * np.unique(side, return_counts=True)[1].max() > len(pairs) for side in pairs.T[:2])


def _plain_counts(pairs: Floats, exact: bool) -> tuple[int, int]:
    # Twice a centred mean rank is a whole number: sums of products are compared without rounding.
    twice = np.rint(2 * rankdata(pairs, axis=0) - (len(pairs) + 1)).astype(np.int64)
    a, b = np.ascontiguousarray(twice[:, 0]), np.ascontiguousarray(twice[:, 1])
    return _all_orders(a, b) if exact else _drawn_orders(a, b, KEY, N_DRAWS)


def _partial_counts(pairs: Floats, exact: bool) -> tuple[int, int]:
    ranks = rankdata(pairs, axis=0) - (len(pairs) + 1) / 2
    basis = covariate_space(ranks[:, 2:])
    left = ranks[:, :2] - basis @ (basis.T @ ranks[:, :2])
    a, b = (np.ascontiguousarray(side / np.linalg.norm(side)) for side in left.T)
    observed = abs(float(a @ b)) - _SAME
    basis = np.ascontiguousarray(basis)
    if exact:
        return _all_residual_orders(a, b, basis, observed)
    return _drawn_residual_orders(a, b, basis, observed, N_DRAWS)


@compile_kernel
def _next_swap(turn: Ints) -> tuple[int, int]:
    """Which two places to swap to come to an order that has not been (Heap's algorithm); 0 and 0 after the last.

    `turn` is all zeros at first, as long as what is ordered.
    """
    i = 1
    while i < turn.size and turn[i] >= i:
        turn[i] = 0
        i += 1
    if i >= turn.size:
        return 0, 0
    j = 0 if i % 2 == 0 else turn[i]
    turn[i] += 1
    return i, j


@compile_kernel
def _all_orders(a: Ints, b: Ints) -> tuple[int, int]:
    """Orders of `b` whose sum of products with `a` is as far from zero as now, and all orders."""
    size = a.size
    total = np.int64(0)
    for i in range(size):
        total += a[i] * b[i]
    limit = abs(total)
    b = b.copy()
    turn = np.zeros(size, np.int64)
    extreme, orders = 1, 1
    i, j = _next_swap(turn)
    while i > 0:
        total += (a[i] - a[j]) * (b[j] - b[i])
        b[i], b[j] = b[j], b[i]
        orders += 1
        extreme += 1 if abs(total) >= limit else 0
        i, j = _next_swap(turn)
    return extreme, orders


@compile_kernel
def _drawn_orders(a: Ints, b: Ints, key: np.uint64, n_draws: int) -> tuple[int, int]:
    size = a.size
    total = np.int64(0)
    for i in range(size):
        total += a[i] * b[i]
    limit = abs(total)
    b = b.copy()
    extreme = 0
    state = place_of(key, np.uint64(size), np.uint64(0))
    for _ in range(n_draws):
        total = np.int64(0)
        for i in range(size - 1, -1, -1):
            state += SEED_STEP
            j = below(state, i + 1)
            b[i], b[j] = b[j], b[i]
            total += a[i] * b[i]
        extreme += 1 if abs(total) >= limit else 0
    return extreme, n_draws


@compile_kernel
def _is_extreme(a: Floats, b: Floats, basis: Floats, observed: float) -> bool:
    """Whether the correlation of `a` and what the covariates leave of `b` is `observed` or farther from zero.

    Both have length one, and `a` holds nothing of the covariates.
    """
    both = 0.0
    squares = 1.0
    for i in range(a.size):
        both += a[i] * b[i]
    for k in range(basis.shape[1]):
        along = 0.0
        for i in range(b.size):
            along += basis[i, k] * b[i]
        squares -= along * along
    # An order that the covariates explain whole has no correlation: it is counted, which never makes p too small.
    return squares < 1e-12 or abs(both) >= observed * np.sqrt(squares)


@compile_kernel
def _all_residual_orders(a: Floats, b: Floats, basis: Floats, observed: float) -> tuple[int, int]:
    size = a.size
    b = b.copy()
    turn = np.zeros(size, np.int64)
    extreme, orders = 1, 1
    i, j = _next_swap(turn)
    while i > 0:
        b[i], b[j] = b[j], b[i]
        orders += 1
        extreme += 1 if _is_extreme(a, b, basis, observed) else 0
        i, j = _next_swap(turn)
    return extreme, orders


@compile_kernel
def _drawn_residual_orders(a: Floats, b: Floats, basis: Floats, observed: float, n_draws: int) -> tuple[int, int]:
    size = a.size
    b = b.copy()
    extreme = 0
    state = place_of(KEY, np.uint64(size), np.uint64(0))
    for _ in range(n_draws):
        for i in range(size - 1, 0, -1):
            state += SEED_STEP
            j = below(state, i + 1)
            b[i], b[j] = b[j], b[i]
        extreme += 1 if _is_extreme(a, b, basis, observed) else 0
    return extreme, n_draws
