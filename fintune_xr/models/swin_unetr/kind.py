"""A Swin transformer with the decoder of UNETR: how it is built, and how its weights are known."""

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

# Patches of 2 px and three halvings, and as much again for whole windows of attention.
STRIDE_PX: Final = 32


class SwinUnetrArchitecture(ClassArchitecture):
    """What must be known to build the network before its weights can be filled in."""

    features: int = Field(default=24, ge=4, description="Features of the first level; each later one has twice.")
    depths: tuple[int, int, int, int] = Field(default=(2, 2, 2, 2), description="Blocks of each level.")
    heads: tuple[int, int, int, int] = Field(default=(3, 6, 12, 24), description="Attention heads of each level.")
    window: int = Field(default=7, ge=2, description="Edge of the windows of attention.")


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.swin_unetr.adapter import load_swin_unetr

    return load_swin_unetr(checkpoint, settings, channels=channels, device=device)


SWIN_UNETR: Final = ModelKind(
    "swin_unetr", CLASSES, ClassSettings, load=_load, recognises=says_kind("swin_unetr"), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs,
)  # fmt: skip
