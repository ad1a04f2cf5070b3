"""Mask2Former with a Swin transformer: what it is called, and how it is built."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from fintune_xr.models.classes.settings import ClassArchitecture
from fintune_xr.settings import Settings

KIND: Final = "mask2former"
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
