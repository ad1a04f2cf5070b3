"""Picking: against brute force, against scikit-image where it computes the same, and its property on thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import peak_local_max

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels import peaks as picking
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.peaks import SCORE_DISC, SEPARATION, disc_mean, find_peaks, pick_peaks

SEEDS = st.integers(0, 10_000)


def blurred_noise(seed: int, shape: tuple[int, int] = (40, 52), sigma: float = 1.5, levels: int = 0) -> np.ndarray:
    """Smooth values from 0 to 1, in few levels where plateaus are wanted."""
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    values = (values - values.min()) / (values.max() - values.min())
    return np.round(values * levels) / levels if levels else values


def slow_disc_mean(values: np.ndarray, diameter: float) -> np.ndarray:
    """The mean of each pixel's disc, one pixel at a time."""
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    found = np.empty(values.shape)
    for at in np.ndindex(*values.shape):
        found[at] = values[(y - at[0]) ** 2 + (x - at[1]) ** 2 <= (diameter / 2) ** 2].mean()
    return found


def slow_picks(peaks: np.ndarray, score: np.ndarray, distance: float) -> np.ndarray:
    """Non-maximum suppression as it is told: take the highest, cross out what is near, again."""
    left = list(np.argsort(-score, kind="stable"))
    taken = []
    while left:
        best = left.pop(0)
        taken.append(best)
        left = [one for one in left if np.linalg.norm(peaks[one] - peaks[best]) >= distance]
    return peaks[taken]


