"""Learning particles: discs as targets, focal and Dice loss, F1 of the picked particles as the score."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.augmentation import cut_labels
from fintune_xr.finetune.dense_losses import combined_loss, cross_entropy
from fintune_xr.finetune.particles import ParticleTiles, Target
from fintune_xr.finetune.patches import PreparedTile
from fintune_xr.finetune.settings import UnetTrainSettings
from fintune_xr.finetune.tasks import Measure, Validation
from fintune_xr.metrics.particle import Found, match_points, threshold_curve
from fintune_xr.metrics.pixel import pixel_auc, pixel_histogram
from fintune_xr.models.segmenter import Maps
from fintune_xr.models.unet import UnetDetector, probability
from fintune_xr.points import Points

LOGGER = logging.getLogger(__name__)

PARTICLE_F1: Final = "particle_f1"
PIXEL_AUC: Final = "pixel_auc"


@dataclass(frozen=True, slots=True, eq=False)
class _HeldOut:
    """A whole micrograph as the network sees it, with what should come out."""

    image: Maps
    target: Target
    particles: Points


class ParticleTask:
    """A network with one logit per pixel.

    The score is the F1 of particles at the threshold that is best on the very tiles of the validation: what a network
    is worth once its threshold has been chosen, whatever its probabilities are like.
    """

    score = PARTICLE_F1
    measures = (PARTICLE_F1, PIXEL_AUC)
    cut = staticmethod(cut_labels)

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

        Raises FintuneValueError where they hold no annotated particle, or labels by a network.
        """
        read = [
            _HeldOut(self.detector.normalise(tiles.read(i)), self._target(tiles, i), tiles.particles(i))
            for i in range(len(tiles.names))
        ]
        if not any(len(tile.particles) for tile in read):
            raise FintuneValueError(
                f"the {len(read)} validation micrograph(s) hold no annotated particle; give some that do"
            )
        return lambda _: self._validate(read)

    def _validate(self, tiles: list[_HeldOut]) -> Validation:
        losses, found, histograms = [], [], []
        for tile in tiles:
            maps = self.detector.predict([tile.image])[0]
            losses.append(float(self.loss(torch.from_numpy(maps), torch.from_numpy(tile.target)[None])))
            seen = probability(maps)
            histograms.append(pixel_histogram(tile.target, seen))
            found.append(self._found(tile, seen))
        curve = threshold_curve(found)
        score = float(np.max(curve.f1, initial=0.0))
        measures = {PARTICLE_F1: score, PIXEL_AUC: float(pixel_auc(np.sum(histograms, axis=0)))}
        return Validation(float(np.mean(losses)), score, measures)

    def _found(self, tile: _HeldOut, seen: Any) -> Found:
        peaks = self.detector.picked(seen)
        limit = self.settings.match_distance * self.detector.diameter_px
        return match_points(tile.particles.yx, peaks.yx, peaks.score, distance_px=limit)

    def _target(self, tiles: ParticleTiles, index: int) -> Target:
        return tiles.target(index, disc_fraction=self.settings.disc_fraction, rim_px=self.settings.rim_px)
