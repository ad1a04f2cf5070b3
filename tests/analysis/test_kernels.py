"""Rank correlation and false discovery rate against R, SciPy, statsmodels and values worked by hand.

Data given to R 4.2.2, whose calls stand with the tests:

x <- c(0.12,0.31,0.31,0.08,0.44,0.27,0.19,0.52,0.31,0.40,0.23,0.36)
y <- c(1,3,2,0,5,3,NA,6,2,4,2,NA)
z <- c(71,88,90,65,79,83,77,92,69,81,85,74); s <- c(0,1,1,0,1,0,0,1,1,0,1,0)
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.multitest import multipletests

from fintune_xr.analysis.kernels import correlation as kernels

TEN_P = [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216]

X = np.array([0.12, 0.31, 0.31, 0.08, 0.44, 0.27, 0.19, 0.52, 0.31, 0.40, 0.23, 0.36])
Y = np.array([1, 3, 2, 0, 5, 3, np.nan, 6, 2, 4, 2, np.nan])
Z = np.array([[71, 88, 90, 65, 79, 83, 77, 92, 69, 81, 85, 74], [0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0]], float).T

values = st.one_of(st.just(np.nan), st.integers(0, 6).map(float))
pairs = st.integers(3, 12).flatmap(lambda n: hnp.arrays(np.float64, (2, n), elements=values))
p_values = hnp.arrays(np.float64, st.integers(1, 12), elements=st.one_of(st.just(np.nan), st.floats(0, 1)))


def test_spearman_with_ties_and_missing_equals_r() -> None:
    """R: cor.test(x, y, method = "spearman", exact = FALSE)[c("estimate", "p.value")]"""
    found = kernels.spearman(X, Y)
    assert found.rho == pytest.approx(0.90343117513109861, abs=1e-10)
    assert found.p == pytest.approx(0.00033813394482917687, abs=1e-10)
    assert found.n == 10


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 1, 7), (2, 1, 7)])
def test_spearman_of_one_row_and_of_many_says_nothing_of_its_own(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kernels.spearman(values, np.arange(7.0))
    assert found.rho.shape == shape[:-1]
    assert found.rho.reshape(-1)[-1] == pytest.approx(
        scipy.stats.spearmanr(values.reshape(-1, 7)[-1], range(7)).statistic
    )


def test_spearman_without_ties_equals_r() -> None:
    """R: cor.test(c(2.1,3.4,1.7,5.6,4.2,6.8,7.7,0.9), c(9.1,7.3,8.8,4.1,6.5,4.4,1.2,8.9),
    method = "spearman", exact = FALSE)
    """
    a, b = [2.1, 3.4, 1.7, 5.6, 4.2, 6.8, 7.7, 0.9], [9.1, 7.3, 8.8, 4.1, 6.5, 4.4, 1.2, 8.9]
    found = kernels.spearman(np.array(a), np.array(b))
    assert found.rho == pytest.approx(-0.9047619047619049892, abs=1e-10)
    assert found.p == pytest.approx(0.0020082755054294473, abs=1e-10)


def test_partial_spearman_equals_r() -> None:
    """R: ok <- complete.cases(x, y, z, s); rx <- rank(x[ok]); ry <- rank(y[ok]); rz <- rank(z[ok]); rs <- rank(s[ok])
    r <- cor(resid(lm(rx ~ rz + rs)), resid(lm(ry ~ rz + rs))); df <- sum(ok) - 4
    2 * pt(-abs(r * sqrt(df / (1 - r^2))), df)
    """
    found = kernels.partial_spearman(X, Y, Z)
    assert found.rho == pytest.approx(0.902477922305715774, abs=1e-10)
    assert found.p == pytest.approx(0.002152435712475342, abs=1e-10)
    assert found.n == 10


def test_fdr_equals_r_and_ignores_missing() -> None:
    """R: p.adjust(c(0.03, NA, 0.001, 0.2, 0.04, NA, 0.04), method = "BH")"""
    found = kernels.fdr_bh(np.array([0.03, np.nan, 0.001, 0.2, 0.04, np.nan, 0.04]))
    np.testing.assert_allclose(found, [0.05, np.nan, 0.005, 0.2, 0.05, np.nan, 0.05], atol=1e-10)


def test_fdr_of_ten_p_values_rejects_two_and_not_five() -> None:
    """R: p.adjust(c(0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216), method = "BH")"""
    expected = [0.01, 0.04, 0.084, 0.084, 0.084, 0.1, 0.105714285714285705, 0.216, 0.216, 0.216]
    found = kernels.fdr_bh(np.array(TEN_P))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert (found <= 0.05).sum() == 2


@given(pairs)
def test_spearman_equals_scipy(rows: np.ndarray) -> None:
    a, b = rows
    complete = ~np.isnan(a) & ~np.isnan(b)
    found = kernels.spearman(a, b)
    assert found.n == complete.sum()
    if complete.sum() < 3 or np.ptp(a[complete]) == 0 or np.ptp(b[complete]) == 0:
        assert np.isnan(found.rho)
        assert np.isnan(found.p)
        assert kernels.REASONS[int(found.code)]
        return
    expected = scipy.stats.spearmanr(a[complete], b[complete])
    assert found.rho == pytest.approx(expected.statistic, abs=1e-10)
    # Of a perfect correlation SciPy's rho is off by one rounding, which its p shows as up to 1e-7.
    assert found.p == pytest.approx(expected.pvalue, abs=1e-10 if abs(expected.statistic) < 1 - 1e-12 else 1e-6)


@given(pairs, st.randoms(use_true_random=False))
def test_order_of_donors_does_not_matter(rows: np.ndarray, random: object) -> None:
    order = list(range(rows.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    for whole, shuffled in zip(kernels.spearman(*rows), kernels.spearman(*rows[:, order]), strict=True):
        np.testing.assert_array_equal(whole, shuffled)


@given(p_values)
def test_q_is_above_p_monotone_and_equals_statsmodels(p: np.ndarray) -> None:
    q = kernels.fdr_bh(p)
    known = ~np.isnan(p)
    np.testing.assert_array_equal(np.isnan(q), ~known)
    assert (q[known] >= p[known]).all()
    assert (np.diff(q[known][np.argsort(p[known])]) >= 0).all()
    if known.any():
        np.testing.assert_allclose(q[known], multipletests(p[known], method="fdr_bh")[1], atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ([1, 1, 1, 1], [1, 2, 3, 4], "the ratio or readout is the same in all donors"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "the outcome is the same in all donors"),
        ([1, 2, np.nan, 4], [np.nan, 2, 3, 4], "fewer than 3 donors have both values"),
        ([np.nan] * 4, [1, 2, 3, 4], "fewer than 3 donors have both values"),
    ],
)
def test_what_has_no_correlation_says_why(a: list[float], b: list[float], reason: str) -> None:
    covariates = np.array([[3.0], [1.0], [2.0], [5.0]])
    for found in (kernels.spearman(a, b), kernels.partial_spearman(a, b, covariates)):
        assert np.isnan(found.rho)
        assert np.isnan(found.p)
        assert kernels.REASONS[int(found.code)] == reason


def test_covariates_that_explain_everything_leave_no_correlation() -> None:
    a = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0])
    found = kernels.partial_spearman(a, a[::-1], a[:, None] ** 3)
    assert np.isnan(found.rho)
    assert kernels.REASONS[int(found.code)] == "the covariates leave no variation or too few donors"


def test_a_constant_covariate_costs_no_degree_of_freedom() -> None:
    plain = kernels.spearman(X, Y)
    partial = kernels.partial_spearman(X, Y, np.ones((12, 1)))
    assert partial.rho == pytest.approx(plain.rho, abs=1e-12)
    assert partial.p == pytest.approx(plain.p, abs=1e-12)


def test_a_donor_drawn_twice_is_two_donors() -> None:
    rng = np.random.default_rng(3)
    ratio, outcome = rng.random((4, 2, 12, 3)).round(1), rng.integers(0, 5, (12, 2)).astype(float)
    outcome[2, 0] = np.nan
    ratio[0, 0, 5, 1] = np.nan
    drawn = rng.multinomial(12, np.full(12, 1 / 12), size=4)
    rho, n = kernels.spearman_blocks(ratio, drawn, outcome)
    for r, run, marker, k in np.ndindex(4, 2, 3, 2):
        a = np.repeat(ratio[r, run, :, marker], drawn[r])
        expected = kernels.spearman(a, np.repeat(outcome[:, k], drawn[r]))
        assert n[r, run, marker, k] == expected.n
        np.testing.assert_allclose(rho[r, run, marker, k], expected.rho, atol=1e-12)
