"""Which kinds of model can be trained, and how each is made ready for it; imports no network library by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.instance.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.finetune.semantic.settings import (
    Mask2FormerTrainSettings,
    Sam2TrainSettings,
    SemanticUnetTrainSettings,
    SwinUnetrTrainSettings,
)
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.models.cellpose.kind import CPSAM
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.mask2former.kind import MASK2FORMER
from fintune_xr.models.particle_unet.kind import PARTICLE_UNET
from fintune_xr.models.registry import kind_named
from fintune_xr.models.sam2.kind import SAM2
from fintune_xr.models.sam2_semantic.kind import SAM2_SEMANTIC
from fintune_xr.models.semantic_unet.kind import SEMANTIC_UNET
from fintune_xr.models.swin_unetr.kind import SWIN_UNETR
from fintune_xr.models.vjepa2.kind import CLASSIFIER_KIND, VIT3D_KIND, VJEPA2_KIND
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC

if TYPE_CHECKING:
    from fintune_xr.finetune.trainable import Trainable

Build: TypeAlias = "Callable[[Any, Checkpoint | None, Sequence[str], str], Trainable]"
"""From settings, what to begin with, names of the image planes and a device to a network with its objective."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """How one kind of model is trained.

    `settings` is the class that a training of it has by default, `takes` the one that it can do with; `task` names
    what it learns, and `score` its measure in a line for people. `is_new` is whether a network of this
    kind can begin from random weights.
    """

    settings: type[FitSettings]
    takes: type[FitSettings]
    build: Build
    task: str
    score: str
    is_new: bool = False


def _flow_unet(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.instance.trainable import flow_unet

    return flow_unet(settings, start, channels, device)


def _cpsam(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.instance.trainable import cpsam

    return cpsam(settings, start, channels, device)


def _particle_unet(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.detection.trainable import particle_unet

    return particle_unet(settings, start, channels, device)


def _semantic_unet(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.semantic.trainable import semantic_unet

    return semantic_unet(settings, start, channels, device)


def _sam2_semantic(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.semantic.trainable import sam2_semantic

    return sam2_semantic(settings, start, channels, device)


def _swin_unetr(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.semantic.trainable import swin_unetr

    return swin_unetr(settings, start, channels, device)


def _mask2former(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.semantic.trainable import mask2former

    return mask2former(settings, start, channels, device)


def _classes(settings: type[FitSettings], build: Build) -> Trainer:
    return Trainer(settings, settings, build, SEMANTIC, "mean Dice of classes", is_new=True)


def _volume_classifier(settings: Any, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    from fintune_xr.finetune.classification.trainable import volume_classifier

    return volume_classifier(settings, start, channels, device)


_VOLUMES: Final = Trainer(
    ClassTrainSettings, ClassTrainSettings, _volume_classifier, CLASSIFICATION, "balanced accuracy of participants"
)

TRAINERS: Final[Mapping[str, Trainer]] = MappingProxyType(
    {
        FLOW_UNET.name: Trainer(TrainSettings, TrainSettings, _flow_unet, INSTANCE, "AP50", is_new=True),
        CPSAM.name: Trainer(CpsamTrainSettings, TrainSettings, _cpsam, INSTANCE, "AP50"),
        PARTICLE_UNET.name: Trainer(
            UnetTrainSettings, UnetTrainSettings, _particle_unet, DETECTION, "F1 of particles", is_new=True
        ),
        SEMANTIC_UNET.name: _classes(SemanticUnetTrainSettings, _semantic_unet),
        SAM2_SEMANTIC.name: _classes(Sam2TrainSettings, _sam2_semantic),
        # Fine-tuned, SAM 2 gives each pixel a class, and is a model of the kind above from then on.
        SAM2.name: replace(_classes(Sam2TrainSettings, _sam2_semantic), is_new=False),
        SWIN_UNETR.name: _classes(SwinUnetrTrainSettings, _swin_unetr),
        MASK2FORMER.name: _classes(Mask2FormerTrainSettings, _mask2former),
        VIT3D_KIND.name: _VOLUMES,
        VJEPA2_KIND.name: _VOLUMES,
        CLASSIFIER_KIND.name: _VOLUMES,
    }
)


def trainer_named(kind: str) -> Trainer:
    """How models of this kind are trained.

    Raises UnknownNameError for a kind that does not exist or cannot be trained.
    """
    name = kind_named(kind).name
    if name not in TRAINERS:
        raise unknown_name("trainable kind of model", name, TRAINERS)
    return TRAINERS[name]


def is_new(model: str) -> bool:
    """Whether `model` names a kind of which a network can begin from random weights."""
    return any(trainer.is_new and model in kind_named(name).words for name, trainer in TRAINERS.items())


def train_settings(kind: str) -> type[FitSettings]:
    """The settings class for training models of this kind.

    Raises UnknownNameError for a kind that cannot be trained.
    """
    return trainer_named(kind).settings


def trainable(settings: FitSettings, *, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    """What `start` refers to, or a new network of the kind that `settings` are for, to be trained on these `channels`.

    Raises UnknownNameError for a kind of model that cannot be trained, SettingsError for settings that do not
    suit it.
    """
    kind = _kind_of_new(settings) if start is None else kind_named(start.kind).name
    trainer = trainer_named(kind)
    if not isinstance(settings, trainer.takes):
        raise SettingsError(
            f"{type(settings).__name__} are not for a model of kind {kind}; see train_settings({kind!r})"
        )
    return trainer.build(settings, start, channels, device)


def _kind_of_new(settings: FitSettings) -> str:
    for name, trainer in TRAINERS.items():
        if trainer.is_new and isinstance(settings, trainer.takes):
            return name
    raise SettingsError(f"{type(settings).__name__} are for no network that can begin from random weights; give one")
