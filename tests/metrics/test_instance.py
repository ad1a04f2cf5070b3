"""Matching against Cellpose's own metric, scores against values worked by hand, intervals over donors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
from cellpose.metrics import average_precision as cellpose_average_precision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.instance import IOU_THRESHOLDS, match_counts, match_masks

ALL_THRESHOLDS = (0.01, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.45, *IOU_THRESHOLDS, 0.99, 1.0)

small_masks = hnp.arrays(np.uint32, (7, 9), elements=st.integers(0, 6))


def random_mask(rng: np.random.Generator, *, side: int = 24, n_cells: int = 12) -> np.ndarray:
    """Overlapping rectangles with labels that have gaps, and at least one pixel of background."""
    mask = np.zeros((side, side), np.int32)
    labels = rng.choice(np.arange(1, 4 * n_cells + 1), n_cells, replace=False)
    for label in labels[: rng.integers(0, n_cells + 1)]:
        y, x = rng.integers(0, side, 2)
        height, width = rng.integers(1, side // 3, 2)
        mask[y : y + height, x : x + width] = label
    mask[0, 0] = 0
    return mask


def shaken(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`mask` moved a little, with instances dropped, merged and cut."""
    moved = np.roll(mask, rng.integers(-2, 3, 2), axis=(0, 1)).astype(np.int32)
    highest = int(moved.max())
    for label in rng.permutation(np.arange(1, highest + 1))[: highest // 3]:
        fate = rng.integers(3)
        cell = moved == label
        if fate == 0:
            moved[cell] = 0
        elif fate == 1:
            moved[cell] = rng.integers(1, highest + 1)
        else:
            rows = np.nonzero(cell.any(axis=1))[0]
            if rows.size:
                cell[: rows.mean().astype(int)] = False
                moved[cell] = highest + label
    moved[0, 0] = 0
    return moved


def assert_counts_of_cellpose(true: np.ndarray, predicted: np.ndarray) -> None:
    ours = match_masks(true, predicted, thresholds=ALL_THRESHOLDS)
    _, tp, fp, fn = cellpose_average_precision(true, predicted, list(ALL_THRESHOLDS))
    assert_array_equal(ours.tp, tp)
    assert_array_equal(ours.fp, fp)
    assert_array_equal(ours.fn, fn)


def best_matching(true: np.ndarray, predicted: np.ndarray, threshold: float) -> int:
    """Largest one-to-one matching by augmenting paths over explicitly computed IoU."""
    edges = {
        a: [
            b
            for b in np.unique(predicted[predicted > 0])
            if ((true == a) & (predicted == b)).sum() / ((true == a) | (predicted == b)).sum() >= threshold
        ]
        for a in np.unique(true[true > 0])
    }
    partner: dict[int, int] = {}

    def found(a: int, tried: set[int]) -> bool:
        for b in edges[a]:
            if b not in tried:
                tried.add(b)
                if b not in partner or found(partner[b], tried):
                    partner[b] = a
                    return True
        return False

    return sum(found(a, set()) for a in edges)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("seed", range(8))
def test_counts_equal_cellpose_on_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        true = random_mask(rng)
        predicted = shaken(true, rng) if rng.random() < 0.7 else random_mask(rng)
        assert_counts_of_cellpose(true, predicted)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_counts_equal_cellpose_on_real_nuclei(real_data: Path) -> None:
    rng = np.random.default_rng(5)
    for path in sorted((real_data / "dsb2018-fluo" / "labels").glob("*.tif"))[:4]:
        true = tifffile.imread(path)[:400, :400].astype(np.int32)
        assert_counts_of_cellpose(true, shaken(true, rng))


@given(small_masks, small_masks)
def test_counts_are_those_of_the_largest_matching(true: np.ndarray, predicted: np.ndarray) -> None:
    levels = (0.05, 0.2, 0.5, 0.75)
    ours = match_masks(true, predicted, thresholds=levels)
    assert ours.tp.tolist() == [best_matching(true, predicted, level) for level in levels]
    assert ours.n_true == np.unique(true[true > 0]).size
    assert_array_equal(ours.tp + ours.fn, ours.n_true)
    assert_array_equal(ours.tp + ours.fp, ours.n_predicted)


def test_exactly_half_overlap_counts_once() -> None:
    true = np.array([[7, 7, 0, 0]])
    predicted = np.array([[1, 2, 0, 0]])
    ours = match_masks(true, predicted, thresholds=(0.5, 0.51))
    assert (ours.tp.tolist(), ours.fp.tolist(), ours.fn.tolist()) == ([1, 0], [1, 2], [0, 1])


def test_a_greedy_choice_would_find_fewer_pairs() -> None:
    # True 1 fits predicted 1 and 2, true 2 fits predicted 1 only: 1-1 first leaves true 2 without a partner.
    true = np.array([[1, 1, 1, 1, 1, 2, 2, 2]])
    predicted = np.array([[2, 2, 1, 1, 1, 1, 1, 0]])
    assert match_masks(true, predicted, thresholds=(0.25,)).tp.tolist() == [2]


@given(small_masks, small_masks)
def test_swapping_the_masks_exchanges_fp_and_fn(true: np.ndarray, predicted: np.ndarray) -> None:
    there = match_masks(true, predicted, thresholds=ALL_THRESHOLDS)
    back = match_masks(predicted, true, thresholds=ALL_THRESHOLDS)
    assert_array_equal(there.tp, back.tp)
    assert_array_equal(there.fp, back.fn)
    assert_array_equal(there.fn, back.fp)


@given(small_masks, small_masks, st.permutations(range(1, 7)), st.sampled_from([1, 1000, 2**29]))
def test_relabelling_leaves_counts(true: np.ndarray, predicted: np.ndarray, order: list[int], factor: int) -> None:
    table = np.array([0, *order], np.uint32) * np.uint32(factor)
    before = match_masks(true, predicted, thresholds=ALL_THRESHOLDS)
    after = match_masks(table[true], predicted.astype(np.int64), thresholds=ALL_THRESHOLDS)
    assert_array_equal(before.tp, after.tp)
    assert_array_equal(before.fn, after.fn)


def test_more_overlapping_pairs_than_the_table_starts_with() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 400, (2, 300, 300))
    pairs = np.unique(np.stack([true, predicted])[:, (true > 0) & (predicted > 0)], axis=1)
    assert pairs.shape[1] > 4096
    n_matched = match_masks(true, predicted, thresholds=(1e-9,)).tp
    assert n_matched.tolist() == [399]


