"""A Swin transformer with the decoder of UNETR: what it is called, and how it is built."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from fintune_xr.models.classes.settings import ClassArchitecture

KIND: Final = "swin_unetr"
# Patches of 2 px and three halvings, and as much again for whole windows of attention.
STRIDE_PX: Final = 32


class SwinUnetrArchitecture(ClassArchitecture):
    """What must be known to build the network before its weights can be filled in."""

    features: int = Field(default=24, ge=4, description="Features of the first level; each later one has twice.")
    depths: tuple[int, int, int, int] = Field(default=(2, 2, 2, 2), description="Blocks of each level.")
    heads: tuple[int, int, int, int] = Field(default=(3, 6, 12, 24), description="Attention heads of each level.")
    window: int = Field(default=7, ge=2, description="Edge of the windows of attention.")
