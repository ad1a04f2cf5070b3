"""Overdispersed binomial regression against statsmodels, iterated least squares by hand, and a likelihood's maximum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.api as sm
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from fintune_xr.analysis.count_model import REASONS, count_association, is_separated

DONORS = [f"d{i}" for i in range(12)]


def cells(seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Positive and all cells (run, donor, marker), more alike within donors than chance."""
    rng = np.random.default_rng(seed)
    total = rng.integers(40, 400, (2, 12, 2))
    positive = rng.binomial(total, rng.beta(4, 8, (2, 12, 2)))
    total[0, 5, 1] = positive[0, 5, 1] = 0
    coords = {"run": ["base", "tuned"], "donor": DONORS, "marker": ["GFAP", "IBA1"]}
    return tuple(xr.DataArray(one, dims=("run", "donor", "marker"), coords=coords) for one in (positive, total))


def table(names: list[str], dim: str, seed: int) -> xr.DataArray:
    values = np.random.default_rng(seed).normal(50, 12, (12, len(names)))
    return xr.DataArray(values, dims=("donor", dim), coords={"donor": DONORS, dim: names})


def by_hand(positive: np.ndarray, total: np.ndarray, design: np.ndarray) -> tuple[float, float, float, float]:
    """Slope, error, dispersion and p by iterated reweighted least squares, as R's glm(family = quasibinomial)."""
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        mean = 1 / (1 + np.exp(-design @ beta))
        weight = total * mean * (1 - mean)
        beta = beta + np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ (positive - total * mean))
    freedom = len(positive) - design.shape[1]
    dispersion = (((positive - total * mean) ** 2) / weight).sum() / freedom
    error = np.sqrt(dispersion * np.linalg.inv(design.T @ (weight[:, None] * design))[1, 1])
    return beta[1], error, dispersion, 2 * scipy.stats.t(freedom).sf(abs(beta[1] / error))


@pytest.mark.parametrize("adjusted", [False, True])
def test_equals_least_squares_by_hand(adjusted: bool) -> None:
    positive, total = cells()
    outcomes, covariates = table(["nft", "gpath"], "outcome", 1), table(["age", "pmi"], "covariate", 2)
    outcomes[3, 0] = np.nan
    found = count_association(positive, total, outcomes, covariates=covariates if adjusted else None)
    for run, marker, outcome in (("base", "GFAP", "nft"), ("base", "IBA1", "gpath"), ("tuned", "GFAP", "gpath")):
        y, m = (one.sel(run=run, marker=marker).values for one in (positive, total))
        x = outcomes.sel(outcome=outcome).values
        ok = (m > 0) & ~np.isnan(x)
        design = np.column_stack([np.ones(12), x, *([covariates.values] if adjusted else [])])[ok]
        one = found.sel(run=run, marker=marker, outcome=outcome)
        numbers = [float(one[name]) for name in ("log_odds", "log_odds_se", "dispersion", "count_p")]
        np.testing.assert_allclose(numbers, by_hand(y[ok], m[ok], design), rtol=1e-6)
        assert one.count_reason == ""
        fit = sm.GLM(np.column_stack([y, m - y])[ok], design, family=sm.families.Binomial()).fit()
        np.testing.assert_allclose(numbers[:2], [fit.params[1], fit.bse[1] * np.sqrt(numbers[2])], rtol=1e-6)
    q = multipletests(found.count_p.sel(run="base").values.ravel(), method="fdr_bh")[1]
    np.testing.assert_allclose(found.count_q.sel(run="base").values.ravel(), q, rtol=1e-10)


def test_slope_maximises_the_likelihood() -> None:
    positive, total = (one.sel(run="tuned", marker="IBA1").values for one in cells(4))
    x = table(["nft"], "outcome", 1)

    def loss(beta: np.ndarray) -> float:
        mean = 1 / (1 + np.exp(-beta[0] - beta[1] * (x.values[:, 0] - 50)))
        return -scipy.stats.binom(total, mean).logpmf(positive).sum()

    best = scipy.optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12})
    found = count_association(*cells(4), x).sel(run="tuned", marker="IBA1", outcome="nft")
    assert float(found.log_odds) == pytest.approx(best.x[1], abs=1e-7)


def test_what_cannot_be_fitted_says_why() -> None:
    positive, total = cells()
    outcomes = table(["few", "constant", "good"], "outcome", 1)
    outcomes[2:, 0] = np.nan
    outcomes[:, 1] = 3.0
    positive[1, :, 0] = 0
    found = count_association(positive, total, outcomes)
    assert (found.count_reason.sel(outcome="few") == REASONS[1]).all()
    assert (found.count_reason.sel(outcome="constant") == REASONS[2]).all()
    assert found.count_reason.sel(run="tuned", marker="GFAP", outcome="good") == REASONS[3]
    assert found.log_odds.sel(outcome=["few", "constant"]).isnull().all()
    same = outcomes.sel(outcome=["good"]).rename(outcome="covariate")
    explained = count_association(positive, total, outcomes, covariates=same).sel(outcome="good", run="base")
    assert (explained.count_reason == REASONS[2]).all()


def test_separation_is_no_slope() -> None:
    positive, total = cells()
    outcomes = xr.DataArray(np.r_[np.zeros(6), np.ones(6)][:, None], dims=("donor", "outcome"))
    outcomes = outcomes.assign_coords(donor=DONORS, outcome=["group"])
    positive = total.where(outcomes.isel(outcome=0, drop=True) > 0, 0).transpose(*total.dims)
    found = count_association(positive, total, outcomes)
    assert (found.count_reason == REASONS[4]).all()
    assert found.count_p.isnull().all()


