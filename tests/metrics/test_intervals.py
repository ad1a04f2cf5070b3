"""Scores against values worked by hand, intervals over donors against loops over the same draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.stats.multitest import multipletests

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics import donor_tests
from fintune_xr.metrics.counts import average_precision, f1, precision, recall
from fintune_xr.metrics.donor_tests import holm, sign_flip_p
from fintune_xr.metrics.instance import match_counts
from fintune_xr.metrics.intervals import STUDENT_T, Total, instance_scores, scores_by_donor, with_donor_intervals


def test_scores_worked_by_hand() -> None:
    tp, fp, fn = np.array([6, 0, 0, 0]), np.array([2, 3, 0, 0]), np.array([4, 0, 5, 0])
    nan = np.nan
    assert_array_equal(average_precision(tp, fp, fn), [0.5, 0, 0, nan])
    assert_array_equal(precision(tp, fp, fn), [0.75, 0, nan, nan])
    assert_array_equal(recall(tp, fp, fn), [0.6, nan, 0, nan])
    assert_array_equal(f1(tp, fp, fn), [12 / 18, 0, 0, nan])


def drawn_counts(seed: int = 0, n_tiles: int = 11) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    dims = (n.RUN, n.TILE, n.THRESHOLD)
    counts = {name: (dims, rng.integers(0, 9, (3, n_tiles, 2))) for name in (n.TP, n.FP, n.FN)}
    for _, values in counts.values():
        values[:, 0] = 0
    coords = {
        n.RUN: ["baseline", "generic", "hybrid"],
        n.TILE: [f"t{i}" for i in range(n_tiles)],
        n.DONOR: (n.TILE, [f"d{i % 4}" for i in range(n_tiles)]),
        n.THRESHOLD: [0.5, 0.75],
    }
    return xr.Dataset(counts, coords)


def slow_scores(counts: xr.Dataset, tiles: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Average precision (run, threshold) of a list of tiles as image mean and pooled, one tile at a time."""
    single, sums = [], np.zeros((3, 3, 2))
    for tile in tiles:
        tp, fp, fn = (counts[name].values[:, tile].astype(float) for name in (n.TP, n.FP, n.FN))
        sums += [tp, fp, fn]
        with np.errstate(invalid="ignore"):
            single.append(tp / (tp + fp + fn))
    return np.nanmean(single, axis=0), sums[0] / sums.sum(axis=0)


def test_image_mean_and_pooled_have_their_own_names() -> None:
    counts = drawn_counts()
    scores = instance_scores(counts, over=n.TILE)
    image_mean, pooled = slow_scores(counts, list(range(11)))
    assert scores["average_precision_pooled"].dims == (n.RUN, n.THRESHOLD)
    assert_allclose(scores["average_precision_image_mean"], image_mean)
    assert_allclose(scores["average_precision_pooled"], pooled)
    assert_allclose(scores["mean_average_precision_pooled"], pooled.mean(axis=1))
    assert_allclose(scores["mean_average_precision_image_mean"], image_mean.mean(axis=1))
    assert scores["average_precision_n_images"].values.tolist() == [[10, 10]] * 3
    for name in ("precision", "recall", "f1"):
        assert {f"{name}_image_mean", f"{name}_pooled", f"{name}_n_images"} <= set(scores)


def test_scores_without_a_threshold_dim_and_of_nothing() -> None:
    counts = drawn_counts().isel({n.RUN: 0, n.THRESHOLD: 0}, drop=True)
    scores = instance_scores(counts.isel({n.TILE: [0]}), over=n.TILE)
    assert "mean_average_precision_pooled" not in scores
    assert np.isnan(scores["average_precision_image_mean"])
    assert np.isnan(scores["f1_pooled"])
    assert scores["average_precision_n_images"] == 0


