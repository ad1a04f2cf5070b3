"""Learning particles: discs as targets, focal and Dice loss, F1 of the picked particles as the score."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.augmentation import cut_labels
from fintune_xr.finetune.dense_losses import combined_loss, cross_entropy
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles, Target
from fintune_xr.finetune.objective import Measure, Validation
from fintune_xr.finetune.patches import PreparedTile, Recipe
from fintune_xr.metrics.detection import Found, match_points, threshold_curve
from fintune_xr.metrics.pixels import EXACT_BINS, pixel_auc, stored_histogram
from fintune_xr.models.particle_unet.adapter import UnetDetector, probability

LOGGER = logging.getLogger(__name__)

PARTICLE_F1: Final = "particle_f1"
PIXEL_AUC: Final = "pixel_auc"


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """A micrograph held against its annotation: the loss, and its picks."""

    loss: float
    found: Found


class ParticleObjective:
    """A network with one logit per pixel.

    The score is the F1 of particles at the threshold that is best on the very tiles of the validation: what a network
    is worth once its threshold has been chosen, whatever its probabilities are like.
    """

    score = PARTICLE_F1
    measures = (PARTICLE_F1, PIXEL_AUC)
    recipe = Recipe(cut=cut_labels)

    def __init__(self, settings: UnetTrainSettings, detector: UnetDetector) -> None:
        self.settings = settings
        self.detector = detector

    def prepare(self, tiles: ParticleTiles, folder: Path) -> list[PreparedTile]:
        """Normalised planes and labels of the tiles, but for those of which nothing is known."""
        folder.mkdir(parents=True, exist_ok=True)
        prepared = []
        for index, name in enumerate(tiles.names):
            target = self._target(tiles, index)
            if (target < 0).all():
                LOGGER.info("%s is left out: nothing is known of it", name)
                continue
            tile = PreparedTile(str(name), folder / f"{index:05d}_image.npy", folder / f"{index:05d}_target.npy")
            np.save(tile.image_path, self.detector.normalise(tiles.read(index)))
            np.save(tile.target_path, target[np.newaxis])
            prepared.append(tile)
        if not prepared:
            raise FintuneValueError(f"of none of {len(tiles.names)} micrographs any pixel is known; annotate some")
        return prepared

    def loss(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """Loss of the pixels that are known."""
        settings = self.settings
        if settings.loss == "cross_entropy":
            return cross_entropy(output, target, pos_weight=settings.pos_weight)
        return combined_loss(
            output,
            target,
            focal_weight=settings.focal_weight,
            dice_weight=settings.dice_weight,
            alpha=settings.focal_alpha,
            gamma=settings.focal_gamma,
            pos_weight=settings.pos_weight,
        ).total

    def held_out(self, tiles: ParticleTiles) -> Measure:
        """F1 of all particles of `tiles` together, against their annotation and nothing else.

        One micrograph is in memory at a time, and read again at each validation.

        Raises FintuneValueError where they hold no annotated particle, or labels by a network.
        """
        if not sum(len(tiles.particles(index)) for index in range(len(tiles))):
            raise FintuneValueError(
                f"the {len(tiles)} validation micrograph(s) hold no annotated particle; give some that do"
            )
        return lambda _: self._validate(tiles)

    def _validate(self, tiles: ParticleTiles) -> Validation:
        pixels = np.zeros((2, EXACT_BINS), np.int64)
        judged = [self._judged(tiles, index, pixels) for index in range(len(tiles))]
        curve = threshold_curve([one.found for one in judged])
        score = float(np.max(curve.f1, initial=0.0))
        measures = {PARTICLE_F1: score, PIXEL_AUC: float(pixel_auc(pixels))}
        return Validation(float(np.mean([one.loss for one in judged])), score, measures)

    def _judged(self, tiles: ParticleTiles, index: int, pixels: NDArray[np.int64]) -> _Judged:
        """What is kept of a micrograph once it has been looked at; its known pixels are added to the histogram."""
        target = self._target(tiles, index)
        maps = self.detector.predict([self.detector.normalise(tiles.read(index))])[0]
        loss = float(self.loss(torch.from_numpy(maps), torch.from_numpy(target)[None]))
        seen = probability(maps)
        peaks = self.detector.picked(seen)
        limit = self.settings.match_distance * self.detector.diameter_px
        found = match_points(tiles.particles(index).yx, peaks.yx, peaks.score, distance_px=limit)
        pixels += stored_histogram(target, seen)
        return _Judged(loss, found)

    def _target(self, tiles: ParticleTiles, index: int) -> Target:
        return tiles.target(index, disc_fraction=self.settings.disc_fraction, rim_px=self.settings.rim_px)