def one_fit(positive: object, total: object, outcome: object, covariates: object = None) -> xr.Dataset:
    """The fit of one run, marker and outcome; `covariates` (donor, k)."""
    names = [f"d{i}" for i in range(len(np.asarray(positive)))]
    counts = [
        xr.DataArray(np.asarray(part)[None, :, None], dims=("run", "donor", "marker"),
                     coords={"run": ["r"], "donor": names, "marker": ["m"]})
        for part in (positive, total)
    ]  # fmt: skip
    sides = [
        None if part is None else xr.DataArray(np.asarray(part, float).reshape(len(names), -1), dims=("donor", dim))
        for part, dim in ((outcome, "outcome"), (covariates, "covariate"))
    ]
    labelled = [
        part if part is None else part.assign_coords({"donor": names, dim: [f"{dim}{i}" for i in range(part.shape[1])]})
        for part, dim in zip(sides, ("outcome", "covariate"), strict=True)
    ]
    return count_association(*counts, labelled[0], covariates=labelled[1]).squeeze()


X = np.arange(12) - 5.5
HUNDRED = np.full(12, 100)
SOME = np.random.default_rng(0).binomial(100, 0.3, 12)
CASES, EVEN = X > 0, np.arange(12) % 2 == 0
# What is asked of, and the position of the reason.
NO_FIT = {
    "no positive cell in controls": (np.where(CASES, SOME, 0), HUNDRED, CASES, None, 4),
    "positive cells alone in cases": (np.where(CASES, 100, SOME), HUNDRED, CASES, None, 4),
    "all or none": (np.where(CASES, 100, 0), HUNDRED, X, None, 4),
    "a covariate separates": (np.where(EVEN, SOME, 0), HUNDRED, X, EVEN, 4),
    "one donor has them all": (np.where(X.max() == X, 3, 0), HUNDRED, X, None, 4),
    "one ratio": (np.full(12, 30), HUNDRED, X, None, 5),
    "one ratio in each group": (np.where(CASES, 40, 20), HUNDRED, CASES, None, 5),
    "rounded to the curve": (np.round(1e6 / (1 + np.exp(-0.3 * X))), np.full(12, 10**6), X, None, 5),
    "the outcome among the covariates": (SOME, HUNDRED, X, 2 * X + 1, 2),
    "rounding of a constant": (SOME, HUNDRED, 1 + 1e-14 * X, None, 2),
    "more covariates than donors": (SOME, HUNDRED, X, np.random.default_rng(1).normal(size=(12, 11)), 1),
}


@pytest.mark.parametrize("case", NO_FIT)
def test_what_has_no_finite_fit_has_no_number(case: str) -> None:
    *given_, reason = NO_FIT[case]
    found = one_fit(*given_)
    assert str(found.count_reason.values) == REASONS[reason]
    assert np.isnan([float(found[name]) for name in ("log_odds", "log_odds_se", "dispersion", "count_p")]).all()


def test_covariates_that_say_the_same_count_once() -> None:
    age = np.random.default_rng(2).normal(60, 9, 12)
    months = np.column_stack([age, 12 * age, np.ones(12)])
    for name in ("log_odds", "log_odds_se", "dispersion", "count_p"):
        expected, found = (float(one_fit(SOME, HUNDRED, X, one)[name]) for one in (age, months))
        assert found == pytest.approx(expected, rel=1e-9)


def test_values_that_are_not_finite_are_missing() -> None:
    outcome, age = X.copy(), np.random.default_rng(2).normal(60, 9, 12)
    outcome[0], age[1] = np.inf, -np.inf
    expected = one_fit(SOME[2:], HUNDRED[2:], X[2:], age[2:])
    xr.testing.assert_allclose(one_fit(SOME, HUNDRED, outcome, age), expected)


def grows_for_ever(positive: np.ndarray, total: np.ndarray, x: np.ndarray) -> bool:
    """Whether some line over `x` (donor,) that is 0 at all mixed donors is on the right side of the others, by trying
    all lines that are 0 at a donor, and those between two of them."""
    zeros = np.concatenate([np.arctan2(1, -x), np.arctan2(-1, x)])
    angles = np.sort(np.concatenate([zeros, [0.0, np.pi]]))
    angles = np.concatenate([angles, (angles + np.roll(angles, -1)) / 2, [(angles[0] + angles[-1]) / 2 + np.pi]])
    side = np.where(positive == total, 1.0, np.where(positive == 0, -1.0, 0.0))
    for angle in angles:
        values = np.cos(angle) + np.sin(angle) * x
        values[np.abs(values) < 1e-9] = 0.0
        if (values[side == 0] == 0).all() and (values * side >= 0).all() and values.any():
            return True
    return False


@given(st.integers(0, 2**32 - 1))
def test_separation_is_found_by_trying_all_lines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 9))
    x = np.concatenate([[0.0, 1.0], rng.integers(0, 3, n - 2)]) + (0.0 if seed % 2 else 0.01 * rng.integers(0, 90, n))
    x = (x - x.mean()) / x.std()
    total = np.full(n, 4.0)
    positive = np.clip(rng.integers(-6, 11, n) - 5 * (seed % 3 == 0) * (x > 0), 0, 4).astype(float)
    assert is_separated(positive, total, np.column_stack([np.ones(n), x])) == grows_for_ever(positive, total, x)
