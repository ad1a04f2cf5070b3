"""Rank tests of groups on plain arrays: two or more, of different donors or of the same subjects at several times.

Statistics and p of large groups are SciPy's. Where there are few values, or ties among not so many, p is the share of
all arrangements of the ranks (or of N_DRAWS drawn ones) whose statistic is at least as far from what nothing would
give: two-sided, and never 0.

References: Hollander, Wolfe & Chicken 2014, Nonparametric Statistical Methods, ch. 3, 4, 6 and 7; Kerby 2014, The
simple difference formula (rank-biserial), Compr. Psychol. 3:1; Tomczak & Tomczak 2014, The need to report effect size
estimates revisited (epsilon squared), Trends Sport Sci. 1:19.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fintune_xr.seeds import stream

Floats = NDArray[np.float64]

MAX_ARRANGEMENTS: Final = 20_000
"""Up to so many arrangements every one is tried."""
N_DRAWS: Final = 19_999
MIN_ASYMPTOTIC: Final = 30
"""From so many values (pairs, subjects) on, normal and chi-squared distributions are close enough, ties and all."""
MAX_TABLE: Final = 50
"""Below so many values in each group, and without ties, the exact distribution is counted, as R does."""

MANN_WHITNEY: Final = "Mann-Whitney U"
KRUSKAL: Final = "Kruskal-Wallis"
WILCOXON: Final = "Wilcoxon signed-rank"
FRIEDMAN: Final = "Friedman"
RANK_BISERIAL: Final = "rank-biserial correlation"
MATCHED_BISERIAL: Final = "matched-pairs rank-biserial correlation"
EPSILON_SQUARED: Final = "epsilon squared"
KENDALL_W: Final = "Kendall's W"

EXACT: Final = "exact permutation"
MONTE_CARLO: Final = "Monte-Carlo permutation"
NORMAL: Final = "normal approximation"
CHI_SQUARED: Final = "chi-squared approximation"


class RankTest(NamedTuple):
    """A test: its name, statistic, two-sided `p` and how it was found, the smallest p that could be, and the effect."""

    test: str
    statistic: float
    p: float
    method: str
    resolution: float
    measure: str
    effect: float


def independent_test(samples: Sequence[Floats]) -> RankTest:
    """Mann-Whitney of two `samples` (n,), Kruskal-Wallis of more; each is finite and none is empty.

    The statistic of two is U of the second, and the effect is rank-biserial: the share of pairs in which the second is
    higher less the share in which it is lower. Of more it is H, corrected for ties, and epsilon squared, H / (n - 1).
    """
    sorted_ = [np.sort(sample) for sample in samples]
    sizes = [sample.size for sample in sorted_]
    effect = float(independent_effect([sample[None] for sample in sorted_])[0])
    ranks = _split(stats.rankdata(np.concatenate(sorted_)), sizes)
    ways = math.factorial(sum(sizes)) / math.prod(map(math.factorial, sizes))
    p, method, resolution = _arranged(ranks, ways, "independent", sum(sizes))
    if len(samples) > 2:
        found = stats.kruskal(*sorted_)
        p, method = (p, method) if method else (max(float(found.pvalue), resolution), CHI_SQUARED)
        return RankTest(KRUSKAL, float(found.statistic), p, method, resolution, EPSILON_SQUARED, effect)
    counted = not _has_ties(np.concatenate(sorted_)) and max(sizes) < MAX_TABLE
    found = stats.mannwhitneyu(sorted_[1], sorted_[0], method="exact" if counted else "asymptotic")
    if counted or not method:
        p, method = max(float(found.pvalue), resolution), EXACT if counted else NORMAL
    resolution = 2 / ways if counted else resolution
    return RankTest(MANN_WHITNEY, float(found.statistic), p, method, min(resolution, 1.0), RANK_BISERIAL, effect)


def repeated_test(table: Floats) -> RankTest:
    """Wilcoxon signed-rank of `table` (subject, 2), Friedman of more times; all finite.

    Of two times the statistic is the sum of the ranks of subjects that are higher the second time, without those that
    are the same both times, and the effect the share of all ranks that is theirs less the rest. Of more it is
    Friedman's chi-squared, corrected for ties, and Kendall's W.
    """
    table = table[np.lexsort(table.T[::-1])]
    effect = float(repeated_effect(table[None])[0])
    if table.shape[1] == 2:
        return _signed_rank(table[:, 1] - table[:, 0], effect)
    ranks = stats.rankdata(table, axis=1)
    ways = float(math.factorial(table.shape[1])) ** len(table)
    p, method, resolution = _arranged(list(ranks.T), ways, "samples", len(table))
    found = stats.friedmanchisquare(*table.T)
    p, method = (p, method) if method else (max(float(found.pvalue), resolution), CHI_SQUARED)
    return RankTest(FRIEDMAN, float(found.statistic), p, method, resolution, KENDALL_W, effect)


def independent_effect(samples: Sequence[Floats]) -> Floats:
    """Effect (...) of samples (..., n) as in `independent_test`."""
    sizes = [sample.shape[-1] for sample in samples]
    ranks = stats.rankdata(np.concatenate(samples, axis=-1), axis=-1)
    n, parts = sum(sizes), _split(ranks, sizes)
    if len(samples) == 2:
        u = parts[1].sum(axis=-1) - sizes[1] * (sizes[1] + 1) / 2
        return np.asarray(2 * u / (sizes[0] * sizes[1]) - 1, np.float64)
    middle = (n + 1) / 2
    between = sum(size * (part.mean(axis=-1) - middle) ** 2 for size, part in zip(sizes, parts, strict=True))
    total = ((ranks - middle) ** 2).sum(axis=-1)
    # H corrected for ties is (n - 1) between / total, so that epsilon squared is what is left of it.
    return np.asarray(np.divide(between, total, out=np.full_like(total, np.nan), where=total > 0), np.float64)


def repeated_effect(table: Floats) -> Floats:
    """Effect (...) of a table (..., subject, time) as in `repeated_test`; NaN where no subject changes."""
    if table.shape[-1] == 2:
        change = table[..., 1] - table[..., 0]
        ranks = stats.rankdata(np.where(change == 0, -1.0, np.abs(change)), axis=-1)
        ranks = np.where(change == 0, 0.0, ranks - (change == 0).sum(axis=-1, keepdims=True))
        total = ranks.sum(axis=-1)
        signed = (np.sign(change) * ranks).sum(axis=-1)
        return np.asarray(np.divide(signed, total, out=np.full_like(total, np.nan), where=total > 0), np.float64)
    ranks = stats.rankdata(table, axis=-1)
    n, k = table.shape[-2:]
    between = n * ((ranks.mean(axis=-2) - (k + 1) / 2) ** 2).sum(axis=-1)
    total = ((ranks - (k + 1) / 2) ** 2).sum(axis=(-1, -2))
    return np.asarray(np.divide(between, total, out=np.full_like(total, np.nan), where=total > 0), np.float64)


def _signed_rank(change: Floats, effect: float) -> RankTest:
    change = change[change != 0]
    n, ways = change.size, 2.0**change.size
    if not n:
        return RankTest(WILCOXON, 0.0, 1.0, EXACT, 1.0, MATCHED_BISERIAL, np.nan)
    signed = np.sign(change) * stats.rankdata(np.abs(change))
    statistic = float(signed[signed > 0].sum())
    p, method, resolution = _drawn([signed], ways, "samples", n, lambda one, axis: np.abs(one.sum(axis=axis)))
    counted = not _has_ties(np.abs(change)) and n < MAX_TABLE
    if counted or not method:
        found = stats.wilcoxon(change, method="exact" if counted else "approx", correction=not counted)
        resolution = 2 / ways if counted else resolution
        p, method = max(float(found.pvalue), resolution), EXACT if counted else NORMAL
    return RankTest(WILCOXON, statistic, p, method, min(resolution, 1.0), MATCHED_BISERIAL, effect)


def _arranged(ranks: Sequence[Floats], ways: float, kind: str, n: int) -> tuple[float, str, float]:
    def apart(*parts: Floats, axis: int) -> Floats:
        """Grows with H and with Friedman's statistic: the rest of both is the same in all arrangements."""
        return np.asarray(sum(part.sum(axis=axis) ** 2 / part.shape[axis] for part in parts), np.float64)

    middle = float(np.concatenate(ranks).mean())
    return _drawn([rank - middle for rank in ranks], ways, kind, n, apart)


def _drawn(
    data: Sequence[Floats], ways: float, kind: str, n: int, statistic: Callable[..., Floats]
) -> tuple[float, str, float]:
    """P, its method and the smallest p there could be; without a method where there are values enough."""
    exact = ways <= MAX_ARRANGEMENTS
    if not exact and n >= MIN_ASYMPTOTIC:
        return np.nan, "", max(1 / ways, float(np.finfo(np.float64).tiny))
    found = stats.permutation_test(
        data, statistic, permutation_type=kind, vectorized=True, alternative="greater", batch=4096,
        n_resamples=np.inf if exact else N_DRAWS, random_state=stream(0, "rank test", kind, n),
    )  # fmt: skip
    return float(found.pvalue), EXACT if exact else MONTE_CARLO, 1 / ways if exact else 1 / (1 + N_DRAWS)


def _split(ranks: Floats, sizes: Sequence[int]) -> list[Floats]:
    return list(np.split(ranks, np.cumsum(sizes)[:-1], axis=-1))


def _has_ties(values: NDArray[Any]) -> bool:
    return np.unique(values).size < values.size
