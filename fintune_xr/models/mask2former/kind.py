"""Mask2Former with a Swin transformer: how it is built, and how its weights are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassArchitecture, ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import CLASSES

# Of patches and merging in the encoder; any image is padded to it.
STRIDE_PX: Final = 32


class Mask2FormerSize(Settings):
    """How large the network is, and on how many pixels its loss is computed; defaults are its tiny size."""

    width: int = Field(default=96, ge=8, description="Features of the encoder's first stage.")
    depths: tuple[int, int, int, int] = Field(default=(2, 2, 6, 2), description="Blocks of each stage.")
    heads: tuple[int, int, int, int] = Field(default=(3, 6, 12, 24), description="Attention heads of each stage.")
    window: int = Field(default=7, ge=2, description="Edge of the windows of attention.")
    features: int = Field(default=256, ge=16, description="Features of the pixel decoder and of queries.")
    queries: int = Field(default=100, ge=1, description="Masks that are proposed.")
    pixel_layers: int = Field(default=6, ge=1, description="Layers of the pixel decoder.")
    decoder_layers: int = Field(default=10, ge=2, description="Layers of the decoder of queries, with the first guess.")
    decoder_heads: int = Field(default=8, ge=1, description="Attention heads of both decoders.")
    points: int = Field(default=12544, ge=1, description="Pixels that the loss is computed on.")


class Mask2FormerArchitecture(ClassArchitecture, Mask2FormerSize):
    """What must be known to build the network before its weights can be filled in."""


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.mask2former.adapter import load_mask2former

    return load_mask2former(checkpoint, settings, channels=channels, device=device)


MASK2FORMER: Final = ModelKind(
    "mask2former", CLASSES, ClassSettings, load=_load, recognises=says_kind("mask2former"), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs,
)  # fmt: skip
