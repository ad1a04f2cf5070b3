"""From scores of scans to those of the unit that is judged: a participant, an eye, or the scan itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fintune_xr.errors import FintuneValueError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What is judged: `name` (unit,) in ascending order, its class `truth` (unit,) and its scans `n_scans` (unit,)."""

    name: NDArray[Any]
    truth: Ints
    n_scans: Ints


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities (…, class) of `logits` (…, class): exp(z - max) over its sum."""
    scores = np.asarray(logits, np.float64)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def by_unit(logits: ArrayLike, label: ArrayLike, unit: ArrayLike) -> tuple[Units, Floats]:
    """Units of scans, and the mean of the softmax of their scans (…, unit, class).

    `logits` (…, scan, class); `label` (scan,) from 0; `unit` (scan,) names. The order of scans plays no part.

    Raises FintuneValueError for a unit of two classes, a scan without a class, or logits that are not finite.
    """
    scores, labels = np.asarray(logits, np.float64), np.asarray(label, np.int64)
    names, of_scan = np.unique(np.asarray(unit), return_inverse=True)
    _check(scores, labels, of_scan)
    truth = np.zeros(names.size, np.int64)
    truth[of_scan] = labels
    if (mixed := names[of_scan[truth[of_scan] != labels]]).size:
        raise FintuneValueError(
            f"scans of one unit have several classes: {', '.join(map(str, np.unique(mixed)[:5]))}. Annotate anew."
        )
    n_scans = np.bincount(of_scan, minlength=names.size)
    probability = softmax(scores)
    # In an order that does not depend on that of the scans, so that sums do not either.
    order = np.lexsort((*probability.reshape(-1, *probability.shape[-2:])[0].T, of_scan))
    first = np.cumsum(n_scans) - n_scans
    total = np.add.reduceat(probability[..., order, :], first, axis=-2)
    return Units(names, truth, n_scans), total / n_scans[:, np.newaxis]


def most_probable(probability: ArrayLike) -> Ints:
    """Class of each unit: the most probable, the lower of two that are equally so. (…, class) to (…,)."""
    return np.asarray(np.argmax(probability, axis=-1), np.int64)


def _check(scores: Floats, labels: Ints, of_scan: NDArray[Any]) -> None:
    if scores.ndim < 2 or labels.shape != (scores.shape[-2],) or of_scan.shape != labels.shape or not labels.size:
        raise FintuneValueError(
            f"scans do not fit together: logits {scores.shape}, labels {labels.shape}, units {of_scan.shape}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[-1]:
        raise FintuneValueError(
            f"label: expected classes 0 to {scores.shape[-1] - 1}, got {labels.min()} to {labels.max()}. Leave out "
            "scans without a class."
        )
    if not np.isfinite(scores).all():
        raise FintuneValueError("logits: expected finite numbers. Leave out scans that are not done.")