def test_scores_stay_lazy(no_compute: None) -> None:
    donor = drawn_counts()[n.DONOR]
    counts = drawn_counts().chunk({n.TILE: 3})
    scores = instance_scores(counts, over=n.TILE)
    resampled = scores_by_donor(counts, donor, n_flips=10, seed=0)
    masks = xr.DataArray(np.zeros((4, 8, 8), np.uint32), dims=(n.TILE, n.Y, n.X)).chunk({n.TILE: 1})
    assert all(array.chunks for array in scores.values())
    assert all(array.chunks for array in resampled.values())
    assert all(array.chunks for array in match_counts(masks, masks).values())


@pytest.mark.parametrize("chunk", [1, 4, 11])
def test_scores_do_not_depend_on_chunks(chunk: int) -> None:
    counts = drawn_counts()
    chunked = counts.chunk({n.TILE: chunk, n.RUN: 2})
    xr.testing.assert_allclose(
        instance_scores(counts, over=n.TILE), instance_scores(chunked, over=n.TILE).compute(scheduler="sync")
    )
    xr.testing.assert_allclose(
        scores_by_donor(counts, counts[n.DONOR], n_flips=20, seed=3),
        scores_by_donor(chunked, counts[n.DONOR], n_flips=20, seed=3).compute(scheduler="sync"),
    )


@pytest.mark.parametrize(
    ("change", "over", "message"),
    [
        (lambda c: c.drop_vars(n.FN), n.TILE, "missing: fn"),
        (lambda c: c, "image", "tp: no dim 'image' to score over"),
        (lambda c: c.astype(float), n.TILE, "tp: expected integer counts, got float64"),
    ],
)
def test_counts_that_cannot_be_scored(change: object, over: str, message: str) -> None:
    with pytest.raises(FintuneValueError, match=message):
        instance_scores(change(drawn_counts()), over=over)


def test_intervals_equal_leaving_donors_out_one_by_one() -> None:
    counts = drawn_counts()
    found = scores_by_donor(counts, counts[n.DONOR], n_flips=60, seed=9)
    without = [slow_scores(counts, [t for t in range(11) if t % 4 != donor]) for donor in range(4)]
    whole = slow_scores(counts, list(range(11)))
    for way, name in enumerate(("image_mean", "pooled")):
        left = np.array([one[way] for one in without])
        score = np.concatenate([whole[way][None], left])
        paired = score[:, 1] - score[:, 0]
        assert_allclose(found[f"average_precision_{name}_interval"], t_interval(score, clipped=True))
        at = {n.RUN: "generic", n.REFERENCE: "baseline"}
        assert_allclose(found[f"average_precision_{name}_difference_interval"].sel(at), t_interval(paired))
    assert found["f1_pooled_difference"].dims == (n.RUN, n.REFERENCE, n.THRESHOLD)
    assert found.attrs["interval_method"] == STUDENT_T
    xr.testing.assert_allclose(found["f1_pooled"], instance_scores(counts, over=n.TILE)["f1_pooled"])


def t_interval(values: np.ndarray, *, clipped: bool = False) -> np.ndarray:
    """95 % interval (…, 2) from the value of all donors and those without each (1 + donor, …)."""
    m = len(values) - 1
    error = np.sqrt((m - 1) * values[1:].var(axis=0))
    half = scipy.stats.t(m - 1).ppf(0.975) * error
    ends = np.stack([values[0] - half, values[0] + half], axis=-1)
    return ends.clip(0, 1) if clipped else ends


