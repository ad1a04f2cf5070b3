"""Agreement of classes of whole regions: accuracy, balanced accuracy, precision, recall and F1 of each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import xarray as xr

from fintune_xr import names as n

Total: TypeAlias = Callable[[xr.DataArray], xr.DataArray]
"""Sum over images, which is where a resample puts its weights."""


def region_scores(counts: xr.Dataset, total: Total) -> xr.Dataset:
    """Scores of `confusion` (tile, …, truth, predicted), regions by true and given class, over the same classes.

    `accuracy`; `balanced_accuracy`, the mean of recall over the classes that there are; `precision`, `recall`, `f1`
    (class), NaN where there is nothing to divide by. `total` adds up over images.
    """
    matrix = total(counts[n.CONFUSION]).astype(np.float64)
    classes = matrix[n.TRUTH].values
    hit = xr.apply_ufunc(
        lambda values: np.diagonal(values, axis1=-2, axis2=-1),
        matrix, input_core_dims=[[n.TRUTH, n.PREDICTED]], output_core_dims=[[n.CLASS]],
    )  # fmt: skip
    there = matrix.sum(n.PREDICTED).rename({n.TRUTH: n.CLASS}).drop_vars(n.CLASS)
    given = matrix.sum(n.TRUTH).rename({n.PREDICTED: n.CLASS}).drop_vars(n.CLASS)
    recall = hit / there.where(there > 0)
    found = {
        n.ACCURACY: hit.sum(n.CLASS) / there.sum(n.CLASS).where(there.sum(n.CLASS) > 0),
        n.BALANCED_ACCURACY: recall.mean(n.CLASS),
        n.PRECISION: hit / given.where(given > 0),
        n.RECALL: recall,
        n.F1: 2 * hit / (there + given).where(there + given > 0),
    }
    return xr.Dataset(found).assign_coords({n.CLASS: classes})
