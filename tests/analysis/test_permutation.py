"""P-values from orders of the donors against brute force, SciPy and published critical values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.analysis.kernels import permutation
from fintune_xr.analysis.kernels.permutation import EXACT, METHODS, MONTE_CARLO, N_DRAWS, STUDENT_T, permutation_p

ties = st.integers(3, 6).flatmap(lambda n: hnp.arrays(np.float64, (2, n), elements=st.integers(0, 4).map(float)))


def outcome_of(a: np.ndarray, b: np.ndarray, covariates: np.ndarray | None = None) -> tuple[float, str, float]:
    """P, method and resolution of one pair of rows."""
    found = kernels.spearman(a, b) if covariates is None else kernels.partial_spearman(a, b, covariates)
    p, method, resolution = permutation_p(a, b, found, covariates)
    return float(p), METHODS[int(method)], float(resolution)


@settings(max_examples=12)
@given(ties)
def test_exact_p_is_the_share_of_all_orders(rows: np.ndarray) -> None:
    a, b = rows
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(outcome_of(a, b)[0])
        return
    far = abs(scipy.stats.spearmanr(a, b).statistic) - 1e-9
    orders = [scipy.stats.pearsonr(scipy.stats.rankdata(a), scipy.stats.rankdata(order)) for order in _orders(b)]
    expected = np.mean([abs(one.statistic) >= far for one in orders])
    assert outcome_of(a, b) == (pytest.approx(expected, abs=1e-12), "exact permutation", 1 / math.factorial(a.size))


def _orders(values: np.ndarray) -> list[tuple[float, ...]]:
    return list(itertools.permutations(values))


def test_exact_p_equals_scipy_permutation_test() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(7), rng.integers(0, 4, 7).astype(float)
    expected = scipy.stats.permutation_test(
        (b,), lambda x: abs(scipy.stats.spearmanr(x, a).statistic) + 1e-12, permutation_type="pairings",
        n_resamples=np.inf, alternative="greater",
    )  # fmt: skip
    far = np.abs(expected.null_distribution) >= expected.statistic - 1e-9
    assert outcome_of(a, b)[0] == pytest.approx(far.mean(), abs=1e-12)


def test_smallest_p_by_number_of_donors() -> None:
    """R: cor.test(1:n, 1:n, method = "spearman")$p.value is 1/3, 1/12, 1/60, 1/360, 1/2520, 1/20160 for n of 3 to 8."""
    for n, denominator in zip(range(3, 10), (3, 12, 60, 360, 2520, 20160, 181440), strict=True):
        assert outcome_of(np.arange(n), -np.arange(n))[0] == pytest.approx(1 / denominator, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "critical"), [(5, 1.0), (6, 0.886), (7, 0.786), (8, 0.738), (9, 0.700)]
)  # two-sided 0.05: Zar 2010, Biostatistical Analysis, table B.20
def test_published_critical_values(n: int, critical: float) -> None:
    far, share = permutation._distribution(n)
    assert far[share <= 0.05].min() == pytest.approx(critical, abs=5e-4)


def test_drawn_p_is_within_chance_of_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    for n in (6, 9):
        a, b = rng.random(n), rng.integers(0, 4, n).astype(float)
        exact = outcome_of(a, b)[0]
        with monkeypatch.context() as patch:
            patch.setattr(permutation, "MAX_EXACT", 2)
            drawn, method, resolution = outcome_of(a, b)
        assert method == METHODS[MONTE_CARLO]
        assert resolution == 1 / (1 + N_DRAWS)
        assert abs(drawn - exact) < 5 * math.sqrt(exact * (1 - exact) / N_DRAWS)


def test_method_follows_from_number_and_ties() -> None:
    rng = np.random.default_rng(2)
    for n, method in ((9, EXACT), (10, MONTE_CARLO), (29, MONTE_CARLO), (30, STUDENT_T)):
        assert outcome_of(rng.random(n), rng.random(n))[1] == METHODS[method]
    half = np.r_[np.zeros(16), np.arange(14) + 1.0]
    assert outcome_of(rng.random(30), half)[1] == METHODS[MONTE_CARLO]
    assert outcome_of(rng.random(30), np.r_[np.zeros(15), np.arange(15) + 1.0])[1] == METHODS[STUDENT_T]


@pytest.mark.parametrize("n", [3, 4, 9, 10, 29, 30, 200])
def test_p_is_never_zero(n: int) -> None:
    assert outcome_of(np.arange(n), np.arange(n))[0] > 0
    assert permutation.resampled_p(np.array([1.0, -1.0]), np.array([n, n])).min() > 0


@given(st.integers(0, 50), st.sampled_from([6, 12]))
@settings(max_examples=10)
def test_order_of_donors_does_not_matter(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, order = rng.random(n).round(1), rng.integers(0, 5, n).astype(float), rng.permutation(n)
    c = rng.random((n, 1))
    assert outcome_of(a, b) == outcome_of(a[order], b[order])
    assert outcome_of(a, b, c) == outcome_of(a[order], b[order], c[order])


@pytest.mark.parametrize("n_covariates", [1, 2])
def test_partial_p_permutes_residuals_as_written_out(n_covariates: int) -> None:
    rng = np.random.default_rng(n_covariates)
    a, b, covariates = rng.random(6), rng.random(6), rng.random((6, n_covariates))
    design = np.column_stack([np.ones(6), *(scipy.stats.rankdata(column) for column in covariates.T)])

    def left(values: np.ndarray) -> np.ndarray:
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    of_a, of_b = left(scipy.stats.rankdata(a)), left(scipy.stats.rankdata(b))
    every = [np.corrcoef(of_a, left(np.array(order)))[0, 1] for order in itertools.permutations(of_b)]
    rho = kernels.partial_spearman(a, b, covariates).rho
    assert np.corrcoef(of_a, of_b)[0, 1] == pytest.approx(float(rho))
    expected = np.mean(np.abs(every) >= abs(rho) - 1e-9)
    assert outcome_of(a, b, covariates) == (pytest.approx(expected, abs=1e-12), "exact permutation", 1 / 720)


def test_resampled_p_is_exact_without_ties_and_students_beyond() -> None:
    rho = np.array([1.0, 0.7, -0.7, 0.0, np.nan, 0.5])
    found = permutation.resampled_p(rho, np.array([4, 9, 9, 9, 9, 40]))
    np.testing.assert_allclose(found[0], 1 / 12)
    np.testing.assert_allclose(found[1:4], [0.0433, 0.0433, 1.0], atol=1e-3)
    assert np.isnan(found[4])
    assert found[5] == pytest.approx(kernels.p_value(np.array(0.5), np.array(40)))