@given(SEEDS, st.floats(0.5, 30))
def test_the_mean_of_a_disc_is_that_of_its_pixels_in_the_map(seed: int, diameter: float) -> None:
    values = np.random.default_rng(seed).random((11, 14))
    np.testing.assert_allclose(disc_mean(values, diameter), slow_disc_mean(values, diameter), rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_strips_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    values = np.random.default_rng(8).random((17, 14))
    whole = [disc_mean(values, diameter) for diameter in (1, 5.5, 40)]
    monkeypatch.setattr(picking, "_STRIP_ROWS", rows)
    for expected, diameter in zip(whole, (1, 5.5, 40), strict=True):
        np.testing.assert_array_equal(disc_mean(values, diameter), expected)


def test_a_rough_map_of_many_maxima_needs_little_memory() -> None:
    rough = np.random.default_rng(1).random((600, 600), np.float32)
    found = find_peaks(rough, floor=0, border_px=0, distance_px=60)
    assert len(found) < 200
    distance = np.linalg.norm(found.yx[:, None] - found.yx[None], axis=2)
    assert distance[~np.eye(len(found), dtype=bool)].min() >= 60


@given(SEEDS, st.floats(3, 14), st.sampled_from([0, 6, 40]))
def test_suppression_is_that_of_brute_force(seed: int, diameter: float, levels: int) -> None:
    probability = blurred_noise(seed, levels=levels)
    every = pick_peaks(probability, diameter_px=diameter, floor=0.2, separation=0)
    found = pick_peaks(probability, diameter_px=diameter, floor=0.2)
    np.testing.assert_array_equal(found.yx, slow_picks(every.yx, every.score, SEPARATION * diameter))


@given(SEEDS, st.floats(3, 14), st.sampled_from([0, 6]), st.floats(0, 1), st.floats(0, 4))
def test_a_higher_threshold_leaves_a_part_of_what_a_lower_one_found(
    seed: int, diameter: float, levels: int, threshold: float, border: float
) -> None:
    probability = blurred_noise(seed, levels=levels)
    low = pick_peaks(probability, diameter_px=diameter, floor=0.1 * threshold, border_px=border)
    high = pick_peaks(probability, diameter_px=diameter, floor=threshold, border_px=border)
    again = low.above(threshold)
    for name in ("y", "x", "score"):
        np.testing.assert_array_equal(getattr(high, name), getattr(again, name))


@given(SEEDS, st.floats(3, 14))
def test_no_two_picks_are_too_close_and_scores_fall(seed: int, diameter: float) -> None:
    found = pick_peaks(blurred_noise(seed), diameter_px=diameter, floor=0)
    distance = np.linalg.norm(found.yx[:, None] - found.yx[None], axis=2)
    assert distance[~np.eye(len(found), dtype=bool)].min(initial=np.inf) >= SEPARATION * diameter
    assert (np.diff(found.score) <= 0).all()


@given(SEEDS)
def test_local_maxima_are_those_of_scikit_image(seed: int) -> None:
    score = blurred_noise(seed).astype(np.float32)
    ours = find_peaks(score, floor=0.3, border_px=0, distance_px=0)
    theirs = peak_local_max(score, min_distance=1, threshold_abs=0.3, exclude_border=False)
    assert {tuple(at) for at in np.round(ours.yx).astype(int)} == {tuple(at) for at in theirs}


def test_a_score_is_the_mean_of_the_disc_around_the_pick() -> None:
    probability = blurred_noise(3)
    found = pick_peaks(probability, diameter_px=8, floor=0.3)
    score = slow_disc_mean(probability, 8 * SCORE_DISC)
    y, x = np.round(found.yx).astype(int).T
    np.testing.assert_allclose(found.score, score[y, x], rtol=1e-6)


@pytest.mark.parametrize("centre", [(20.0, 31.0), (20.5, 31.5), (19.7, 30.2)])
def test_a_disc_is_found_at_its_centre(centre: tuple[float, float]) -> None:
    probability = disc_target(np.array([centre]), np.array([13.5]), (48, 64)).astype(np.float32)
    found = pick_peaks(probability, diameter_px=13.5, floor=0.9)
    assert len(found) == 1
    np.testing.assert_allclose(found.yx[0], centre, atol=1.6)
    assert found.score[0] == 1


def test_overlapping_discs_are_told_apart() -> None:
    centres = np.array([[20.0, 20.0], [20.0, 33.0], [34.0, 26.0]])
    probability = disc_target(centres, np.full(3, 14.0), (56, 56)).astype(np.float32)
    found = pick_peaks(probability, diameter_px=14, floor=0.8)
    nearest = np.linalg.norm(found.yx[:, None] - centres[None], axis=2).min(axis=1)
    assert len(found) == 3
    assert nearest.max() <= 3


def test_the_border_is_left_out() -> None:
    probability = disc_target(np.array([[3, 30], [30, 30]]), np.full(2, 12), (60, 60)).astype(np.float32)
    assert len(pick_peaks(probability, diameter_px=12, floor=0.5)) == 2
    found = pick_peaks(probability, diameter_px=12, floor=0.5, border_px=6)
    np.testing.assert_allclose(found.yx, [[30, 30]], atol=1.5)


def test_picks_stay_inside_the_map() -> None:
    probability = np.zeros((9, 9), np.float32)
    probability[0, 0] = probability[8, 4] = 1
    found = pick_peaks(probability, diameter_px=2, floor=0.1)
    assert len(found) == 2
    assert found.yx.min() >= 0
    assert found.yx.max() <= 8


def test_an_empty_map_and_a_level_one() -> None:
    assert len(pick_peaks(np.zeros((20, 20), np.float32), diameter_px=5, floor=0.1)) == 0
    assert len(pick_peaks(np.full((20, 20), 0.5, np.float32), diameter_px=5, floor=0.1)) == 1


@pytest.mark.parametrize(
    ("probability", "diameter", "message"),
    [
        (np.zeros((4, 4, 1)), 3, "expected floats .y, x."),
        (np.zeros((4, 4), np.uint8), 3, "expected floats .y, x., got uint8"),
        (np.full((4, 4), np.nan), 3, "values from 0 to 1, got nan"),
        (np.full((4, 4), 3.5), 3, "Apply the sigmoid first"),
        (np.zeros((4, 4)), 0, "diameter above 0 px"),
    ],
)
def test_what_is_no_probability_is_refused(probability: np.ndarray, diameter: float, message: str) -> None:
    with pytest.raises(FintuneValueError, match=message):
        pick_peaks(probability, diameter_px=diameter, floor=0.5)
