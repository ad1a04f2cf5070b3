"""Scores over images, with intervals over donors and differences between runs; of instances, particles or pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import COUNTS, SCORES, Score, score_name
from fintune_xr.metrics.donor_tests import jackknife_interval, sign_flip_p

INTERVAL_QUANTILES: Final = (0.025, 0.975)
STUDENT_T: Final = "Student's t over donors, each left out in turn"
"""Value of the attribute INTERVAL_METHOD; scores that lack it have percentiles of a bootstrap over donors."""

_WAYS = (n.IMAGE_MEAN, n.POOLED)

Total: TypeAlias = Callable[[xr.DataArray], xr.DataArray]
"""Sum over images, which is where a resample puts its weights."""

Kept: TypeAlias = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
"""From which images are a donor's (donor, image) to their weights."""

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


def scores_by_donor(
    counts: xr.Dataset, donor: xr.DataArray, *, n_flips: int, seed: int, only_with_truth: bool = False
) -> xr.Dataset:
    """Scores with 95 % intervals over donors, and paired differences between runs with their p.

    `counts` and `only_with_truth` as in `instance_scores`; `donor` (tile,) names the donor of each image. Variables:
    `<score>` as in `instance_scores`, `<score>_interval` (…, quantile) and, with a dim `run`, `<score>_difference`
    (run, reference, …) = run − reference, with its `_interval` and its `_p`. An interval is Student's t over donors,
    from leaving each of them out with all its images; p flips the signs of the donors' own differences (all of them to
    14 donors, `n_flips` drawn by `seed` beyond). A donor without the score takes no part; below 4 donors intervals and
    p are NaN. The ends of scores, not of differences, stay within 0 to 1. The attribute `interval_method` names it.

    Raises FintuneValueError for fewer than two donors or one flip, or where tiles do not agree.
    """
    _check_counts(counts, _dim_of(donor))
    found = with_donor_intervals(
        counts, donor, lambda counts, total: _scores(counts, total, only_with_truth), n_flips=n_flips, seed=seed
    )
    ends = [name for name in found if str(name).endswith(n.INTERVAL) and n.DIFFERENCE not in str(name)]
    return found.assign({name: found[name].clip(0.0, 1.0) for name in ends})


def with_donor_intervals(
    counts: xr.Dataset, donor: xr.DataArray, scores: ScoresOf, *, n_flips: int, seed: int
) -> xr.Dataset:
    """Any `scores` of what was counted in each image, with intervals and differences as above.

    `counts` are variables along the dim of `donor` and any others; `scores` makes scores of them, adding up over
    images by the function that it is given and in no other way. Scores whose names end in `n_images` have no interval.

    Raises FintuneValueError for fewer than two donors or one flip, or where tiles do not agree.
    """
    over = _dim_of(donor)
    _check_alike(counts, donor, over)
    if n_flips < 1:
        raise FintuneValueError(f"n_flips: expected 1 or more, got {n_flips}. Take 1,000 or more.")
    # Whatever is known of single tiles has no place in a table by donor, and its names may clash with it.
    bare = counts.drop_vars([name for name, array in counts.coords.items() if over in array.dims])
    estimate = _with_differences(scores(bare, sum_over(over)))
    names = _score_names(estimate)
    without, own = (_of_donors(bare, donor, scores, kept=kept)[names] for kept in (_all_but_one, _one))
    found = {f"{name}_{n.INTERVAL}": _interval(estimate[name], without[name], own[name]) for name in names}
    for name in names:
        if name.endswith(n.DIFFERENCE):
            found[f"{name}_{n.P}"] = _sign_flips(own[name], n_flips, seed)
    return (
        estimate.assign(found)
        .assign_coords({n.QUANTILE: list(INTERVAL_QUANTILES)})
        .assign_attrs({n.INTERVAL_METHOD: STUDENT_T})
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
            fault = f"{name}: no dim {over!r} to score over, only {counts[name].dims}"
            raise FintuneValueError(f"{fault}. Name the images' dim.")
        if counts[name].dtype.kind not in "ui":
            fault = f"{name}: expected integer counts, got {counts[name].dtype}"
            raise FintuneValueError(f"{fault}. Select evaluated tiles.")


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


def _of_donors(counts: xr.Dataset, donor: xr.DataArray, scores: ScoresOf, *, kept: Kept) -> xr.Dataset:
    """Scores and differences (donor, …) of the images of the donors that are `kept` at each place."""
    over = _dim_of(donor)
    donors, of_tile = np.unique(donor, return_inverse=True)
    weights = xr.DataArray(kept(np.equal.outer(np.arange(donors.size), of_tile)), dims=(n.DONOR, over))
    return _with_differences(scores(counts, lambda array: xr.dot(weights, array.astype(np.float64), dim=over)))


def _one(belongs: NDArray[np.bool_]) -> NDArray[np.float64]:
    return belongs.astype(np.float64)


def _all_but_one(belongs: NDArray[np.bool_]) -> NDArray[np.float64]:
    return (~belongs).astype(np.float64)


def _interval(whole: xr.DataArray, without: xr.DataArray, own: xr.DataArray) -> xr.DataArray:
    ends: xr.DataArray = xr.apply_ufunc(
        jackknife_interval,
        whole,
        without,
        own.notnull(),
        input_core_dims=[[], [n.DONOR], [n.DONOR]],
        output_core_dims=[[n.QUANTILE]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {n.QUANTILE: len(INTERVAL_QUANTILES)}},
    )
    return ends


def _sign_flips(own: xr.DataArray, n_flips: int, seed: int) -> xr.DataArray:
    p: xr.DataArray = xr.apply_ufunc(
        sign_flip_p,
        own,
        kwargs={"n_flips": n_flips, "seed": seed},
        input_core_dims=[[n.DONOR]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return p


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


def score_line(scores: xr.Dataset, name: str) -> str:
    """The score `name` of one run in a line for people, with its interval where it has one."""
    value, interval = float(scores[name]), f"{name}_{n.INTERVAL}"
    if interval not in scores or np.isnan(scores[interval].values).any():
        return f"{value:.3f}"
    low, high = scores[interval].values
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
