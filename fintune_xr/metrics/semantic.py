"""Agreement of maps of classes: confusion of pixels, Dice and IoU of classes, spread over images, small pieces.

Labels are 0 for none of the classes, 1 to K, and 255 for pixels that are ignored. Everything but the score of small
pieces follows from the confusion matrix of each image.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import COUNTS, average_precision, f1
from fintune_xr.metrics.intervals import Total
from fintune_xr.tasks.class_map import IGNORED
from fintune_xr.tasks.semantic import SIZE_BINS

STATISTICS: Final = ("sd", "q25", "median", "q75", "worst")

# By another name: Dice is F1, and the Jaccard index has the formula of average precision at one threshold.
_SCORES: Final = {n.DICE: f1, n.IOU: average_precision}

_EIGHT_NEIGHBOURS: Final = np.ones((3, 3), np.bool_)


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    """Valid pixels (K + 1, K + 1) int64 by true and predicted label, of label images of one shape, uint8.

    Pixels whose truth is 255 are not valid.

    Raises FintuneValueError where shapes or types differ, a label is beyond `n_classes`, or a valid pixel has no
    prediction.
    """
    if truth.shape != predicted.shape or truth.dtype != np.uint8 or predicted.dtype != np.uint8:
        raise FintuneValueError(
            f"expected labels uint8 of one shape, got truth {truth.shape} {truth.dtype} and prediction "
            f"{predicted.shape} {predicted.dtype}"
        )
    # Both labels side by side are one number of 16 bits: counting those needs one pass and no mask of valid pixels.
    pairs = np.stack([predicted.ravel(), truth.ravel()], axis=-1).view("<u2")[:, 0]
    counts = np.bincount(pairs, minlength=1 << 16).reshape(IGNORED + 1, IGNORED + 1)[:IGNORED]
    last = n_classes + 1
    beyond = counts[last:].any(axis=1)
    if beyond.any():
        raise FintuneValueError(f"truth: expected labels 0 to {n_classes} or {IGNORED}, found {last + beyond.argmax()}")
    unknown = counts[:last, last:].any(axis=0)
    if unknown.any():
        raise FintuneValueError(
            f"prediction: expected labels 0 to {n_classes} in valid pixels, found {last + unknown.argmax()} in "
            f"{counts[:last, last + unknown.argmax()].sum()} of them"
        )
    return counts[:last, :last].astype(np.int64)


def class_counts(matrices: xr.DataArray) -> xr.Dataset:
    """`tp`, `fp`, `fn` (…, class) int64 pixels of matrices (…, truth, predicted); no class is the rest."""
    labels = matrices[n.TRUTH].values[1:]
    classes = {n.CLASS: labels}
    columns, rows = matrices.sum(n.TRUTH), matrices.sum(n.PREDICTED)
    tp = xr.apply_ufunc(
        lambda values: np.diagonal(values, axis1=-2, axis2=-1)[..., 1:],
        matrices, input_core_dims=[[n.TRUTH, n.PREDICTED]], output_core_dims=[[n.CLASS]],
    ).assign_coords(classes)  # fmt: skip
    predicted = columns.isel({n.PREDICTED: slice(1, None)}).rename({n.PREDICTED: n.CLASS}).assign_coords(classes)
    true = rows.isel({n.TRUTH: slice(1, None)}).rename({n.TRUTH: n.CLASS}).assign_coords(classes)
    return xr.Dataset({n.TP: tp, n.FP: predicted - tp, n.FN: true - tp})


def foreground_counts(matrices: xr.DataArray) -> xr.Dataset:
    """`tp`, `fp`, `fn` (…) int64 pixels of any class against none: whichever class it is does not count."""
    some, none = slice(1, None), 0
    tp = matrices.isel({n.TRUTH: some, n.PREDICTED: some}).sum([n.TRUTH, n.PREDICTED])
    fp = matrices.isel({n.TRUTH: none, n.PREDICTED: some}, drop=True).sum(n.PREDICTED)
    fn = matrices.isel({n.TRUTH: some, n.PREDICTED: none}, drop=True).sum(n.TRUTH)
    return xr.Dataset({n.TP: tp, n.FP: fp, n.FN: fn})


def class_scores(counts: xr.Dataset, total: Total) -> xr.Dataset:
    """Dice and IoU of each class and their means over classes, from counts (…, tile, class) of `class_counts`.

    `total` sums over images. For `dice`, and alike for `iou`:
    `dice_image_mean` (…, class), mean over the images whose truth holds the class, `dice_n_images` of them;
    `dice_pooled` (…, class), of the counts of all images, so that pixels wrongly called so anywhere count;
    `perclass_dice_image_mean`, `perclass_dice_pooled` (…), means of these over the classes that the truth holds;
    `perclass_dice_pair_mean` (…), mean over pairs of an image and a class that it holds.
    """
    tp, fp, fn = (counts[name] for name in COUNTS)
    holds = (tp + fn) > 0
    n_images = total(holds)
    found: dict[str, xr.DataArray] = {}
    for name, score in _SCORES.items():
        single = xr.apply_ufunc(score, tp, fp, fn).where(holds)
        of_images = total(single.fillna(0.0))
        image_mean = of_images / n_images.where(n_images > 0)
        pooled = xr.apply_ufunc(score, *(total(counts[count]) for count in COUNTS))
        found[_named(name, n.IMAGE_MEAN)] = image_mean
        found[_named(name, n.POOLED)] = pooled
        found[_named(name, n.N_IMAGES)] = n_images
        found[_named(n.PERCLASS, name, n.IMAGE_MEAN)] = image_mean.mean(n.CLASS)
        found[_named(n.PERCLASS, name, n.POOLED)] = pooled.where(n_images > 0).mean(n.CLASS)
        pairs = n_images.sum(n.CLASS)
        found[_named(n.PERCLASS, name, n.PAIR_MEAN)] = of_images.sum(n.CLASS) / pairs.where(pairs > 0)
    return xr.Dataset(found)


def foreground_scores(counts: xr.Dataset, total: Total) -> xr.Dataset:
    """`foreground_dice_image_mean`, `foreground_dice_pooled` (…) from counts (…, tile) of `foreground_counts`.

    They tell whether tissue was found, not which: a map with one class everywhere may score high here and near 0 in
    every class. So nothing is ever chosen by them.
    """
    tp, fp, fn = (counts[name] for name in COUNTS)
    holds = (tp + fn) > 0
    n_images = total(holds)
    single = xr.apply_ufunc(f1, tp, fp, fn).where(holds)
    pooled = xr.apply_ufunc(f1, *(total(counts[count]) for count in COUNTS))
    return xr.Dataset(
        {
            _named(n.FOREGROUND, n.DICE, n.IMAGE_MEAN): total(single.fillna(0.0)) / n_images.where(n_images > 0),
            _named(n.FOREGROUND, n.DICE, n.POOLED): pooled,
        }
    )


def semantic_counts(matrices: xr.DataArray) -> xr.Dataset:
    """What `semantic_scores` are made of: counts of each class, and those of any class as `foreground_tp` and so on."""
    foreground = foreground_counts(matrices)
    return class_counts(matrices).assign({_named(n.FOREGROUND, name): foreground[name] for name in COUNTS})


def semantic_scores(counts: xr.Dataset, total: Total) -> xr.Dataset:
    """`class_scores` and `foreground_scores` of `semantic_counts`."""
    foreground = xr.Dataset({name: counts[_named(n.FOREGROUND, name)] for name in COUNTS})
    return xr.merge([class_scores(counts[list(COUNTS)], total), foreground_scores(foreground, total)])


def dice_of_tiles(counts: xr.Dataset) -> xr.DataArray:
    """Mean Dice (…, tile) over the classes that the truth of the tile holds; NaN where it holds none."""
    return _held_dice(counts).mean(n.CLASS)


def spread(counts: xr.Dataset) -> xr.Dataset:
    """How the Dice of each class differs between the images that hold it: `dice_spread` (…, class, statistic).

    Sample standard deviation (NaN for one image), quartiles and the worst; `worst_tile` (…, class) is its id, empty
    for a class that no image holds.
    """
    single = _held_dice(counts).transpose(..., n.CLASS, n.TILE)
    with warnings.catch_warnings():
        # A class that no image holds has no quartiles, which is its value and no news.
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        quantiles = single.quantile([0.25, 0.5, 0.75], dim=n.TILE)
    parts = [
        single.std(n.TILE, ddof=1),
        *(quantiles.isel(quantile=at, drop=True) for at in range(3)),
        single.min(n.TILE),
    ]
    tiles = np.array([str(tile) for tile in single[n.TILE].values], np.dtypes.StringDType())
    values = single.fillna(np.inf).values
    worst = np.where(np.isfinite(values).any(axis=-1), tiles[values.argmin(axis=-1)], "")
    table = xr.concat(parts, n.STATISTIC).transpose(..., n.STATISTIC).assign_coords({n.STATISTIC: list(STATISTICS)})
    named = xr.DataArray(worst.astype(np.dtypes.StringDType()), dims=single.dims[:-1])
    return xr.Dataset({_named(n.DICE, n.SPREAD): table, n.WORST_TILE: named})


def small_pieces(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int, *, bins: Sequence[int] = SIZE_BINS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Annotated pieces and how many of them were found, both (class, size bin) int64.

    A piece is an 8-connected component of a class in `truth` (y, x); it is found where at least half of its pixels are
    predicted to be of its class. Bin b holds pieces of fewer than `bins[b]` px, the last one all others.
    """
    n_pieces, n_found = (np.zeros((n_classes, len(bins) + 1), np.int64) for _ in range(2))
    for label in range(1, n_classes + 1):
        of_class = truth == label
        if not of_class.any():
            continue
        pieces, count = ndimage.label(of_class, _EIGHT_NEIGHBOURS)
        area = np.bincount(pieces[of_class], minlength=count + 1)[1:]
        right = np.bincount(pieces[of_class & (predicted == label)], minlength=count + 1)[1:]
        at = np.searchsorted(bins, area, side="right")
        n_pieces[label - 1] = np.bincount(at, minlength=len(bins) + 1)
        n_found[label - 1] = np.bincount(at[2 * right >= area], minlength=len(bins) + 1)
    return n_pieces, n_found


def _held_dice(counts: xr.Dataset) -> xr.DataArray:
    single = xr.apply_ufunc(f1, *(counts[name] for name in COUNTS))
    held: xr.DataArray = single.where((counts[n.TP] + counts[n.FN]) > 0)
    return held


def _named(*parts: str) -> str:
    return "_".join(parts)
