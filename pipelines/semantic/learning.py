"""Classes of tissue in a study of trainings: patches that teach them, and confusion of pixels on those that judge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.semantic.settings import SemanticTrainSettings
from fintune_xr.finetune.semantic.tiles import with_class_pixels
from fintune_xr.metrics.intervals import sum_over
from fintune_xr.metrics.semantic import confusion, semantic_counts, semantic_scores
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.registry import load_model
from fintune_xr.models.semantic_unet.kind import SEMANTIC_UNET
from fintune_xr.pipelines.semantic.patches import patches_for_training, require_classes, stated_class_map
from fintune_xr.pipelines.task_parts.learning import Learning
from fintune_xr.store.annotations.class_patches import AnnotatedPatches
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.class_map import ClassMap

Counts = NDArray[np.int64]


def learning_of_classes(cohort: Cohort, settings: Any, start: Checkpoint | None) -> Learning:  # noqa: ARG001
    """Patches with a pixel that counts; the rarest classes of patches take turns.

    Raises FintuneValueError for settings of a model that does not learn classes, SettingsError where classes do not
    fit the legend or train holds no pixel of one.
    """
    if not isinstance(settings, SemanticTrainSettings):
        raise FintuneValueError(
            f"expected a model that learns classes, e.g. {SEMANTIC_UNET.name}; got {type(settings).__name__}"
        )
    class_map = stated_class_map(cohort, settings.classes)
    parts = {part: patches_for_training(cohort, part) for part in n.SPLITS}
    require_classes(parts, class_map)
    stated = settings.model_copy(update={n.CLASSES: class_map})
    train, val, test = parts.values()
    pixels = dict(zip(train.names, train.pixels_of_classes(class_map)[:, 1:], strict=True))
    labels = class_map.n_classes + 1
    return Learning(
        train=train,
        val=val,
        test=test,
        turns=rarest_classes(pixels, class_map),
        settings=with_class_pixels(stated, train),
        settings_on=partial(_settings_on, stated, pixels),
        counts=partial(_counts, test, class_map, stated),
        nothing=_labelled(test, class_map, np.zeros((len(test), labels, labels), np.int64)),
        scores=_scores,
    )


def rarest_classes(pixels: Mapping[str, Counts], class_map: ClassMap) -> dict[str, str]:
    """Of each tile, the class that it holds and all tiles together have fewest pixels of; the rest where it has none.

    `pixels` (class,) are those of each tile.
    """
    total = np.sum(list(pixels.values()), axis=0)
    order = np.argsort(total, kind="stable")
    found = {}
    for name, counts in pixels.items():
        held = [int(label) for label in order if counts[label] > 0]
        found[name] = class_map.names[held[0]] if held else n.REST
    return found


def _settings_on(
    settings: SemanticTrainSettings, pixels: Mapping[str, Counts], tiles: AnnotatedPatches
) -> SemanticTrainSettings:
    """`settings` with the pixels of each class in `tiles` alone. Raises FintuneValueError where they lack a class."""
    class_map = settings.classes
    counts = np.sum([pixels[name] for name in tiles.names], axis=0)
    absent = [name for name, count in zip(class_map.names if class_map else (), counts, strict=True) if count == 0]
    if absent:
        raise FintuneValueError(
            f"{', '.join(absent)}: not a pixel in the {len(tiles)} tiles, so it cannot be learnt. "
            "Begin with a larger budget, or leave it out of classes."
        )
    if settings.class_pixels is not None:
        return settings
    return settings.model_copy(update={"class_pixels": tuple(int(count) for count in counts)})


def _counts(
    tiles: AnnotatedPatches, class_map: ClassMap, settings: SemanticTrainSettings, checkpoint: Checkpoint
) -> xr.Dataset:
    """Confusion (tile, truth, predicted) of `tiles`, one of which is in memory at a time."""
    applied = ClassSettings(window_px=settings.window_px)
    model: Any = load_model(checkpoint, channels=tiles.channels, settings=applied, device=settings.device, keep=False)
    found = []
    for index in range(len(tiles)):
        maps = model.predict([model.normalise(tiles.read(index)[0])])[0]
        predicted = model.reconstruct(maps).classes
        found.append(confusion(tiles.labels(index, class_map), predicted, class_map.n_classes))
    return _labelled(tiles, class_map, np.array(found))


def _labelled(tiles: AnnotatedPatches, class_map: ClassMap, values: Counts) -> xr.Dataset:
    labels = [n.REST, *class_map.names]
    return xr.Dataset(
        {n.CONFUSION: ((n.TILE, n.TRUTH, n.PREDICTED), values)},
        coords={n.TILE: list(tiles.names), n.TRUTH: labels, n.PREDICTED: labels},
    )


def _scores(counts: xr.Dataset) -> xr.Dataset:
    """Dice and IoU of each class and their means over classes, of all tiles of `counts`."""
    return semantic_scores(semantic_counts(counts[n.CONFUSION]), sum_over(n.TILE))
