"""Learning classes of pixels: the mean over classes of their Dice, each over the images that hold it, as the score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.finetune.objective import Loss, Measure, Validation
from fintune_xr.finetune.patches import PreparedTile, Recipe
from fintune_xr.finetune.semantic.augmentation import cut_colours, draw_bent, vary_colours
from fintune_xr.finetune.semantic.loss import CLASS, DICE, IOU, MASK, LossRule, class_weights, mean_one, semantic_loss
from fintune_xr.finetune.semantic.settings import SemanticTrainSettings
from fintune_xr.finetune.semantic.tiles import AnnotatedPatches, prepare_patches, target_of
from fintune_xr.metrics.semantic import class_counts, class_scores, confusion, foreground_counts, foreground_scores
from fintune_xr.models.classes.logits import ClassLogits
from fintune_xr.models.classes.mapper import ClassMapper
from fintune_xr.models.protocol import Maps
from fintune_xr.tasks.class_map import ClassMap

LOGGER = logging.getLogger(__name__)

SCORE: Final = f"{n.PERCLASS}_{n.DICE}_{n.IMAGE_MEAN}"
FOREGROUND: Final = f"{n.FOREGROUND}_{n.DICE}_{n.IMAGE_MEAN}"

# Below this, a probability tells nothing more in float32.
_LEAST: Final = 1e-7

LossOfBatch: TypeAlias = Callable[[Any, torch.Tensor], tuple[torch.Tensor, Mapping[str, torch.Tensor]]]
"""From what a network gives for a batch and its labels (n, 1, y, x) to the loss and its parts."""


@dataclass(frozen=True, eq=False)
class ClassObjective:
    """A network of classes; `own_loss` in place of the losses of this package.

    Only the Dice of classes chooses the best epoch. The Dice of any class against none goes to the log beside it, under
    a name of its own, and decides nothing.
    """

    settings: SemanticTrainSettings
    mapper: ClassMapper
    class_map: ClassMap
    own_loss: LossOfBatch | None = None

    score = SCORE
    recipe = Recipe(draw_bent, cut_colours, vary_colours)

    @property
    def measures(self) -> tuple[str, ...]:
        """The score, the Dice of each class, and that of any class against none."""
        return (SCORE, *(f"{n.DICE}_{name}" for name in self.class_map.names), FOREGROUND)

    def prepare(self, tiles: AnnotatedPatches, folder: Path) -> list[PreparedTile]:
        """Colours and labels of the tiles, but for those of which nothing is known."""
        return prepare_patches(tiles, folder, class_map=self.class_map, choice=self.mapper.choice)

    def loss(self, output: Any, target: torch.Tensor) -> Loss:
        """Loss of the pixels that are known, and its parts before they are weighted."""
        if self.own_loss is not None:
            return self.own_loss(output, target)
        return semantic_loss(output, target, loss_rule(self.settings))

    def held_out(self, tiles: AnnotatedPatches) -> Measure:
        """Dice of classes over `tiles`, one of which is in memory at a time.

        Raises FintuneValueError where they hold no pixel of any class; a class that they lack is said.
        """
        absent = _absent(tiles, self.class_map)
        if len(absent) == self.class_map.n_classes:
            raise FintuneValueError(
                f"the {len(tiles)} validation tile(s) hold no pixel of any class; give some that do"
            )
        if absent:
            LOGGER.info("no pixel of %s in the %d validation tiles", ", ".join(absent), len(tiles))
        return lambda _: self._validate(tiles)

    def _validate(self, tiles: AnnotatedPatches) -> Validation:
        losses, matrices = [], []
        for index in range(len(tiles)):
            labels = tiles.labels(index, self.class_map)
            found = self.mapper.predict([self.mapper.normalise(tiles.read(index)[0])])[0]
            losses.append(_loss_of_map(found, labels, loss_rule(self.settings)))
            matrices.append(confusion(labels, self.mapper.reconstruct(found).classes, self.class_map.n_classes))
        measures = _measures(np.stack(matrices), self.class_map.names)
        return Validation(float(np.mean(losses)), measures[SCORE], measures)


def loss_rule(settings: SemanticTrainSettings) -> LossRule:
    """How the loss of a training is made up.

    Raises SettingsError where weights follow from numbers of pixels that nobody has counted.
    """
    if settings.classes is None or settings.class_pixels is None:
        raise SettingsError("class_pixels: expected as many numbers as there are classes; see with_class_pixels")
    weights = class_weights(np.array(settings.class_pixels, np.int64), settings.class_weights)
    chosen = settings.loss
    parts = {MASK: chosen.mask, DICE: chosen.dice, IOU: chosen.iou, CLASS: chosen.presence}
    return LossRule(mean_one(weights), parts, chosen.gamma, settings.competition)


def _absent(tiles: AnnotatedPatches, class_map: ClassMap) -> list[str]:
    """Classes of which the tiles hold no pixel."""
    counts = tiles.pixels_of_classes(class_map).sum(axis=0)[1:]
    return [name for name, count in zip(class_map.names, counts, strict=True) if count == 0]


def _loss_of_map(found: Maps, labels: NDArray[np.uint8], rule: LossRule) -> float:
    """Focal and Dice loss of probabilities (none and class, y, x), whatever the network learns by."""
    probable = torch.from_numpy(found).clamp(_LEAST, 1 - _LEAST)
    logits = probable[1:].logit() if rule.competition == "sigmoid" else (probable[1:] / probable[:1]).log()
    target = torch.from_numpy(target_of(labels))[None, None]
    return float(semantic_loss(ClassLogits(logits[None]), target, rule)[0])


def _measures(matrices: NDArray[np.int64], classes: tuple[str, ...]) -> dict[str, float]:
    """Scores of images from their confusion matrices (image, truth, predicted)."""
    labels = [n.REST, *classes]
    stored = xr.DataArray(matrices, dims=(n.TILE, n.TRUTH, n.PREDICTED), coords={n.TRUTH: labels, n.PREDICTED: labels})

    def total(values: xr.DataArray) -> xr.DataArray:
        return values.sum(n.TILE)

    scores = class_scores(class_counts(stored), total)
    foreground = foreground_scores(foreground_counts(stored), total)
    of_class = scores[f"{n.DICE}_{n.IMAGE_MEAN}"].values.tolist()
    return {
        SCORE: float(scores[SCORE]),
        **{f"{n.DICE}_{name}": float(dice) for name, dice in zip(classes, of_class, strict=True)},
        FOREGROUND: float(foreground[FOREGROUND]),
    }
