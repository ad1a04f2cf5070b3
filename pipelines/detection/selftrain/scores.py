"""How good a stage of a self-training is, particle by particle and pixel by pixel, against the annotation only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles
from fintune_xr.metrics.counts import f1, iou, precision, recall
from fintune_xr.metrics.detection import Found, best_threshold, match_points, threshold_curve
from fintune_xr.metrics.pixels import (
    EXACT_BINS,
    best_pixel_threshold,
    coarser,
    histogram_counts,
    pixel_auc,
    stored_histogram,
)
from fintune_xr.models.particle_unet.adapter import UnetDetector, probability
from fintune_xr.pixels.pseudo_labels import pseudo_target

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Picks and pixels of one part of the split."""

    found: list[Found]
    pixels: NDArray[np.int64]


def predict_tiles(detector: UnetDetector, tiles: ParticleTiles) -> Iterator[NDArray[np.float32]]:
    """Probability (y, x) of each tile, one at a time."""
    for index in range(len(tiles)):
        yield probability(detector.predict([detector.normalise(tiles.read(index))])[0])


def stage_scores(
    detector: UnetDetector, parts: Mapping[str, ParticleTiles], settings: UnetTrainSettings
) -> dict[str, Any]:
    """Scores of `particle` and `pixel`, per part, at the thresholds that are best on the val part.

    Nothing of the test part has a say in them. AUC_BINS says over how many bins AUC of pixels was taken: as many as
    stored probabilities have steps. The threshold of pixels is one of 4096.
    """
    read = {part: _read(detector, tiles, settings) for part, tiles in parts.items()}
    curve = threshold_curve(read[n.VAL].found)
    # A network that finds nothing at all has no threshold; its scores are those of picking nothing.
    threshold = best_threshold(curve) if curve.threshold.size else 1.0
    level = best_pixel_threshold(coarser(read[n.VAL].pixels))
    return {
        "particle": {
            n.THRESHOLD: threshold,
            "match_distance_px": settings.match_distance * detector.diameter_px,
            **{part: _particle_scores(one, threshold) for part, one in read.items()},
        },
        "pixel": {
            n.THRESHOLD: level,
            "disc_px": settings.disc_fraction * detector.diameter_px,
            n.AUC_BINS: EXACT_BINS,
            **{part: _pixel_scores(one.pixels, level) for part, one in read.items()},
        },
    }


def label_counts(target: NDArray[np.int8]) -> dict[str, int]:
    """Numbers of pixels of a target by what they say."""
    return {
        "n_positive": int((target == 1).sum()),
        "n_negative": int((target == 0).sum()),
        "n_unknown": int((target < 0).sum()),
    }


def agreement(target: NDArray[np.int8], truth: NDArray[np.int8]) -> dict[str, int]:
    """Pixels of a pseudo-label held against an annotation that the training does not see.

    `n_right_positive` and `n_right_negative` say what is true; `n_missed` are pixels of particles that the pseudo-label
    calls background, of `n_true` pixels of particles.
    """
    return {
        **label_counts(target),
        "n_right_positive": int(((target == 1) & (truth == 1)).sum()),
        "n_right_negative": int(((target == 0) & (truth == 0)).sum()),
        "n_missed": int(((target == 0) & (truth == 1)).sum()),
        "n_true": int((truth == 1).sum()),
    }


def labels_of(
    detector: UnetDetector, tiles: ParticleTiles, *, positive: float, negative: float
) -> Iterator[tuple[str, NDArray[np.int8]]]:
    """Tile id and pseudo-label of each tile."""
    for name, found in zip(tiles.names, predict_tiles(detector, tiles), strict=True):
        yield str(name), pseudo_target(found, positive=positive, negative=negative)


def _read(detector: UnetDetector, tiles: ParticleTiles, settings: UnetTrainSettings) -> _Part:
    found, pixels = [], np.zeros((2, EXACT_BINS), np.int64)
    limit = settings.match_distance * detector.diameter_px
    for index, seen in enumerate(predict_tiles(detector, tiles)):
        peaks = detector.picked(seen)
        found.append(match_points(tiles.particles(index).yx, peaks.yx, peaks.score, distance_px=limit))
        truth = tiles.target(index, disc_fraction=settings.disc_fraction, rim_px=settings.rim_px)
        pixels += stored_histogram(truth, seen)
    return _Part(found, pixels)


def _particle_scores(part: _Part, threshold: float) -> dict[str, float]:
    tp, fp, fn = np.sum([one.counts(threshold) for one in part.found], axis=0)
    scores = {n.PRECISION: precision(tp, fp, fn), n.RECALL: recall(tp, fp, fn), n.F1: f1(tp, fp, fn)}
    return {name: float(value) for name, value in scores.items()} | {n.TP: int(tp), n.FP: int(fp), n.FN: int(fn)}


def _pixel_scores(pixels: NDArray[np.int64], threshold: float) -> dict[str, float]:
    tp, fp, fn = histogram_counts(pixels, threshold)
    scores = {
        n.PRECISION: precision(tp, fp, fn),
        n.RECALL: recall(tp, fp, fn),
        n.F1: f1(tp, fp, fn),
        n.IOU: iou(tp, fp, fn),
        n.AUC: pixel_auc(pixels),
    }
    return {name: float(value) for name, value in scores.items()} | {"n_pixels": int(pixels.sum())}
