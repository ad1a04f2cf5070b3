"""Annotated patches, and what is prepared from them once before a training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.patches import PreparedTile
from fintune_xr.finetune.semantic.settings import SemanticTrainSettings
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.pixels.discs import UNKNOWN
from fintune_xr.tasks.class_map import IGNORED, ClassMap

LOGGER = logging.getLogger(__name__)

S = TypeVar("S", bound=SemanticTrainSettings)


class AnnotatedPatches(Protocol):
    """Patches with annotated classes, read one at a time."""

    @property
    def names(self) -> Sequence[str]:
        """Ids of the tiles."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image planes."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Colours (channel, y, x) and codes (y, x) of one patch, cropped to its real size."""
        ...

    def labels(self, index: int, class_map: ClassMap) -> NDArray[np.uint8]:
        """Labels (y, x) of one patch: 0, 1, 2, ... as in `class_map`, 255 where it is ignored."""
        ...

    def pixels_of_classes(self, class_map: ClassMap) -> NDArray[np.int64]:
        """Valid pixels (tile, rest and classes) of each label."""
        ...


def prepare_patches(
    patches: AnnotatedPatches, folder: Path, *, class_map: ClassMap, choice: ChannelChoice
) -> list[PreparedTile]:
    """Colours uint8 and labels int16 of the patches in `folder`, but for those of which nothing is known.

    Raises FintuneValueError where nothing is known of any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prepared = []
    for index, name in enumerate(patches.names):
        target = target_of(patches.labels(index, class_map))
        if (target == UNKNOWN).all():
            LOGGER.info("%s is left out: nothing is known of it", name)
            continue
        tile = PreparedTile(str(name), folder / f"{index:05d}_image.npy", folder / f"{index:05d}_target.npy")
        np.save(tile.image_path, choice.take(patches.read(index)[0]))
        np.save(tile.target_path, target[np.newaxis])
        prepared.append(tile)
    if not prepared:
        raise FintuneValueError(f"of none of {len(patches)} patches any pixel is known; annotate some")
    return prepared


def target_of(labels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Labels (y, x) as they are learnt: -1 where they are ignored."""
    return np.where(labels == IGNORED, np.int16(UNKNOWN), labels.astype(np.int16))


def with_class_pixels(settings: S, patches: AnnotatedPatches) -> S:
    """`settings` that say how many pixels of each class the training `patches` hold, unless they do.

    Raises FintuneValueError without classes, or for a class without a pixel: it cannot be learnt.
    """
    if settings.classes is None:
        raise FintuneValueError("classes: expected the classes that shall be learnt, got none")
    if settings.class_pixels is not None:
        return settings
    counts = patches.pixels_of_classes(settings.classes).sum(axis=0)[1:]
    absent = [name for name, count in zip(settings.classes.names, counts, strict=True) if count == 0]
    if absent:
        raise FintuneValueError(
            f"class {', '.join(absent)}: not a pixel of it in the {len(patches)} training patches, so it cannot be "
            "learnt. Leave it out of classes, or split anew."
        )
    return settings.model_copy(update={"class_pixels": tuple(int(count) for count in counts)})
