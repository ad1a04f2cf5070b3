"""Ratios corrected by annotated tiles, against values worked by hand and simulations in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from fintune_xr import names as n
from fintune_xr.analysis.prediction_powered import (
    Labelled,
    correct_ratios,
    donor_ratios,
    labelled_sums,
    mean_ratio,
    reliability,
    rho_of_true_ratios,
)


def validation(rows: list[tuple[str, int, int, int, int]], marker: str = "GFAP") -> xr.Dataset:
    """Tiles as (donor, true positive, true all, counted positive, counted all)."""
    donors, *counts = zip(*rows, strict=True)
    names = (n.TRUE_POSITIVE, n.TRUE_ALL, n.N_POSITIVE, n.N_ALL)
    return xr.Dataset(
        {name: (n.TILE, list(values)) for name, values in zip(names, counts, strict=True)},
        coords={n.DONOR: (n.TILE, list(donors)), n.MARKER: (n.TILE, [marker] * len(rows))},
    )


TILES = validation(
    [("a", 1, 10, 3, 10), ("a", 3, 10, 5, 10), ("b", 5, 10, 6, 10), ("c", 2, 20, 5, 20), ("d", 4, 8, 5, 8),
     ("e", -1, 9, 3, 9), ("f", 0, 0, 1, 4)]
)  # fmt: skip


def test_tiles_of_a_donor_are_summed_and_unknown_ones_left_out() -> None:
    found = labelled_sums(TILES)
    np.testing.assert_allclose(found.true, [4 / 20, 0.5, 0.1, 0.5])
    np.testing.assert_allclose(found.predicted, [8 / 20, 0.6, 0.25, 5 / 8])


def test_corrected_ratio_of_a_donor_by_hand() -> None:
    known = labelled_sums(TILES)
    rectifiers = np.array([-0.2, -0.1, -0.15, -0.125])
    value, low, high = donor_ratios(np.array([0.6, 0.1]), known)
    half = stats.t.ppf(0.975, 3) * rectifiers.std(ddof=1) * np.sqrt(1.25)
    np.testing.assert_allclose(value, [0.6 - 0.14375, 0.0])
    np.testing.assert_allclose([low[0], high[0]], [0.45625 - half, 0.45625 + half])
    assert low[1] == 0.0
    assert np.isnan(donor_ratios(np.array([0.6]), Labelled(known.true[:3], known.predicted[:3]))[0]).all()


def test_without_tuning_the_mean_is_the_rectified_one_and_the_interval_that_of_both_samples() -> None:
    """Predictions are off by the same everywhere: the weight is what the paper's formula makes of the sizes alone."""
    true = np.array([0.1, 0.3, 0.5, 0.2, 0.4])
    ratio = np.linspace(0.3, 0.8, 20)
    known = Labelled(true, true + 0.2)
    weight = np.cov(true, true)[0, 1] / ((1 + 5 / 20) * ratio.var(ddof=1))
    assert 0 < weight < 1
    found = mean_ratio(ratio, known)
    expected = weight * ratio.mean() + np.mean(true - weight * (true + 0.2))
    left = np.var(true - weight * (true + 0.2), ddof=1) / 5 + weight**2 * ratio.var(ddof=1) / 20
    assert found.value == pytest.approx(expected)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 4) * np.sqrt(left))


def test_a_bias_that_all_donors_share_costs_no_reliability() -> None:
    true = np.array([0.1, 0.3, 0.5, 0.2])
    ratio = np.array([0.2, 0.5, 0.8, 0.4, 0.6])
    assert reliability(ratio, Labelled(true, 2 * true + 0.1)) == pytest.approx(1.0)
    predicted = np.array([0.2, 0.3, 0.6, 0.1])
    line = stats.linregress(true, predicted)
    left = predicted - line.intercept - line.slope * true
    assert reliability(ratio, Labelled(true, predicted)) == pytest.approx(1 - (left @ left / 2) / ratio.var(ddof=1))


def test_rho_is_disattenuated_and_its_interval_wider_than_without_errors() -> None:
    rng = np.random.default_rng(3)
    ratio = rng.uniform(0.2, 0.8, 40)
    outcome = ratio + rng.normal(0, 0.15, 40)
    true = rng.uniform(0.2, 0.8, 12)
    exact, rough = Labelled(true, true), Labelled(true, true + rng.normal(0, 0.09, 12))
    plain, corrected_ = (rho_of_true_ratios(ratio, outcome, known) for known in (exact, rough))
    assert plain.value == pytest.approx(stats.spearmanr(ratio, outcome).statistic)
    assert corrected_.value == pytest.approx(min(1, plain.value / np.sqrt(reliability(ratio, rough))))
    assert corrected_.high - corrected_.low > plain.high - plain.low
    useless = Labelled(true, rng.permutation(true))
    assert np.isnan(rho_of_true_ratios(ratio, outcome, useless).value)


def test_intervals_hold_where_the_model_is_biased_by_donor() -> None:
    """95 % of 4,000 donors and of 400 means; three standard errors are 1 and 3 %."""
    held, means = [], []
    for number in range(400):
        rng = np.random.default_rng(number)
        true = np.clip(rng.normal(0.4, 0.1, 40), 0.01, 0.99)
        counted = true + 0.15 + rng.normal(0, 0.06, 40)
        known = Labelled(true[:8], counted[:8])
        _, low, high = donor_ratios(counted[8:], known)
        held.append((low <= true[8:]) & (true[8:] <= high))
        mean = mean_ratio(counted, known)
        means.append(mean.low <= 0.4 <= mean.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    assert 0.92 <= np.mean(means) <= 1.0


def test_every_marker_is_corrected_by_its_own_tiles() -> None:
    known = xr.concat([TILES, validation([("a", 1, 10, 3, 10)], "IBA1")], n.TILE)
    donors = ["a", "b", "c", "d", "g"]
    ratio = xr.DataArray(
        np.array([[0.4, 0.6, 0.3, 0.6, 0.5], [0.2, 0.3, 0.1, 0.2, 0.4]]).T, dims=(n.DONOR, n.MARKER),
        coords={n.DONOR: donors, n.MARKER: ["GFAP", "IBA1"]},
    )  # fmt: skip
    outcomes = xr.DataArray(
        np.arange(4.0)[:, None], dims=(n.DONOR, n.OUTCOME), coords={n.DONOR: donors[:4], n.OUTCOME: ["nft"]}
    )
    found = correct_ratios(ratio, outcomes, known)
    np.testing.assert_allclose(found[n.RATIO_CORRECTED].sel(marker="GFAP"), ratio.sel(marker="GFAP") - 0.14375)
    assert found[n.RATIO_CORRECTED].sel(marker="IBA1").isnull().all()
    assert found[n.N_ANNOTATED].values.tolist() == [4, 1]
    assert found[n.RHO_CORRECTED].sizes == {n.MARKER: 2, n.OUTCOME: 1}
    adjusting = xr.DataArray(np.ones((5, 1)), dims=(n.DONOR, n.COVARIATE), coords={n.DONOR: donors})
    assert correct_ratios(ratio, outcomes, known, covariates=adjusting)[n.RHO_CORRECTED].isnull().all()
