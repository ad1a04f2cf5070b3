"""Scores over images, with intervals over donors and differences between runs; of instances, particles or pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import COUNTS, SCORES, Score, score_name
from fintune_xr.seeds import stream

INTERVAL_QUANTILES: Final = (0.025, 0.975)

_WAYS = (n.IMAGE_MEAN, n.POOLED)

Total: TypeAlias = Callable[[xr.DataArray], xr.DataArray]
"""Sum over images, which is where a resample puts its weights."""

ScoresOf: TypeAlias = Callable[[xr.Dataset, Total], xr.Dataset]
"""From counts of single images and the way to add them up to scores."""


def instance_scores(counts: xr.Dataset, *, over: str, only_with_truth: bool = False) -> xr.Dataset:
    """Scores of `counts` (`tp`, `fp`, `fn`) along the dim `over`, as mean over images and pooled.

    For each of average_precision, precision, recall and f1: `<score>_image_mean`, the mean of the scores of
    single images; `<score>_n_images`, how many images have that score (NaN is left out of the mean: an image
    empty in truth and prediction has no score, one empty in truth only has average precision 0);
    `<score>_pooled`, the score of the summed counts. With a dim `threshold`, also `mean_average_precision_*`:
    average precision averaged over the thresholds. Other dims stay, such as classes in place of thresholds.
    With `only_with_truth` an image counts for the mean only where its truth holds something (tp + fn > 0).
    Lazy for Dask counts.

    Raises FintuneValueError where a count is missing or `over` is not a dim of it.
    """
    _check_counts(counts, over)
    return _scores(counts, sum_over(over), only_with_truth)


def scores_by_donor_bootstrap(
    counts: xr.Dataset, donor: xr.DataArray, *, n_resamples: int, seed: int, only_with_truth: bool = False
) -> xr.Dataset:
    """Scores with 95 % percentile intervals over donors, and differences between runs on the same resamples.

    `counts` and `only_with_truth` as in `instance_scores`; `donor` (tile,) names the donor of each image. A resample
    draws as many donors as there are, with replacement, each with all its images; its random stream depends on `seed`
    and its index only. Variables: `<score>` as in `instance_scores`, `<score>_interval` (…, quantile) and, with a
    dim `run`, `<score>_difference` (run, reference, …) = run − reference, with its `_interval`. A resample in
    which a score does not exist is left out of that score's quantiles.

    Raises FintuneValueError for fewer than two donors or one resample, or where tiles do not agree.
    Reference: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    """
    _check_counts(counts, _dim_of(donor))
    return with_donor_intervals(
        counts,
        donor,
        lambda counts, total: _scores(counts, total, only_with_truth),
        n_resamples=n_resamples,
        seed=seed,
    )


def with_donor_intervals(
    counts: xr.Dataset, donor: xr.DataArray, scores: ScoresOf, *, n_resamples: int, seed: int
) -> xr.Dataset:
    """Any `scores` of what was counted in each image, with intervals and differences as above.

    `counts` are variables along the dim of `donor` and any others; `scores` makes scores of them, adding up over
    images by the function that it is given and in no other way. Scores whose names end in `n_images` have no interval.

    Raises FintuneValueError for fewer than two donors or one resample, or where tiles do not agree.
    """
    over = _dim_of(donor)
    _check_alike(counts, donor, over)
    if n_resamples < 1:
        raise FintuneValueError(f"n_resamples: expected 1 or more, got {n_resamples}. Take 1,000 or more.")
    # Whatever is known of single tiles has no place in a table by donor, and its names may clash with it.
    bare = counts.drop_vars([name for name, array in counts.coords.items() if over in array.dims])
    estimate = scores(bare, sum_over(over))
    total = _resampled_total(donor, over, n_resamples, seed)
    resampled = _with_differences(scores(bare, total)[_score_names(estimate)])
    intervals = resampled.quantile(INTERVAL_QUANTILES, dim=n.RESAMPLE).transpose(..., n.QUANTILE)
    return xr.merge(
        [
            _with_differences(estimate),
            intervals.rename({name: f"{name}_{n.INTERVAL}" for name in intervals}),
        ]
    )


def sum_over(dim: str) -> Total:
    """The plain sum over images that lie along `dim`."""
    return lambda array: array.sum(dim)


def _check_counts(counts: xr.Dataset, over: str) -> None:
    missing = [name for name in COUNTS if name not in counts]
    if missing:
        raise FintuneValueError(
            f"counts: expected variables {', '.join(COUNTS)}; missing: {', '.join(missing)}. "
            "Make them with match_counts."
        )
    for name in COUNTS:
        if over not in counts[name].dims:
            raise FintuneValueError(
                f"{name}: no dim {over!r} to score over, only {counts[name].dims}. Name the images' dim."
            )
        if counts[name].dtype.kind not in "ui":
            raise FintuneValueError(
                f"{name}: expected integer counts, got {counts[name].dtype}. Select evaluated tiles."
            )


def _dim_of(donor: xr.DataArray) -> str:
    if donor.ndim != 1 or donor.chunks is not None:
        raise FintuneValueError(
            f"donor: expected names along one dim and in memory, got dims {donor.dims}. Load the coordinate."
        )
    return str(donor.dims[0])


def _check_alike(counts: xr.Dataset, donor: xr.DataArray, over: str) -> None:
    """Raises FintuneValueError where counts and donors are not of the same images, or of fewer than two donors."""
    for name, array in counts.data_vars.items():
        if over not in array.dims:
            raise FintuneValueError(f"{name}: no dim {over!r} to score over, only {array.dims}. Name the images' dim.")
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


def _score_of(counts: Sequence[xr.DataArray], score: Score) -> xr.DataArray:
    scored: xr.DataArray = xr.apply_ufunc(score, *counts, dask="parallelized", output_dtypes=[np.float64])
    return scored


def _scores(counts: xr.Dataset, total: Total, only_with_truth: bool) -> xr.Dataset:
    """Every score both ways; `total` sums over images, which is where a bootstrap puts its weights."""
    of_images = [counts[name] for name in COUNTS]
    pooled = [total(array) for array in of_images]
    found: dict[str, xr.DataArray] = {}
    for name, score in SCORES.items():
        single = _score_of(of_images, score)
        if only_with_truth:
            single = single.where(counts[n.TP] + counts[n.FN] > 0)
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