def test_one_image_a_donor_gives_the_t_test_of_textbooks() -> None:
    counts = drawn_counts(5).isel({n.TILE: slice(1, None)}).drop_vars(n.TILE)
    donor = xr.DataArray([f"d{i}" for i in range(10)], dims=n.TILE)
    found = scores_by_donor(counts, donor, n_flips=5, seed=0)
    tp, fp, fn = (counts[name].values.astype(float) for name in (n.TP, n.FP, n.FN))
    own = tp / (tp + fp + fn)
    paired = own[2, :, 0] - own[0, :, 0]
    expected = scipy.stats.ttest_1samp(paired, 0).confidence_interval(0.95)
    at = {n.RUN: "hybrid", n.REFERENCE: "baseline", n.THRESHOLD: 0.5}
    name = "average_precision_image_mean_difference"
    assert_allclose(found[f"{name}_interval"].sel(at), expected)
    signs = np.array(list(itertools.product((1, -1), repeat=10)))
    share = (np.abs(signs @ paired) >= abs(paired.sum()) - 1e-12).mean()
    assert found[f"{name}_p"].sel(at) == pytest.approx(share)
    exact = scipy.stats.permutation_test(
        (paired, np.zeros(10)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert found[f"{name}_p"].sel(at) == pytest.approx(exact.pvalue)


def test_three_donors_have_neither_interval_nor_p() -> None:
    counts = drawn_counts().isel({n.TILE: slice(1, 4)})
    found = scores_by_donor(counts, counts[n.DONOR], n_flips=5, seed=0)
    assert found["f1_pooled_interval"].isnull().all()
    assert found["f1_pooled_difference_p"].isnull().all()
    assert found["f1_pooled"].notnull().any()


def test_a_donor_without_the_score_takes_no_part() -> None:
    counts = drawn_counts()
    more = counts.isel({n.TILE: [*range(11), 0]}).drop_vars([n.TILE, n.DONOR])
    donor = xr.DataArray([*counts[n.DONOR].values, "empty"], dims=n.TILE)
    found = scores_by_donor(more, donor, n_flips=5, seed=0)
    alone = scores_by_donor(counts, counts[n.DONOR], n_flips=5, seed=0)
    for name in ("average_precision_image_mean", "f1_pooled_difference"):
        assert_allclose(found[f"{name}_interval"], alone[f"{name}_interval"], atol=1e-12)


def test_drawn_signs_are_within_chance_of_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(0.4, 1, (5, 12))
    every = sign_flip_p(values, n_flips=1, seed=0)
    monkeypatch.setattr(donor_tests, "MAX_ALL_SIGNS", 2)
    drawn = sign_flip_p(values, n_flips=20_000, seed=0)
    assert (np.abs(drawn - every) < 5 * np.sqrt(every * (1 - every) / 20_000) + 1e-4).all()
    assert (sign_flip_p(values + 100, n_flips=99, seed=0) == 0.01).all(), "never 0"
    identical = sign_flip_p(np.zeros((1, 12)), n_flips=99, seed=0)
    assert identical == 1


# A call of the oracle takes 50 ms.
@settings(max_examples=15)
@given(hnp.arrays(np.float64, st.integers(1, 8), elements=st.one_of(st.just(np.nan), st.floats(0, 1))))
def test_holm_equals_statsmodels(p: np.ndarray) -> None:
    found, known = holm(p), ~np.isnan(p)
    assert np.isnan(found[~known]).all()
    if known.any():
        assert_allclose(found[known], multipletests(p[known], method="holm")[1])


def test_order_of_tiles_does_not_matter_to_the_interval() -> None:
    counts = drawn_counts()
    turned = counts.isel({n.TILE: slice(None, None, -1)})
    xr.testing.assert_allclose(
        scores_by_donor(counts, counts[n.DONOR], n_flips=15, seed=1),
        scores_by_donor(turned, turned[n.DONOR], n_flips=15, seed=1),
    )


def test_equal_donors_leave_no_width() -> None:
    counts = drawn_counts().isel({n.TILE: [1, 1, 1, 1]}).drop_vars([n.TILE, n.DONOR])
    donor = xr.DataArray(["a", "b", "c", "d"], dims=n.TILE)
    found = scores_by_donor(counts, donor, n_flips=25, seed=4)
    for name in ("average_precision_pooled", "f1_image_mean", "recall_pooled_difference"):
        width = found[f"{name}_interval"].diff(n.QUANTILE)
        assert_allclose(width, 0, atol=1e-12)


def test_without_runs_there_are_no_differences() -> None:
    counts = drawn_counts().isel({n.RUN: 0}, drop=True)
    found = scores_by_donor(counts, counts[n.DONOR], n_flips=5, seed=0)
    assert not [name for name in found if n.DIFFERENCE in str(name)]
    assert found["precision_pooled_interval"].dims == (n.THRESHOLD, n.QUANTILE)


@pytest.mark.parametrize(
    ("donor", "n_flips", "message"),
    [
        (lambda d: d.isel({n.TILE: slice(5)}), 5, "donor and counts differ along 'tile'"),
        (lambda d: d.copy(data=["one"] * 11), 5, "needs two or more, got 1"),
        (lambda d: d.expand_dims("z"), 5, "donor: expected names along one dim and in memory"),
        (lambda d: d.drop_vars(n.DONOR).chunk({n.TILE: 2}), 5, "donor: expected names along one dim"),
        (lambda d: d, 0, "n_flips: expected 1 or more, got 0"),
    ],
)
def test_intervals_that_make_no_sense(donor: object, n_flips: int, message: str) -> None:
    counts = drawn_counts()
    with pytest.raises(FintuneValueError, match=message):
        scores_by_donor(counts, donor(counts[n.DONOR]), n_flips=n_flips, seed=0)


def test_an_image_without_the_class_does_not_count_for_its_mean() -> None:
    """Class in place of threshold: a false positive in an image that lacks the class costs the pooled score only."""
    counts = xr.Dataset(
        {
            n.TP: (dims := (n.TILE, "class"), [[8, 0], [0, 3]]),
            n.FP: (dims, [[0, 5], [4, 0]]),
            n.FN: (dims, [[2, 0], [0, 1]]),
        },
        coords={"class": ["vessel", "gland"]},
    )
    scores = instance_scores(counts, over=n.TILE, only_with_truth=True)
    assert scores["f1_image_mean"].values.tolist() == [16 / 18, 6 / 7]
    assert scores["average_precision_image_mean"].values.tolist() == [0.8, 0.75]
    assert scores["f1_pooled"].values.tolist() == [16 / 22, 6 / 12]
    assert scores["f1_n_images"].values.tolist() == [1, 1]
    assert instance_scores(counts, over=n.TILE)["f1_image_mean"].values.tolist() == [16 / 36, 6 / 14]


def test_any_score_gets_its_interval_in_the_same_way() -> None:
    rng = np.random.default_rng(8)
    dims = (n.RUN, n.TILE, "truth", "predicted")
    confusion = xr.DataArray(rng.integers(0, 5, (2, 11, 3, 3)), dims=dims, coords={n.RUN: ["a", "b"]})
    donor = xr.DataArray([f"d{i % 4}" for i in range(11)], dims=n.TILE)

    def accuracy(counts: xr.Dataset, total: Total) -> xr.Dataset:
        matrix = total(counts["confusion"]).transpose(..., "truth", "predicted")
        right = xr.apply_ufunc(
            np.trace, matrix, input_core_dims=[["truth", "predicted"]], kwargs={"axis1": -2, "axis2": -1}
        )
        return xr.Dataset(
            {"accuracy": right / matrix.sum(["truth", "predicted"]), "accuracy_n_images": total(donor != "")}
        )

    found = with_donor_intervals(xr.Dataset({"confusion": confusion}), donor, accuracy, n_flips=30, seed=9)
    kept = [list(range(11)), *([t for t in range(11) if t % 4 != donor] for donor in range(4))]
    values = np.array(
        [[np.trace(m := confusion.values[run, tiles].sum(axis=0)) / m.sum() for run in range(2)] for tiles in kept]
    )
    assert_allclose(found["accuracy_interval"], t_interval(values))
    paired = found["accuracy_difference_interval"].sel({n.RUN: "b", n.REFERENCE: "a"})
    assert_allclose(paired, t_interval(values[:, 1] - values[:, 0]))
    assert "accuracy_n_images_interval" not in found
    with pytest.raises(FintuneValueError, match="whole: no dim 'tile' to score over"):
        with_donor_intervals(xr.Dataset({"whole": 1}), donor, accuracy, n_flips=5, seed=0)