def test_a_mask_against_itself_is_perfect_even_without_background() -> None:
    mask = np.arange(1, 13, dtype=np.uint16).reshape(3, 4)
    same = match_masks(mask, mask)
    assert same.tp.tolist() == [12] * 10
    assert same.fp.sum() == same.fn.sum() == 0


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), r"same shape \(y, x\), got \(3, 4\) and \(4, 3\)"),
        (np.zeros((1, 3, 4), int), np.zeros((3, 4), int), r"true mask: expected dims \(y, x\)"),
        (np.zeros((3, 4), int), np.zeros((3, 4)), "predicted mask: expected integer labels, got float64"),
        (np.full((3, 4), -1), np.zeros((3, 4), int), "true mask: labels run from -1 to 0, expected 0"),
        (np.full((3, 4), 2**32), np.zeros((3, 4), int), "true mask: labels run from 0 to 4294967296"),
    ],
)
def test_masks_that_cannot_be_matched(true: np.ndarray, predicted: np.ndarray, message: str) -> None:
    with pytest.raises(FintuneValueError, match=message):
        match_masks(true, predicted)


@pytest.mark.parametrize("thresholds", [(0.0,), (1.1,), (0.5, float("nan")), ((0.5,),)])
def test_thresholds_outside_their_range(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(FintuneValueError, match=r"thresholds: expected IoU values in \(0, 1\]"):
        match_masks(np.zeros((2, 2), int), np.zeros((2, 2), int), thresholds=thresholds)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_labelled_counts_are_those_of_each_tile(chunk: int | None) -> None:
    rng = np.random.default_rng(2)
    masks = np.stack([random_mask(rng) for _ in range(4)])
    true = xr.DataArray(masks, dims=(n.TILE, n.Y, n.X), coords={n.TILE: list("abcd")})
    predicted = xr.concat([true, true.roll({n.X: 1})], dim=xr.Variable(n.RUN, ["same", "moved"]))
    if chunk is not None:
        true, predicted = true.chunk({n.TILE: chunk}), predicted.chunk({n.TILE: chunk})
    counts = match_counts(true, predicted, thresholds=(0.3, 0.5)).compute(scheduler="sync")
    assert counts[n.TP].dims == (n.RUN, n.TILE, n.THRESHOLD)
    for run in ("same", "moved"):
        for tile in "abcd":
            at = {n.RUN: run, n.TILE: tile}
            pair = true.sel({n.TILE: tile}).values, predicted.sel(at).values
            one = match_masks(*pair, thresholds=(0.3, 0.5))
            assert counts[n.TP].sel(at).values.tolist() == one.tp.tolist()
            assert counts[n.FP].sel(at).values.tolist() == one.fp.tolist()
            assert counts[n.FN].sel(at).values.tolist() == one.fn.tolist()
