"""Agreement of predicted with annotated instances: matching by intersection over union, scores, intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.instance_labels import Overlaps, label_table, overlaps
from fintune_xr.seeds import stream

IOU_THRESHOLDS: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
INTERVAL_QUANTILES: Final = (0.025, 0.975)

_COUNTS = (n.TP, n.FP, n.FN)
_WAYS = (n.IMAGE_MEAN, n.POOLED)

Score = Callable[[Any, Any, Any], NDArray[np.float64]]
Total = Callable[[xr.DataArray], xr.DataArray]


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """How many instances of one tile were found, at each IoU threshold.

    `thresholds` (threshold,) float64; `tp`, `fp`, `fn` (threshold,) int64; `n_true` = tp + fn and
    `n_predicted` = tp + fp at every threshold.
    """

    thresholds: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    n_true: int
    n_predicted: int


def match_masks(
    true: NDArray[Any], predicted: NDArray[Any], *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> Matches:
    """Counts of matched and unmatched instances of two masks (y, x) of one tile.

    A true positive is a pair with IoU >= threshold in a one-to-one matching that holds as many such pairs as
    there can be. Labels may have gaps. Counts are those of `cellpose.metrics.average_precision`, except for
    masks without any background pixel, of whose instances Cellpose leaves one out.

    Raises FintuneValueError where shapes differ, a mask holds no labels, or a threshold is not in (0, 1].
    Reference: Stringer et al. 2021, Nat. Methods 18:100.
    """
    levels = _checked(thresholds)
    pairs = overlaps(label_table(true, "true mask"), label_table(predicted, "predicted mask"))
    return _matches(pairs, pairs.second_area > 0, levels)


def match_subsets(
    true: NDArray[Any],
    predicted: NDArray[Any],
    *,
    labels: NDArray[Any],
    kept: NDArray[np.bool_],
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> list[Matches]:
    """`match_masks` of `true` with each subset of the instances of `predicted`, the pixels read only once.

    `labels` (instance,) are the labels of `predicted`; `kept` (subset, instance) says which of them a subset has.

    Raises FintuneValueError as `match_masks`, and where `labels` are not those of `predicted`.
    """
    levels = _checked(thresholds)
    table = label_table(predicted, "predicted mask")
    pairs = overlaps(label_table(true, "true mask"), table)
    present = np.flatnonzero(pairs.second_area[1:]) + 1
    if not np.array_equal(table.names[present], np.sort(np.asarray(labels))):
        raise FintuneValueError(
            f"labels: expected the {present.size} labels of the predicted mask, got {np.size(labels)} that differ. "
            "Take the cells that were measured on this very mask."
        )
    index = np.searchsorted(table.names, labels)
    has = np.zeros((len(kept), table.size), np.bool_)
    has[:, index] = kept
    return [_matches(pairs, one, levels) for one in has]


def average_precision(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """tp / (tp + fp + fn): NaN where truth and prediction are both empty, 0 where only one of them is."""
    return _quotient(tp, np.add(tp, np.add(fp, fn)))


def precision(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:  # noqa: ARG001
    """tp / (tp + fp): NaN where nothing was predicted."""
    return _quotient(tp, np.add(tp, fp))


def recall(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:  # noqa: ARG001
    """tp / (tp + fn): NaN where the truth is empty."""
    return _quotient(tp, np.add(tp, fn))


def f1(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """2 tp / (2 tp + fp + fn): NaN where truth and prediction are both empty, 0 where only one of them is."""
    twice = np.multiply(2, tp)
    return _quotient(twice, np.add(twice, np.add(fp, fn)))


SCORES: Final[Mapping[str, Score]] = MappingProxyType(
    {n.AVERAGE_PRECISION: average_precision, n.PRECISION: precision, n.RECALL: recall, n.F1: f1}
)


def match_counts(
    true: xr.DataArray, predicted: xr.DataArray, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> xr.Dataset:
    """`tp`, `fp`, `fn` (…, threshold) int64 of masks (…, y, x), other dims matched by name, e.g. (run, tile).

    Lazy for Dask masks, which have one chunk along y and x. Tiles stored in the corner of a larger array are
    right as they are: a margin that is background in both masks counts nothing.

    Raises FintuneValueError for a threshold not in (0, 1]; xarray.AlignmentError where coordinates differ.
    """
    levels = _checked(thresholds)

    def counts(predicted: NDArray[Any], true: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
        found = match_masks(true, predicted, thresholds=thresholds)
        return found.tp, found.fp, found.fn

    arrays = xr.apply_ufunc(
        counts,
        predicted,
        true,
        input_core_dims=[[n.Y, n.X], [n.Y, n.X]],
        output_core_dims=[[n.THRESHOLD]] * 3,
        vectorize=True,
        join="exact",
        dask="parallelized",
        output_dtypes=[np.int64] * 3,
        dask_gufunc_kwargs={"output_sizes": {n.THRESHOLD: levels.size}},
    )
    return xr.Dataset(dict(zip(_COUNTS, arrays, strict=True))).assign_coords({n.THRESHOLD: levels})


def score_name(score: str, way: str, *suffixes: str) -> str:
    """Name of a stored score, e.g. `precision_pooled` or `precision_pooled_difference_interval`."""
    return "_".join([score, way, *suffixes])


def instance_scores(counts: xr.Dataset, *, over: str) -> xr.Dataset:
    """Scores of `counts` (`tp`, `fp`, `fn`) along the dim `over`, as mean over images and pooled.

    For each of average_precision, precision, recall and f1: `<score>_image_mean`, the mean of the scores of
    single images; `<score>_n_images`, how many images have that score (NaN is left out of the mean: an image
    empty in truth and prediction has no score, one empty in truth only has average precision 0);
    `<score>_pooled`, the score of the summed counts. With a dim `threshold`, also `mean_average_precision_*`:
    average precision averaged over the thresholds. Other dims stay. Lazy for Dask counts.

    Raises FintuneValueError where a count is missing or `over` is not a dim of it.
    """
    _check_counts(counts, over)
    return _scores(counts, lambda array: array.sum(over))


def scores_by_donor_bootstrap(counts: xr.Dataset, donor: xr.DataArray, *, n_resamples: int, seed: int) -> xr.Dataset:
    """Scores with 95 % percentile intervals over donors, and differences between runs on the same resamples.

    `counts` as in `instance_scores`; `donor` (tile,) names the donor of each image. A resample draws as many
    donors as there are, with replacement, each with all its images; its random stream depends on `seed` and
    its index only. Variables: `<score>` as in `instance_scores`, `<score>_interval` (…, quantile) and, with a
    dim `run`, `<score>_difference` (run, reference, …) = run − reference, with its `_interval`. A resample in
    which a score does not exist is left out of that score's quantiles.

    Raises FintuneValueError for fewer than two donors or one resample, or where tiles do not agree.
    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    """
    over = _donor_dim(counts, donor)
    if n_resamples < 1:
        raise FintuneValueError(f"n_resamples: expected 1 or more, got {n_resamples}. Take 1,000 or more.")
    # Whatever is known of single tiles has no place in a table by donor, and its names may clash with it.
    bare = counts.drop_vars([name for name, array in counts.coords.items() if over in array.dims])
    estimate = _scores(bare, lambda array: array.sum(over))
    total = _resampled_total(donor, over, n_resamples, seed)
    resampled = _with_differences(_scores(bare, total)[_score_names(estimate)])
    intervals = resampled.quantile(INTERVAL_QUANTILES, dim=n.RESAMPLE).transpose(..., n.QUANTILE)
    return xr.merge(
        [
            _with_differences(estimate),
            intervals.rename({name: f"{name}_{n.INTERVAL}" for name in intervals}),
        ]
    )


def _checked(thresholds: Sequence[float]) -> NDArray[np.float64]:
    levels = np.array(thresholds, np.float64)
    if levels.ndim != 1 or not np.all((levels > 0) & (levels <= 1)):
        raise FintuneValueError(f"thresholds: expected IoU values in (0, 1], got {thresholds}.")
    return levels


def _matches(pairs: Overlaps, has: NDArray[np.bool_], levels: NDArray[np.float64]) -> Matches:
    """Counts with those instances of the second mask that `has` (index,) says; others are as if never predicted."""
    union = pairs.first_area[pairs.first] + pairs.second_area[pairs.second] - pairs.pixels
    iou = np.where(has[pairs.second], pairs.pixels / union, 0.0)
    tp = np.array([_n_matched(pairs, iou >= level) for level in levels], np.int64)
    n_true = int(np.count_nonzero(pairs.first_area[1:]))
    n_predicted = int(np.count_nonzero(has[1:]))
    return Matches(levels, tp, n_predicted - tp, n_true - tp, n_true, n_predicted)


def _n_matched(pairs: Overlaps, good: NDArray[np.bool_]) -> int:
    # Cellpose weighs "IoU reached" so much that its assignment has as many such pairs as there can be: it is
    # enough to find that number. Above IoU 0.5 no instance is in two pairs, at 0.5 hardly any.
    first, rows = np.unique(pairs.first[good], return_inverse=True)
    second, columns = np.unique(pairs.second[good], return_inverse=True)
    if first.size == second.size == rows.size:
        return int(rows.size)
    graph = csr_array((np.ones(rows.size, np.int8), (rows, columns)), shape=(first.size, second.size))
    return int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))


def _quotient(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    whole = np.asarray(whole, np.float64)
    result: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


def _check_counts(counts: xr.Dataset, over: str) -> None:
    missing = [name for name in _COUNTS if name not in counts]
    if missing:
        raise FintuneValueError(
            f"counts: expected variables {', '.join(_COUNTS)}; missing: {', '.join(missing)}. "
            "Make them with match_counts."
        )
    for name in _COUNTS:
        if over not in counts[name].dims:
            raise FintuneValueError(
                f"{name}: no dim {over!r} to score over, only {counts[name].dims}. Name the images' dim."
            )
        if counts[name].dtype.kind not in "ui":
            raise FintuneValueError(
                f"{name}: expected integer counts, got {counts[name].dtype}. Select evaluated tiles."
            )


def _donor_dim(counts: xr.Dataset, donor: xr.DataArray) -> str:
    if donor.ndim != 1 or donor.chunks is not None:
        raise FintuneValueError(
            f"donor: expected names along one dim and in memory, got dims {donor.dims}. Load the coordinate."
        )
    over = str(donor.dims[0])
    _check_counts(counts, over)
    try:
        xr.align(counts, donor, join="exact")
    except xr.AlignmentError as error:
        raise FintuneValueError(
            f"donor and counts differ along {over!r}: {error}. Select the same tiles in both, in one order."
        ) from error
    n_donors = np.unique(donor).size
    if n_donors < 2:
        raise FintuneValueError(
            f"donor: an interval over donors needs two or more, got {n_donors}. Evaluate on more donors."
        )
    return over


def _score_of(counts: Sequence[xr.DataArray], score: Score) -> xr.DataArray:
    scored: xr.DataArray = xr.apply_ufunc(score, *counts, dask="parallelized", output_dtypes=[np.float64])
    return scored


def _scores(counts: xr.Dataset, total: Total) -> xr.Dataset:
    """Every score both ways; `total` sums over images, which is where a bootstrap puts its weights."""
    of_images = [counts[name] for name in _COUNTS]
    pooled = [total(array) for array in of_images]
    found: dict[str, xr.DataArray] = {}
    for name, score in SCORES.items():
        single = _score_of(of_images, score)
        n_images = total(single.notnull())
        found[score_name(name, n.IMAGE_MEAN)] = total(single.fillna(0)) / n_images.where(n_images > 0)
        found[score_name(name, n.POOLED)] = _score_of(pooled, score)
        found[f"{name}_{n.N_IMAGES}"] = n_images
    if n.THRESHOLD in counts.dims:
        for way in _WAYS:
            by_threshold = found[score_name(n.AVERAGE_PRECISION, way)]
            found[score_name(n.MEAN_AVERAGE_PRECISION, way)] = by_threshold.mean(n.THRESHOLD, skipna=False)
    return xr.Dataset(found)


def _score_names(scores: xr.Dataset) -> list[str]:
    return [str(name) for name in scores if not str(name).endswith(n.N_IMAGES)]


def _resampled_total(donor: xr.DataArray, over: str, n_resamples: int, seed: int) -> Total:
    """Sum over tiles in each resample: one sum per donor, weighed by how often the donor was drawn."""
    donors, of_tile = np.unique(donor, return_inverse=True)
    belongs = np.equal.outer(np.arange(donors.size), of_tile).astype(np.float64)
    member = xr.DataArray(belongs, dims=(n.DONOR, over))
    drawn = np.empty((n_resamples, donors.size), np.float64)
    for resample in range(n_resamples):
        picks = stream(seed, "donors of instance scores", resample).integers(donors.size, size=donors.size)
        drawn[resample] = np.bincount(picks, minlength=donors.size)
    weights = xr.DataArray(drawn, dims=(n.RESAMPLE, n.DONOR))
    return lambda array: xr.dot(weights, xr.dot(member, array.astype(np.float64), dim=over), dim=n.DONOR)


def _with_differences(scores: xr.Dataset) -> xr.Dataset:
    if n.RUN not in scores.dims:
        return scores
    names = _score_names(scores)
    others = scores[names].rename({n.RUN: n.REFERENCE})
    pairs = {f"{name}_{n.DIFFERENCE}": _difference(scores[name], others[name]) for name in names}
    return scores.assign(pairs)


def _difference(score: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    at = score.dims.index(n.RUN) + 1
    return (score - other).transpose(*score.dims[:at], n.REFERENCE, *score.dims[at:])
