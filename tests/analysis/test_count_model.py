"""Overdispersed binomial regression against statsmodels, iterated least squares by hand, and a likelihood's maximum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.api as sm
import xarray as xr
from statsmodels.stats.multitest import multipletests

from fintune_xr.analysis.count_model import REASONS, count_association

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
