"""Scores of classes on plain arrays; every one also under weights, so that all resamples are scored at once.

Leading dims of weights and confusions, written (…), are resamples, runs or nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fintune_xr.metrics.classification.units import Floats, Ints

N_BINS: Final = 10
# Least probability in the log loss, as in scikit-learn: a certain mistake costs 36 and not everything.
SMALLEST: Final = float(np.finfo(np.float64).eps)


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int, weights: ArrayLike | None = None) -> Floats:
    """Units (…, truth, predicted), or their summed `weights` (…, unit)."""
    cell = np.asarray(truth, np.int64) * n_classes + np.asarray(predicted, np.int64)
    member = (cell[:, np.newaxis] == np.arange(n_classes**2)).astype(np.float64)
    drawn = np.ones(cell.size) if weights is None else np.asarray(weights, np.float64)
    counts = drawn @ member
    return np.asarray(counts.reshape(*counts.shape[:-1], n_classes, n_classes))


def accuracy(counts: ArrayLike) -> Floats:
    """Share of units that are right, of confusions (…, truth, predicted)."""
    table = np.asarray(counts, np.float64)
    return _quotient(np.trace(table, axis1=-2, axis2=-1), table.sum((-2, -1)))


def class_recall(counts: ArrayLike) -> Floats:
    """Share of the units of a class that are right (…, class); NaN for a class without units."""
    table = np.asarray(counts, np.float64)
    return _quotient(_diagonal(table), table.sum(-1))


def balanced_accuracy(counts: ArrayLike) -> Floats:
    """Mean recall of the classes that have units."""
    return _mean_of_known(class_recall(counts))


def class_f1(counts: ArrayLike) -> Floats:
    """2 tp / (2 tp + fp + fn) of each class (…, class): 0 where never right, NaN where neither true nor predicted."""
    table = np.asarray(counts, np.float64)
    return _quotient(2 * _diagonal(table), table.sum(-1) + table.sum(-2))


def macro_f1(counts: ArrayLike) -> Floats:
    """Mean F1 of the classes that have units."""
    table = np.asarray(counts, np.float64)
    return _mean_of_known(np.where(table.sum(-1) > 0, class_f1(table), np.nan))


def auroc(score: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """P(score of a positive > that of a negative) + half of P(equal), (…,); NaN where there are none of either.

    `score`, `positive` (unit,); `weights` (…, unit). Sorted once whatever the number of weights: with ties together
    as groups g in ascending order, sum_g pos_g (neg_below_g + neg_g / 2) / (pos neg).
    Reference: Hanley & McNeil 1982, Radiology 143:29.
    """
    values = np.asarray(score, np.float64)
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_values[1:] != sorted_values[:-1]]))
    is_positive = np.asarray(positive, np.bool_)[order]
    drawn = (np.ones(values.size) if weights is None else np.asarray(weights, np.float64))[..., order]
    pos = np.add.reduceat(np.where(is_positive, drawn, 0.0), first, axis=-1)
    neg = np.add.reduceat(np.where(is_positive, 0.0, drawn), first, axis=-1)
    below = np.cumsum(neg, axis=-1) - neg
    return _quotient((pos * (below + neg / 2)).sum(-1), pos.sum(-1) * neg.sum(-1))


def class_auroc(probability: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """AUROC of each class against the rest (…, class), of `probability` (unit, class)."""
    scores, classes = np.asarray(probability, np.float64), np.asarray(truth, np.int64)
    single = [auroc(scores[:, one], classes == one, weights) for one in range(scores.shape[1])]
    return np.stack(single, axis=-1)


def mean_auroc(of_classes: ArrayLike) -> Floats:
    """Mean of the AUROC (…, class) of the classes that have one."""
    return _mean_of_known(np.asarray(of_classes, np.float64))


def unit_log_loss(probability: ArrayLike, truth: ArrayLike) -> Floats:
    """-log of the probability of the true class (unit,), which counts as no less than 2e-16."""
    return np.asarray(-np.log(np.clip(_of_truth(probability, truth), SMALLEST, 1)))


def unit_brier(probability: ArrayLike, truth: ArrayLike) -> Floats:
    """Squared distance (unit,) of the probabilities from 1 at the true class and 0 elsewhere; 0 to 2."""
    scores = np.asarray(probability, np.float64)
    wanted = np.eye(scores.shape[-1])[np.asarray(truth, np.int64)]
    return np.asarray(((scores - wanted) ** 2).sum(-1))


def calibration(probability: ArrayLike, truth: ArrayLike, n_bins: int = N_BINS) -> tuple[Ints, Floats, Floats]:
    """Of each bin of the probability of the predicted class: units, their mean probability, share that is right.

    Bins are equally wide from 0 to 1, and a bound belongs to the bin below it; NaN for a bin without units.
    """
    scores = np.asarray(probability, np.float64)
    predicted = np.argmax(scores, axis=-1)
    sure = scores[np.arange(predicted.size), predicted]
    at = np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], sure)
    n_units = np.bincount(at, minlength=n_bins)
    mean = _quotient(np.bincount(at, sure, n_bins), n_units)
    right = _quotient(np.bincount(at, predicted == np.asarray(truth), n_bins), n_units)
    return n_units.astype(np.int64), mean, right


def _of_truth(probability: ArrayLike, truth: ArrayLike) -> Floats:
    scores = np.asarray(probability, np.float64)
    return np.asarray(scores[np.arange(len(scores)), np.asarray(truth, np.int64)])


def _diagonal(table: Floats) -> Floats:
    return np.diagonal(table, axis1=-2, axis2=-1)


def _mean_of_known(values: Floats) -> Floats:
    is_known = np.isfinite(values)
    return _quotient(np.where(is_known, values, 0).sum(-1), is_known.sum(-1))


def _quotient(part: ArrayLike, whole: ArrayLike) -> Floats:
    divisor = np.asarray(whole, np.float64)
    result: NDArray[np.float64] = np.divide(part, divisor, out=np.full(divisor.shape, np.nan), where=divisor > 0)
    return result
