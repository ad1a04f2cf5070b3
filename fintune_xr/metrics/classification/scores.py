"""Scores of runs that sort participants into classes, with intervals over participants and shared ranks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.classification import kernels
from fintune_xr.metrics.classification.units import Floats, Ints, most_probable
from fintune_xr.metrics.intervals import INTERVAL_QUANTILES
from fintune_xr.seeds import stream

# One number of a run, and one for each of its classes.
OF_RUN: Final = (n.BALANCED_ACCURACY, n.ACCURACY, n.MACRO_F1, n.MEAN_AUROC, n.LOG_LOSS, n.BRIER)
OF_CLASS: Final = (n.RECALL, n.F1, n.AUROC)
_LOST_WITH_A_CLASS: Final = (n.BALANCED_ACCURACY, n.MACRO_F1, n.MEAN_AUROC)


def classification_scores(probability: ArrayLike, truth: ArrayLike) -> xr.Dataset:
    """Scores of `probability` (run, unit, class) against `truth` (unit,), without coordinates.

    `balanced_accuracy`, `accuracy`, `macro_f1`, `mean_auroc`, `log_loss`, `brier` (run,); `recall`, `f1`, `auroc`
    (run, class), NaN for a class that is absent; `n_auroc` (run,), of how many classes `mean_auroc` is the mean;
    `confusion` (run, truth, predicted); `n_units` (run, bin), `confidence` and `right` (run, bin) of a calibration
    curve.

    Raises FintuneValueError for probabilities that are not finite, or classes out of range.
    """
    scores, classes = _checked(probability, truth)
    single = [_estimates(one, classes) for one in scores]
    return xr.concat(single, dim=n.RUN)


def scores_by_participant_bootstrap(
    probability: ArrayLike, truth: ArrayLike, *, n_resamples: int, seed: int
) -> xr.Dataset:
    """`classification_scores` with 95 % percentile intervals over units, and differences on the same resamples.

    A resample draws as many units as there are, with replacement; it depends on `seed` and its index alone, and is
    the same for all runs. Adds `<score>_interval` (…, quantile) and `<score>_difference` (run, reference, …) = run -
    reference, with its interval. A resample that loses a class is left out of the intervals of balanced accuracy,
    macro-F1 and mean AUROC: `n_complete` are the others.

    Raises FintuneValueError also for fewer than two units or one resample.
    """
    scores, classes = _checked(probability, truth)
    if classes.size < 2 or n_resamples < 1:
        raise FintuneValueError(
            f"an interval needs two units and one resample, got {classes.size} and {n_resamples}. Evaluate a larger "
            "part, or take 1,000 resamples."
        )
    weights = drawn_units(classes.size, n_resamples, seed)
    has_all = (weights @ (classes[:, np.newaxis] == np.unique(classes)) > 0).all(-1)
    resampled = xr.concat([_resampled(one, classes, weights, has_all) for one in scores], dim=n.RUN)
    estimate = classification_scores(scores, classes)
    paired = estimate.assign(_differences(estimate[[*OF_RUN, *OF_CLASS]]))
    with warnings.catch_warnings():
        # A class that is absent has no score in any resample, which numpy remarks on.
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        quantiles = resampled.assign(_differences(resampled)).quantile(INTERVAL_QUANTILES, dim=n.RESAMPLE)
    intervals = {f"{name}_{n.INTERVAL}": array.transpose(..., n.QUANTILE) for name, array in quantiles.items()}
    return paired.assign(intervals).assign({n.N_COMPLETE: int(has_all.sum())})


def drawn_units(n_units: int, n_resamples: int, seed: int) -> Floats:
    """How often each unit is drawn in each resample (resample, unit)."""
    drawn = np.empty((n_resamples, n_units))
    for resample in range(n_resamples):
        picks = stream(seed, "participants of classes", resample).integers(n_units, size=n_units)
        drawn[resample] = np.bincount(picks, minlength=n_units)
    return drawn


def shared_ranks(score: Sequence[float], difference_interval: Floats) -> Ints:
    """Ranks (run,) by falling `score`, shared by runs that cannot be told from the first of their rank.

    `difference_interval` (run, reference, quantile) of run - reference. The best run is first; all whose interval of
    the difference to it includes 0 share its rank. The best of the others is first of the next rank, which counts
    the runs before it; and so on. A run without a score comes last.
    """
    values = np.asarray(score, np.float64)
    ranks = np.zeros(values.size, np.int64)
    left = list(np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable"))
    while left:
        first = left[0]
        low, high = difference_interval[left, first, 0], difference_interval[left, first, 1]
        is_level = (low <= 0) & (high >= 0)
        is_level[0] = True
        ranks[[one for one, level in zip(left, is_level, strict=True) if level]] = values.size - len(left) + 1
        left = [one for one, level in zip(left, is_level, strict=True) if not level]
    return ranks


def _checked(probability: ArrayLike, truth: ArrayLike) -> tuple[Floats, Ints]:
    scores, classes = np.asarray(probability, np.float64), np.asarray(truth, np.int64)
    if scores.ndim != 3 or classes.shape != scores.shape[1:2] or not np.isfinite(scores).all():
        raise FintuneValueError(
            f"probability: expected finite numbers (run, unit, class) for {classes.size} units, got {scores.shape}. "
            "Compare runs on the units that all of them have."
        )
    if classes.size and not 0 <= classes.min() <= classes.max() < scores.shape[2]:
        raise FintuneValueError(f"truth: expected classes 0 to {scores.shape[2] - 1}, got {np.unique(classes)}")
    return scores, classes


def _estimates(probability: Floats, truth: Ints) -> xr.Dataset:
    weights = np.ones((1, truth.size))
    found = _scored(probability, truth, weights).isel({n.RESAMPLE: 0})
    counts = kernels.confusion(truth, most_probable(probability), probability.shape[1])
    n_units, confidence, right = kernels.calibration(probability, truth)
    return found.assign(
        {
            n.N_AUROC: int(found[n.AUROC].notnull().sum()),
            n.CONFUSION: ((n.TRUTH, n.PREDICTED), counts.astype(np.int64)),
            n.N_UNITS: (n.BIN, n_units),
            n.CONFIDENCE: (n.BIN, confidence),
            n.RIGHT: (n.BIN, right),
        }
    )


def _resampled(probability: Floats, truth: Ints, weights: Floats, has_all: ArrayLike) -> xr.Dataset:
    """Scores of one run in each resample."""
    found = _scored(probability, truth, weights)
    complete = xr.DataArray(has_all, dims=n.RESAMPLE)
    return found.assign({name: found[name].where(complete) for name in _LOST_WITH_A_CLASS})


def _scored(probability: Floats, truth: Ints, weights: Floats) -> xr.Dataset:
    counts = kernels.confusion(truth, most_probable(probability), probability.shape[1], weights)
    of_class: Mapping[str, Floats] = {
        n.RECALL: kernels.class_recall(counts),
        n.F1: kernels.class_f1(counts),
        n.AUROC: kernels.class_auroc(probability, truth, weights),
    }
    share = weights / weights.sum(-1, keepdims=True)
    of_run: Mapping[str, Floats] = {
        n.BALANCED_ACCURACY: kernels.balanced_accuracy(counts),
        n.ACCURACY: kernels.accuracy(counts),
        n.MACRO_F1: kernels.macro_f1(counts),
        n.MEAN_AUROC: kernels.mean_auroc(of_class[n.AUROC]),
        n.LOG_LOSS: share @ kernels.unit_log_loss(probability, truth),
        n.BRIER: share @ kernels.unit_brier(probability, truth),
    }
    return xr.Dataset(
        {name: (n.RESAMPLE, values) for name, values in of_run.items()}
        | {name: ((n.RESAMPLE, n.CLASS), values) for name, values in of_class.items()}
    )


def _differences(scores: xr.Dataset) -> dict[str, xr.DataArray]:
    """run - reference of every score."""
    others = scores.rename({n.RUN: n.REFERENCE})
    pairs = {}
    for name in scores:
        difference = scores[name] - others[name]
        rest = [dim for dim in difference.dims if dim not in (n.RUN, n.REFERENCE)]
        pairs[f"{name}_{n.DIFFERENCE}"] = difference.transpose(n.RUN, n.REFERENCE, *rest)
    return pairs
