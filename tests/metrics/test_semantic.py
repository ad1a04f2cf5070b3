"""Scores of classes against MONAI, scikit-learn and values worked by hand."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.intervals import sum_over
from fintune_xr.metrics.semantic import (
    class_counts,
    class_scores,
    confusion,
    dice_of_tiles,
    foreground_counts,
    foreground_scores,
    small_pieces,
    spread,
)
from fintune_xr.seeds import stream

K = 3
NAMES = ("a", "b", "c")

truths = hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255]))
predictions = hnp.arrays(np.uint8, (5, 6), elements=st.integers(0, K))


def matrices(pairs: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> xr.DataArray:
    """Confusion (tile, truth, predicted) of pairs of truth and prediction."""
    labels = [n.REST, *NAMES]
    return xr.DataArray(
        np.stack([confusion(true, found, K) for true, found in pairs]),
        {n.TILE: [f"t{at}" for at in range(len(pairs))], n.TRUTH: labels, n.PREDICTED: labels},
        (n.TILE, n.TRUTH, n.PREDICTED),
    )


def some_pairs(seed: int, n_tiles: int = 7) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pairs in which classes are missing from some images, in truth or prediction."""
    rng = stream(seed, "pairs")
    pairs = []
    for _ in range(n_tiles):
        true = rng.choice(rng.choice([0, 1, 2, 3, 255], 3, replace=False), (16, 17)).astype(np.uint8)
        found = np.where(rng.random(true.shape) < 0.6, np.minimum(true, K), rng.integers(0, K + 1, true.shape))
        pairs.append((true, found.astype(np.uint8)))
    return pairs


