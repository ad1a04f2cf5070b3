"""Particle and pixel scores: against brute force and against textbook formulas."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from sklearn.metrics import roc_auc_score

from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import f1, iou, precision, recall
from fintune_xr.metrics.detection import Found, average_precision, best_threshold, match_points, threshold_curve
from fintune_xr.metrics.pixels import (
    EXACT_BINS,
    best_pixel_threshold,
    coarser,
    histogram_counts,
    pixel_auc,
    pixel_histogram,
)
from fintune_xr.tasks.detection import PROBABILITY_STEPS

SEEDS = st.integers(0, 100_000)


def scene(seed: int, most: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True centres, picks and scores with ties, crowded enough that picks compete."""
    rng = np.random.default_rng(seed)
    n_true, n_found = rng.integers(0, most, 2)
    return rng.uniform(0, 20, (n_true, 2)), rng.uniform(0, 20, (n_found, 2)), rng.integers(0, 12, n_found) / 11


def largest_matching(true: np.ndarray, found: np.ndarray, distance: float) -> int:
    """Pairs of a largest matching, by SciPy."""
    if not len(true) or not len(found):
        return 0
    near = np.linalg.norm(true[:, None] - found[None], axis=2) <= distance
    return int((maximum_bipartite_matching(csr_array(near)) >= 0).sum())


@given(SEEDS, st.floats(0.2, 8))
def test_hits_at_every_threshold_are_a_largest_matching(seed: int, distance: float) -> None:
    true, found, score = scene(seed)
    result = match_points(true, found, score, distance_px=distance)
    for threshold in np.unique(np.append(score, 0.5)):
        has = score.astype(np.float32) >= np.float32(threshold)
        tp = largest_matching(true, found[has], distance)
        assert result.counts(threshold) == (tp, int(has.sum()) - tp, len(true) - tp)


@given(SEEDS, st.floats(0.5, 12))
def test_no_assignment_at_all_finds_more(seed: int, distance: float) -> None:
    true, found, score = scene(seed, most=6)
    few, many = sorted((true, found), key=len)
    most = max(
        sum(np.linalg.norm(a - b) <= distance for a, b in zip(few, chosen, strict=True))
        for chosen in permutations(many, len(few))
    )
    assert match_points(true, found, score, distance_px=distance).counts()[0] == most


def test_nearest_first_would_find_fewer() -> None:
    true, found = np.array([[0.0, 0], [0, 4]]), np.array([[0.0, 1.9], [0, -3]])
    assert match_points(true, found, np.array([0.9, 0.8]), distance_px=3).counts() == (2, 0, 0)


def test_a_particle_is_found_once_and_at_the_distance_itself() -> None:
    true, found = np.array([[10.0, 10]]), np.array([[10.0, 13], [10, 10], [13.1, 10]])
    assert match_points(true, found, np.array([0.9, 0.8, 0.7]), distance_px=3).counts() == (1, 2, 0)
    assert match_points(true, found[:1], np.array([0.9]), distance_px=3).counts() == (1, 0, 0)
    assert match_points(true, found[2:], np.array([0.9]), distance_px=3).counts() == (0, 1, 1)


def test_long_chains_of_augmentation() -> None:
    size = 3000
    true = np.column_stack([np.zeros(size), np.arange(size) * 2.0])
    # Each pick lies between two particles, and takes one that the next but one may need.
    found = np.column_stack([np.zeros(size), np.arange(size) * 2.0 + 1])[::-1]
    assert match_points(true, found, np.linspace(1, 0, size), distance_px=1).counts() == (size, 0, 0)


@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_the_pooled_curve_counts_all_tiles_at_each_score(seeds: list[int]) -> None:
    tiles = [match_points(*scene(seed), distance_px=2) for seed in seeds]
    curve = threshold_curve(tiles)
    assert (np.diff(curve.threshold) < 0).all()
    for row, threshold in enumerate(curve.threshold):
        counts = np.sum([tile.counts(threshold) for tile in tiles], axis=0)
        np.testing.assert_array_equal(counts, (curve.tp[row], curve.fp[row], curve.fn[row]))


