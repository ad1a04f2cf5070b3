"""Scores of counts: true positives, false positives and false negatives of instances, particles or pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fintune_xr import names as n

COUNTS: Final = (n.TP, n.FP, n.FN)

Score = Callable[[Any, Any, Any], NDArray[np.float64]]


def average_precision(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """tp / (tp + fp + fn): NaN where truth and prediction are both empty, 0 where only one of them is."""
    return quotient(tp, np.add(tp, np.add(fp, fn)))


def iou(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """The same of pixels, where it is called intersection over union: NaN where truth and prediction are both empty."""
    return average_precision(tp, fp, fn)


def precision(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:  # noqa: ARG001
    """tp / (tp + fp): NaN where nothing was predicted."""
    return quotient(tp, np.add(tp, fp))


def recall(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:  # noqa: ARG001
    """tp / (tp + fn): NaN where the truth is empty."""
    return quotient(tp, np.add(tp, fn))


def f1(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> NDArray[np.float64]:
    """2 tp / (2 tp + fp + fn), of pixels the Dice coefficient.

    NaN where truth and prediction are both empty, 0 where only one of them is.
    """
    twice = np.multiply(2, tp)
    return quotient(twice, np.add(twice, np.add(fp, fn)))


def score_name(score: str, way: str, *suffixes: str) -> str:
    """Name of a stored score, e.g. `precision_pooled` or `precision_pooled_difference_interval`."""
    return "_".join([score, way, *suffixes])


def quotient(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    result: NDArray[np.float64] = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return result


SCORES: Final[Mapping[str, Score]] = MappingProxyType(
    {n.AVERAGE_PRECISION: average_precision, n.PRECISION: precision, n.RECALL: recall, n.F1: f1}
)

# The IoU from which on an instance is taken for found, and the score at it that models are compared by.
IOU: Final = 0.5
AP50: Final = score_name(n.AVERAGE_PRECISION, n.IMAGE_MEAN)
