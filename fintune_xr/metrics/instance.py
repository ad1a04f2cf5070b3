"""Agreement of predicted with annotated instances: matching by intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import COUNTS
from fintune_xr.pixels.instance_labels import Overlaps, label_table, overlaps

IOU_THRESHOLDS: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


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
    return xr.Dataset(dict(zip(COUNTS, arrays, strict=True))).assign_coords({n.THRESHOLD: levels})


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