@given(st.lists(SEEDS, min_size=1, max_size=3))
def test_the_best_threshold_has_the_highest_f1(seeds: list[int]) -> None:
    tiles = [match_points(*scene(seed), distance_px=4) for seed in seeds]
    curve = threshold_curve(tiles)
    if curve.threshold.size == 0 or sum(tile.n_true for tile in tiles) == 0:
        with pytest.raises(FintuneValueError, match="no threshold can be chosen"):
            best_threshold(curve)
        return
    chosen = best_threshold(curve)

    def score(threshold: float) -> float:
        tp, fp, fn = np.sum([tile.counts(threshold) for tile in tiles], axis=0)
        return float(2 * tp / (2 * tp + fp + fn))

    assert score(chosen) == max(score(float(t)) for t in curve.threshold)
    assert chosen in curve.threshold


@given(SEEDS)
def test_average_precision_is_the_sum_over_ranks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = rng.random(20) < 0.5
    n_true = int(hits.sum()) + int(rng.integers(0, 4))
    curve = threshold_curve([Found(np.linspace(1, 0, 20).astype(np.float32), hits, n_true)])
    ranks = np.flatnonzero(hits) + 1
    expected = sum((i + 1) / rank for i, rank in enumerate(ranks)) / n_true if n_true else np.nan
    np.testing.assert_allclose(average_precision(curve), expected)


def test_scores_of_particles() -> None:
    curve = threshold_curve([Found(np.float32([0.9, 0.8, 0.7]), np.array([True, False, True]), 4)])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4])
    np.testing.assert_allclose(curve.f1, [2 / 5, 2 / 6, 4 / 7])
    assert best_threshold(curve) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("true", "found", "score", "distance", "message"),
    [
        ([[1.0, np.nan]], [[1, 1]], [1], 3, "true: expected finite points"),
        ([[1, 1]], [[1, 1, 1]], [1], 3, "found: expected finite points .n, 2., got shape .1, 3."),
        ([[1, 1]], [[1, 1]], [1, 2], 3, "one score for each pick, got 2 for 1"),
        ([[1, 1]], [[1, 1]], [1], -3, "distance_px: expected 0 or more"),
    ],
)
def test_points_that_make_no_sense(
    true: list[list[float]], found: list[list[float]], score: list[float], distance: float, message: str
) -> None:
    with pytest.raises(FintuneValueError, match=message):
        match_points(np.array(true), np.array(found), np.array(score), distance_px=distance)


def pixels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A target with unknown pixels and probabilities in steps that bins hold exactly."""
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 2, (9, 11)).astype(np.int8), rng.integers(0, 65, (9, 11)) / 64


def counted(target: np.ndarray, probability: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives, pixel by pixel."""
    tp = fp = fn = 0
    for truth, value in zip(target.ravel(), probability.ravel(), strict=True):
        tp += truth == 1 and value >= threshold
        fp += truth == 0 and value >= threshold
        fn += truth == 1 and value < threshold
    return int(tp), int(fp), int(fn)


@given(SEEDS, st.integers(0, 64))
def test_pixels_are_counted_one_by_one(seed: int, step: int) -> None:
    target, probability = pixels(seed)
    found = histogram_counts(pixel_histogram(target, probability, n_bins=64), step / 64)
    # A bin is open above, but the last one holds 1 as well.
    at = np.minimum(probability, 63 / 64)
    assert tuple(map(int, found)) == counted(target, at, step / 64)


@given(SEEDS)
def test_the_best_threshold_is_the_highest_of_the_best_ones(seed: int) -> None:
    target, probability = pixels(seed)
    found = best_pixel_threshold(pixel_histogram(target, probability, n_bins=64))
    at = np.minimum(probability, 63 / 64)
    scores = {}
    for step in range(64):
        tp, fp, fn = counted(target, at, step / 64)
        scores[step / 64] = 2 * tp / (2 * tp + fp + fn)
    best = max(scores.values())
    assert found == max(threshold for threshold, score in scores.items() if score == best)


def test_no_threshold_is_better_where_no_pixel_is_foreground() -> None:
    with pytest.raises(FintuneValueError, match="no pixel is foreground"):
        best_pixel_threshold(pixel_histogram(np.zeros((2, 2), np.int8), np.zeros((2, 2))))


