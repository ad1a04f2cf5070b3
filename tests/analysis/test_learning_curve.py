"""Learning curves: known parameters are found again, saturation is what it says, and doubt is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.analysis import learning_curve as module
from fintune_xr.analysis.learning_curve import (
    NOT_LEVELLING,
    NOT_RISING,
    TOO_FEW,
    PowerLaw,
    budget_spread,
    curve_at,
    fit_power_law,
    learning_curve,
    saturation,
)
from fintune_xr.errors import FintuneValueError
from fintune_xr.seeds import stream
from fintune_xr.splits.nested_subsets import nested_order

BUDGETS = np.array([2.0, 5, 10, 20, 30])
LAWS = st.builds(
    lambda top, share, exponent: PowerLaw(top, share * top * 2.0**exponent, exponent),
    st.floats(0.4, 0.95),
    st.floats(0.3, 0.9),
    st.floats(0.4, 2.5),
)


def simulated(law: PowerLaw, *, noise: float = 0.0, n_seeds: int = 3, seed: int = 0) -> xr.DataArray:
    rng = stream(seed, "simulated curve")
    values = law.at(BUDGETS)[:, None] + rng.normal(0, noise, (BUDGETS.size, n_seeds))
    return xr.DataArray(values, dims=(n.BUDGET, n.SEED), coords={n.BUDGET: BUDGETS.astype(int), n.SEED: range(n_seeds)})


def tiles_like(score: xr.DataArray) -> xr.DataArray:
    return xr.zeros_like(score, int) + score[n.BUDGET]


@given(LAWS)
def test_parameters_of_a_clean_curve_are_found_again(law: PowerLaw) -> None:
    found = fit_power_law(np.repeat(BUDGETS, 2), np.repeat(law.at(BUDGETS), 2))
    assert found.law is not None
    assert found.reason == ""
    np.testing.assert_allclose(found.law, law, rtol=2e-3)


@given(LAWS, st.floats(0.002, 0.05))
def test_saturation_is_the_fewest_tiles_within_the_tolerance(law: PowerLaw, tolerance: float) -> None:
    enough = saturation(law, tolerance=tolerance)
    assert law.asymptote - law.at(enough) <= tolerance * (1 + 1e-6)
    assert enough == 1 or law.asymptote - law.at(enough - 1) > tolerance * (1 - 1e-6)
    measured = saturation(law, tolerance=tolerance, target=float(law.at(30.0)))
    assert measured <= min(enough, 30)
    assert law.at(30.0) - law.at(measured) <= tolerance * (1 + 1e-6)


def test_intervals_hold_the_truth_and_repeat_themselves() -> None:
    law = PowerLaw(0.8, 0.9, 1.0)
    score = simulated(law, noise=0.01, n_seeds=6)
    found = learning_curve(score, tiles_like(score), n_resamples=100, seed=4)
    for name, value in zip((n.ASYMPTOTE, n.AMPLITUDE, n.EXPONENT), law, strict=True):
        low, high = found[f"{name}_interval"].values
        assert low <= value <= high
    assert found[n.SATURATION] == pytest.approx(90, rel=0.6)
    assert int(found[n.N_LARGEST]) == 30
    assert float(found[n.N_MORE]) == float(found[n.SATURATION]) - 30
    gain = law.at(40.0) - law.at(30.0)
    assert float(found[n.GAIN_OF_MORE]) == pytest.approx(gain, abs=0.005)
    assert int(found[n.N_RESAMPLES_FITTED]) <= 100
    again = learning_curve(score, tiles_like(score), n_resamples=100, seed=4)
    xr.testing.assert_identical(found, again)


def test_the_curve_is_the_formula() -> None:
    score = simulated(PowerLaw(0.7, 0.6, 0.8))
    found = learning_curve(score, tiles_like(score), n_resamples=0)
    np.testing.assert_allclose(curve_at(found, np.array([2, 7])), PowerLaw(0.7, 0.6, 0.8).at(np.array([2.0, 7])))


def test_groups_are_fitted_on_their_own_tiles() -> None:
    first, second = PowerLaw(0.9, 0.8, 1.0), PowerLaw(0.6, 0.5, 0.7)
    n_tiles = xr.concat([tiles_like(simulated(first)), tiles_like(simulated(second)) // 2], n.GROUP)
    score = xr.concat([simulated(first), xr.zeros_like(simulated(second)) + second.at(n_tiles.isel(group=1))], n.GROUP)
    found = learning_curve(score, n_tiles, n_resamples=0)
    np.testing.assert_allclose(found[n.ASYMPTOTE], [0.9, 0.6], rtol=1e-3)
    assert found[n.N_LARGEST].values.tolist() == [30, 15]


def test_fits_without_a_score_or_a_tile_are_left_out() -> None:
    law = PowerLaw(0.8, 0.7, 0.9)
    score, n_tiles = simulated(law), tiles_like(simulated(law))
    score[3, 1] = np.nan
    score[0, 0], n_tiles[0, 0] = 0.9, 0
    found = learning_curve(score, n_tiles, n_resamples=20)
    np.testing.assert_allclose([found[name] for name in (n.ASYMPTOTE, n.AMPLITUDE, n.EXPONENT)], law, rtol=2e-3)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (np.where(BUDGETS[:, None] < 10, 0.5, np.nan) * np.ones(3), TOO_FEW),
        (np.full((5, 3), 0.4), NOT_RISING),
        (0.6 - 0.05 * np.log(BUDGETS)[:, None] * np.ones(3), NOT_RISING),
        (0.2 + 0.1 * np.log(BUDGETS)[:, None] * np.ones(3), NOT_LEVELLING),
        (0.1 + 0.02 * BUDGETS[:, None] * np.ones(3), NOT_LEVELLING),
    ],
)
def test_curves_that_cannot_be_told_say_why(score: np.ndarray, reason: str) -> None:
    labelled = simulated(PowerLaw(0.5, 0.1, 1.0)).copy(data=score)
    found = learning_curve(labelled, tiles_like(labelled), n_resamples=10)
    assert str(found[n.REASON].values) == reason
    assert np.isnan(found[n.SATURATION])
    assert np.isnan(found[n.N_MORE])


def test_a_saturation_far_beyond_what_was_tried_is_no_number() -> None:
    score = simulated(PowerLaw(0.9, 0.8, 0.5))
    found = learning_curve(score, tiles_like(score), n_resamples=0, tolerance=0.01)
    assert np.isnan(found[n.SATURATION])
    assert str(found[n.REASON].values) == NOT_LEVELLING
    assert np.isfinite(found[n.SATURATION_MEASURED])


def test_one_seed_gives_no_interval() -> None:
    score = simulated(PowerLaw(0.8, 0.7, 1.0), n_seeds=1)
    found = learning_curve(score, tiles_like(score), n_resamples=20)
    assert np.isfinite(found[n.ASYMPTOTE])
    assert np.isnan(found[f"{n.ASYMPTOTE}_interval"]).all()
    assert int(found[n.N_RESAMPLES_FITTED]) == 0


EFFECTS = np.array([0.06, -0.03, 0.01, -0.05])


def test_intervals_draw_whole_seeds() -> None:
    """Seeds that differ by a shift only: a resample has the mean of the shifts drawn, and the shape of all of them."""
    law = PowerLaw(0.7, 0.6, 1.0)
    score = simulated(law, n_seeds=EFFECTS.size) + EFFECTS
    found = learning_curve(score, tiles_like(score), n_resamples=300, seed=2)
    means = np.array(list(itertools.product(EFFECTS, repeat=EFFECTS.size))).mean(axis=1)
    np.testing.assert_allclose(found[f"{n.ASYMPTOTE}_interval"], 0.7 + np.quantile(means, [0.025, 0.975]), atol=0.008)
    for name, value in ((n.AMPLITUDE, 0.6), (n.EXPONENT, 1.0), (n.GAIN_OF_MORE, float(law.at(40.0) - law.at(30.0)))):
        np.testing.assert_allclose(found[f"{name}_interval"], value, rtol=1e-2, err_msg=name)


def test_a_seed_brings_the_fits_that_it_has() -> None:
    """Of two seeds, the one that lacks a budget gives curves of its own, where it is drawn alone."""
    score = simulated(PowerLaw(0.7, 0.6, 1.0), n_seeds=2) + np.array([0.0, 0.1])
    score[1, 1] = np.nan
    found = learning_curve(score, tiles_like(score), n_resamples=50)
    np.testing.assert_allclose(found[f"{n.ASYMPTOTE}_interval"], [0.7, 0.8], rtol=1e-3)


def test_spread_is_over_seeds() -> None:
    score = simulated(PowerLaw(0.8, 0.7, 1.0), noise=0.05)
    score[0, 1:] = np.nan
    found = budget_spread(score)
    np.testing.assert_allclose(found[n.BUDGET_MEAN][1], np.mean(score[1].values))
    np.testing.assert_allclose(found[n.BUDGET_SD][1], np.std(score[1].values, ddof=1))
    assert float(found[n.BUDGET_MEAN][0]) == float(score[0, 0])
    assert np.isnan(found[n.BUDGET_SD][0])


def test_lazy_scores_stay_lazy(no_compute: None) -> None:
    score = simulated(PowerLaw(0.8, 0.7, 1.0)).chunk()
    assert learning_curve(score, tiles_like(score), n_resamples=3)[n.ASYMPTOTE].chunks is not None


@pytest.mark.parametrize(("tolerance", "n_resamples"), [(0.0, 10), (1.0, 10), (0.01, -1)])
def test_requests_that_make_no_sense_are_refused(tolerance: float, n_resamples: int) -> None:
    score = simulated(PowerLaw(0.8, 0.7, 1.0))
    with pytest.raises(FintuneValueError, match="expected a tolerance between 0 and 1"):
        learning_curve(score, tiles_like(score), tolerance=tolerance, n_resamples=n_resamples)


def test_every_estimate_has_a_meaning() -> None:
    assert list(module.MEANINGS) == [
        n.ASYMPTOTE, n.AMPLITUDE, n.EXPONENT, n.SATURATION, n.SATURATION_MEASURED, n.N_LARGEST, n.GAIN_OF_MORE, n.N_MORE
    ]  # fmt: skip


MARKERS = st.lists(st.sampled_from(["GFAP", "IBA1", "OLIG2", "NEUN"]), min_size=1, max_size=40)


@given(MARKERS, st.integers(0, 5))
def test_any_beginning_of_the_order_holds_the_markers_evenly(markers: list[str], seed: int) -> None:
    names = [f"t{i}" for i in range(len(markers))]
    marker_of = dict(zip(names, markers, strict=True))
    order = nested_order(names, markers, seed=seed)
    assert sorted(order) == sorted(names)
    for size in range(1, len(order) + 1):
        taken = [marker_of[name] for name in order[:size]]
        counts = {marker: taken.count(marker) for marker in set(markers)}
        most = max(counts.values())
        assert all(count >= most - 1 or count == markers.count(marker) for marker, count in counts.items())


@given(MARKERS, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_tiles(markers: list[str], random: object) -> None:
    pairs = [(f"t{i}", marker) for i, marker in enumerate(markers)]
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (nested_order(*map(list, zip(*rows, strict=True)), seed=3) for rows in (pairs, shuffled))
    assert first == second


def test_seeds_give_other_orders_and_repeated_names_are_refused() -> None:
    names, markers = [f"t{i}" for i in range(20)], ["a", "b"] * 10
    assert nested_order(names, markers, seed=1) != nested_order(names, markers, seed=2)
    with pytest.raises(FintuneValueError, match="2 tiles with 1 names"):
        nested_order(["t", "t"], ["a", "b"], seed=0)
