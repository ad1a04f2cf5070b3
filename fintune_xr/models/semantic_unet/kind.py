"""The U-Net of classes: how it is built, and how its weights are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassArchitecture, ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.tasks.product import CLASSES


class SemanticUnetArchitecture(ClassArchitecture):
    """What must be known to build the U-Net before its weights can be filled in."""

    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.semantic_unet.adapter import load_semantic_unet

    return load_semantic_unet(checkpoint, settings, channels=channels, device=device)


SEMANTIC_UNET: Final = ModelKind(
    "semantic_unet", CLASSES, ClassSettings, load=_load, recognises=says_kind("semantic_unet"), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs,
)  # fmt: skip