@given(SEEDS)
def test_unknown_pixels_change_nothing(seed: int) -> None:
    target, probability = pixels(seed)
    other = np.where(target == -1, 1 - probability, probability)
    np.testing.assert_array_equal(pixel_histogram(target, probability), pixel_histogram(target, other))


@given(SEEDS)
def test_auc_is_the_share_of_pairs_in_order(seed: int) -> None:
    target, probability = pixels(seed)
    foreground, background = probability[target == 1], probability[target == 0]
    pairs = np.subtract.outer(foreground, background)
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    np.testing.assert_allclose(pixel_auc(pixel_histogram(target, probability)), expected)


def test_auc_of_stored_probabilities_is_exact_where_maps_are_saturated() -> None:
    """Nearly all pixels lie within one of 4096 steps of 0 or 1; scikit-learn orders them one by one."""
    rng = np.random.default_rng(4)
    target = (rng.random(20_000) < 0.2).astype(np.int8)
    logits = rng.normal(np.where(target, 6, -9), 5)
    stored = np.rint(PROBABILITY_STEPS / (1 + np.exp(-logits))).astype(np.uint16)
    probability = stored * (1 / PROBABILITY_STEPS)
    expected = roc_auc_score(target, stored)
    found = pixel_histogram(target, probability, n_bins=EXACT_BINS)
    assert pixel_auc(found) == pytest.approx(expected, abs=1e-12)
    assert abs(pixel_auc(pixel_histogram(target, probability)) - expected) > 1e-4
    every = np.arange(PROBABILITY_STEPS + 1) * (1 / PROBABILITY_STEPS)
    alone = pixel_histogram(np.zeros(every.size, np.int8), every, n_bins=EXACT_BINS)
    np.testing.assert_array_equal(alone[0], 1)
    for threshold in (0.25, 0.5, 4095 / 4096):
        of_steps = histogram_counts(pixel_histogram(target, probability), threshold)
        assert histogram_counts(found.astype(np.uint32), threshold) == of_steps


def test_fewer_bins_of_a_histogram_are_the_histogram_of_fewer_bins() -> None:
    target, probability = pixels(3)
    fine = pixel_histogram(target, probability, n_bins=EXACT_BINS)
    np.testing.assert_array_equal(coarser(fine), pixel_histogram(target, probability))


def test_histograms_add_up_and_auc_runs_over_tiles() -> None:
    tiles = [pixels(seed) for seed in (1, 2)]
    parts = np.array([pixel_histogram(*tile) for tile in tiles])
    whole = pixel_histogram(*(np.concatenate(both) for both in zip(*tiles, strict=True)))
    np.testing.assert_array_equal(parts.sum(axis=0), whole)
    assert pixel_auc(parts).shape == (2,)
    assert np.isnan(pixel_auc(pixel_histogram(np.ones((2, 2), np.int8), np.ones((2, 2)))))


def test_scores_of_pixels() -> None:
    assert precision(3, 1, 3) == 0.75
    assert recall(3, 1, 3) == 0.5
    assert f1(3, 1, 3) == 0.6
    assert iou(3, 1, 3) == pytest.approx(3 / 7)
    for empty in (precision(0, 0, 0), recall(0, 0, 0), f1(0, 0, 0), iou(0, 0, 0)):
        assert np.isnan(empty)


@pytest.mark.parametrize(
    ("target", "probability", "message"),
    [
        (np.zeros((2, 3), np.int8), np.zeros((3, 2)), "differ in shape: .2, 3. and .3, 2."),
        (np.full((2, 2), 7, np.int8), np.zeros((2, 2)), "target: expected -1, 0 or 1, got 7"),
        (np.zeros((2, 2), np.int8), np.full((2, 2), 2.0), "expected 0 to 1 in every known pixel"),
        (np.zeros((2, 2), np.int8), np.full((2, 2), np.nan), "expected 0 to 1 in every known pixel"),
    ],
)
def test_pixels_that_make_no_sense(target: np.ndarray, probability: np.ndarray, message: str) -> None:
    with pytest.raises(FintuneValueError, match=message):
        pixel_histogram(target, probability)
