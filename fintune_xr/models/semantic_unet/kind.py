"""The U-Net of classes, as a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.models.semantic_unet.settings import KIND
from fintune_xr.tasks.product import CLASSES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.semantic_unet.adapter import load_semantic_unet

    return load_semantic_unet(checkpoint, settings, channels=channels, device=device)


SEMANTIC_UNET: Final = ModelKind(
    KIND, CLASSES, ClassSettings, load=_load, recognises=says_kind(KIND), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs,
)  # fmt: skip
