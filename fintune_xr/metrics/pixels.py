"""Agreement of a map of probabilities with disc targets, pixel by pixel; unknown pixels (-1) count nowhere.

These are the values that CryoSegNet reports, and what segmentation losses see. A particle found half counts half here;
whether particles were found is in `fintune_xr.metrics.detection`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import f1, quotient
from fintune_xr.tasks.detection import PROBABILITY_STEPS

N_BINS: Final = 4096
EXACT_BINS: Final = 65536
"""Bins of which each of the 65,535 steps of a stored probability has one of its own: AUC over them is exact."""


def pixel_histogram(
    target: NDArray[np.int8], probability: NDArray[np.floating], *, n_bins: int = N_BINS
) -> NDArray[np.int64]:
    """Known pixels (2, n_bins) int64 by target (0, 1) and probability, in bins of equal width from 0 to 1.

    Histograms of tiles add up to that of all their pixels. Bin b holds b / n_bins <= probability < (b + 1) / n_bins,
    the last one also 1.

    Raises FintuneValueError where shapes differ, the target holds other values, or a known pixel has no probability.
    """
    known = _known(target, probability)
    values, truth = probability[known].astype(np.float64), target[known].astype(np.int64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise FintuneValueError(
            f"probability: expected 0 to 1 in every known pixel, got {values.min()} to {values.max()}"
        )
    bins = np.minimum((values * n_bins).astype(np.int64), n_bins - 1)
    return np.bincount(truth * n_bins + bins, minlength=2 * n_bins).reshape(2, n_bins)


def stored_histogram(target: NDArray[np.int8], probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """Known pixels (2, EXACT_BINS) int64 by target and by the probability that a run would store of them.

    Trainings are thereby measured as runs are: the same network has the same AUC in its log and in the scores of its
    run. Raises as `pixel_histogram` does.
    """
    stored = np.rint(probability * PROBABILITY_STEPS).astype(np.float64) * (1 / PROBABILITY_STEPS)
    return pixel_histogram(target, stored, n_bins=EXACT_BINS)


def coarser(histogram: NDArray[Any], n_bins: int = N_BINS) -> NDArray[np.int64]:
    """The histogram (2, n_bins) of the same pixels in fewer bins, each the sum of as many neighbours."""
    joined: NDArray[np.int64] = histogram.reshape(len(histogram), n_bins, -1).sum(axis=-1, dtype=np.int64)
    return joined


def pixel_auc(histogram: NDArray[Any]) -> NDArray[np.float64]:
    """Area under the ROC curve (…) of histograms (…, 2, bin) of `pixel_histogram`: NaN where one class is missing.

    The chance that a foreground pixel has a higher probability than one of background, half where they share a bin:
    exact for the binned probabilities, so bins bound the error for the unbinned ones.
    Reference: Hanley & McNeil 1982, Radiology 143:29.
    """
    counts = np.asarray(histogram, np.float64)
    background, foreground = counts[..., 0, :], counts[..., 1, :]
    below = np.cumsum(background, axis=-1) - background / 2
    return quotient(np.sum(foreground * below, axis=-1), foreground.sum(axis=-1) * background.sum(axis=-1))


def histogram_counts(histogram: NDArray[Any], threshold: float) -> tuple[NDArray[np.int64], ...]:
    """True positive, false positive and false negative pixels (…) of histograms (…, 2, bin) from `threshold` on.

    `threshold` is the lower end of a bin, as `best_pixel_threshold` gives it; others are moved up to the next one.
    """
    first = int(np.ceil(threshold * histogram.shape[-1]))
    fp, tp = (histogram[..., target, first:].sum(axis=-1, dtype=np.int64) for target in (0, 1))
    return tp, fp, histogram[..., 1, :first].sum(axis=-1, dtype=np.int64)


def best_pixel_threshold(histogram: NDArray[Any]) -> float:
    """The lower end of a bin from which on pixels give the highest F1, the highest such where several do.

    Raises FintuneValueError where no pixel is foreground.
    """
    background, foreground = (np.asarray(row, np.int64) for row in histogram)
    if not foreground.sum():
        raise FintuneValueError("no threshold can be chosen: no pixel is foreground. Annotate more micrographs.")
    tp, fp = (np.cumsum(row[::-1])[::-1] for row in (foreground, background))
    scores = f1(tp, fp, foreground.sum() - tp)
    return float(scores.size - 1 - int(np.argmax(scores[::-1]))) / scores.size


def _known(target: NDArray[np.int8], other: NDArray[Any]) -> NDArray[np.bool_]:
    if target.shape != other.shape:
        raise FintuneValueError(f"target and prediction differ in shape: {target.shape} and {other.shape}")
    if target.size and not (target.min() >= -1 and target.max() <= 1):
        raise FintuneValueError(f"target: expected -1, 0 or 1, got {target.min()} to {target.max()}")
    return np.asarray(target != -1)