@given(truths, predictions)
def test_confusion_is_that_of_scikit_learn(true: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
    valid = true != 255
    expected = confusion_matrix(true[valid], found[valid], labels=range(K + 1)) if valid.any() else np.zeros((4, 4))
    assert_array_equal(confusion(true, found, K), expected)


@given(truths, predictions, st.integers(1, 4))
def test_pieces_of_an_image_add_up(true: NDArray[np.uint8], found: NDArray[np.uint8], row: int) -> None:
    parts = confusion(true[:row], found[:row], K) + confusion(true[row:], found[row:], K)
    assert_array_equal(parts, confusion(true, found, K))


def test_confusion_of_views_and_of_nothing_valid() -> None:
    true, found = some_pairs(1)[0]
    assert_array_equal(confusion(true.T, found.T, K), confusion(true, found, K))
    assert confusion(np.full((3, 3), 255, np.uint8), np.zeros((3, 3), np.uint8), K).sum() == 0


def test_confusion_refuses_what_is_no_label() -> None:
    blank = np.zeros((2, 2), np.uint8)
    with pytest.raises(FintuneValueError, match="uint8 of one shape"):
        confusion(blank, np.zeros((2, 3), np.uint8), K)
    with pytest.raises(FintuneValueError, match="uint8 of one shape"):
        confusion(blank, blank.astype(np.int64), K)  # type: ignore[arg-type]
    with pytest.raises(FintuneValueError, match="truth: expected labels 0 to 3 or 255, found 9"):
        confusion(np.full((2, 2), 9, np.uint8), blank, K)
    with pytest.raises(FintuneValueError, match=r"prediction: .* found 255 in 4 of them"):
        confusion(blank, np.full((2, 2), 255, np.uint8), K)
    assert confusion(np.full((2, 2), 255, np.uint8), np.full((2, 2), 9, np.uint8), K).sum() == 0


def test_scores_are_those_of_scikit_learn() -> None:
    pairs = some_pairs(2)
    scores = class_scores(class_counts(matrices(pairs)), sum_over(n.TILE))
    for label, name in enumerate(NAMES, start=1):
        dices, ious = [], []
        for true, found in pairs:
            valid = true != 255
            if (true[valid] == label).any():
                dices.append(f1_score(true[valid] == label, found[valid] == label))
                ious.append(jaccard_score(true[valid] == label, found[valid] == label))
        all_true = np.concatenate([true[true != 255] for true, _ in pairs]) == label
        all_found = np.concatenate([found[true != 255] for true, found in pairs]) == label
        one = scores.sel({n.CLASS: name})
        assert_allclose(one["dice_image_mean"], np.mean(dices), rtol=1e-14)
        assert_allclose(one["iou_image_mean"], np.mean(ious), rtol=1e-14)
        assert_allclose(one["dice_pooled"], f1_score(all_true, all_found), rtol=1e-14)
        assert_allclose(one["iou_pooled"], jaccard_score(all_true, all_found), rtol=1e-14)
        assert int(one["dice_n_images"]) == len(dices)


@pytest.mark.slow
def test_dice_of_images_is_that_of_monai() -> None:
    import torch
    from monai.metrics import compute_dice

    pairs = [(np.where(true == 255, 0, true), found) for true, found in some_pairs(3)]
    one_hot = [
        torch.as_tensor(np.stack([np.stack([one == label for label in range(K + 1)]) for one in side]))
        for side in zip(*[(found, true) for true, found in pairs], strict=True)
    ]
    expected = compute_dice(*one_hot, include_background=False, ignore_empty=True).numpy()
    counts = class_counts(matrices(pairs))
    scores = class_scores(counts, sum_over(n.TILE))
    assert_allclose(scores["dice_image_mean"], np.nanmean(expected, axis=0), rtol=1e-6)
    assert_allclose(dice_of_tiles(counts), np.nanmean(expected, axis=1), rtol=1e-6)


def test_means_over_classes_worked_by_hand() -> None:
    # Image 0 holds a and b, image 1 holds a only and has 2 px wrongly called b; c is nowhere in the truth.
    first = (np.array([[1, 1, 2, 2]], np.uint8), np.array([[1, 2, 2, 2]], np.uint8))
    second = (np.array([[1, 1, 1, 0]], np.uint8), np.array([[1, 2, 2, 3]], np.uint8))
    scores = class_scores(class_counts(matrices([first, second])), sum_over(n.TILE))
    a, b = [2 / 3, 2 / 4], [4 / 5]
    assert_allclose(scores["dice_image_mean"], [np.mean(a), np.mean(b), np.nan])
    assert_allclose(scores["dice_pooled"], [4 / 7, 4 / 7, 0.0])
    assert_allclose(scores["perclass_dice_image_mean"], (np.mean(a) + np.mean(b)) / 2)
    assert_allclose(scores["perclass_dice_pooled"], 4 / 7)
    assert_allclose(scores["perclass_dice_pair_mean"], np.mean([*a, *b]))


def test_one_class_everywhere_finds_the_foreground_and_no_class() -> None:
    true = np.repeat(np.array([1, 2, 3, 3, 0], np.uint8), 20)[None]
    found = np.ones_like(true)
    counts = matrices([(true, found)])
    foreground = foreground_scores(foreground_counts(counts), sum_over(n.TILE))
    scores = class_scores(class_counts(counts), sum_over(n.TILE))
    assert_allclose(foreground["foreground_dice_pooled"], 2 * 80 / (2 * 80 + 20))
    assert_allclose(scores["perclass_dice_pooled"], (2 * 20 / (2 * 20 + 80)) / 3)
    assert float(foreground["foreground_dice_image_mean"]) > 0.85 > 0.2 > float(scores["perclass_dice_image_mean"])


@given(st.permutations([1, 2, 3]), st.integers(0, 20))
def test_renaming_classes_permutes_scores(order: list[int], seed: int) -> None:
    rename = np.arange(256, dtype=np.uint8)
    rename[1:4] = order
    pairs = some_pairs(seed, 4)
    before = class_scores(class_counts(matrices(pairs)), sum_over(n.TILE))
    after = class_scores(class_counts(matrices([(rename[t], rename[p]) for t, p in pairs])), sum_over(n.TILE))
    at = [position - 1 for position in order]
    assert_allclose(after["dice_image_mean"].values[at], before["dice_image_mean"].values)
    assert_allclose(after["perclass_iou_pooled"], before["perclass_iou_pooled"])


def test_spread_is_that_of_numpy() -> None:
    counts = class_counts(matrices(some_pairs(5)))
    found = spread(counts)
    for name in NAMES:
        one = counts.sel({n.CLASS: name})
        holds = (one[n.TP] + one[n.FN]).values > 0
        values = (2 * one[n.TP] / (2 * one[n.TP] + one[n.FP] + one[n.FN])).values[holds]
        expected = [values.std(ddof=1), *np.percentile(values, [25, 50, 75]), values.min()]
        assert_allclose(found["dice_spread"].sel({n.CLASS: name}), expected)
        assert str(found[n.WORST_TILE].sel({n.CLASS: name}).values) == f"t{np.flatnonzero(holds)[values.argmin()]}"


def test_a_class_that_no_image_holds_has_no_spread() -> None:
    found = spread(class_counts(matrices([(np.full((2, 2), 1, np.uint8), np.full((2, 2), 2, np.uint8))])))
    assert np.isnan(found["dice_spread"].sel({n.CLASS: "b"})).all()
    assert str(found[n.WORST_TILE].sel({n.CLASS: "b"}).values) == ""
    assert str(found[n.WORST_TILE].sel({n.CLASS: "a"}).values) == "t0"


def test_small_pieces_by_hand() -> None:
    true = np.zeros((12, 12), np.uint8)
    true[0:2, 0:2] = 1  # 4 px, two of them right: found
    true[2, 2] = 1  # touches it by a corner: the same piece, now 5 px, 2 of them right: missed
    true[6:10, 6:10] = 1  # 16 px, all right
    true[0, 11] = 2  # 1 px, called 1
    found = np.zeros_like(true)
    found[0, 0:2] = 1
    found[6:10, 6:10] = 1
    found[0, 11] = 1
    pieces, hits = small_pieces(true, found, 2, bins=(6, 16))
    assert_array_equal(pieces, [[1, 0, 1], [1, 0, 0]])
    assert_array_equal(hits, [[0, 0, 1], [0, 0, 0]])


@pytest.mark.slow
def test_confusion_is_fast() -> None:
    rng = np.random.default_rng(0)
    true = np.kron(rng.integers(0, 6, (16, 16)), np.ones((64, 64))).astype(np.uint8)
    found = np.where(rng.random(true.shape) < 0.2, rng.integers(0, 6, true.shape), true).astype(np.uint8)

    def least(repeats: int, run: object) -> float:
        best = np.inf
        for _ in range(repeats):
            began = time.process_time()
            run()  # type: ignore[operator]
            best = min(best, time.process_time() - began)
        return best

    ours = least(9, lambda: confusion(true, found, 5))
    theirs = least(3, lambda: confusion_matrix(true.ravel(), found.ravel()))
    assert ours <= 0.010
    assert theirs >= 5 * ours
