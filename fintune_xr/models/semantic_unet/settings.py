"""The U-Net of classes: what it is called, and how it is built."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from fintune_xr.models.classes.settings import ClassArchitecture

KIND: Final = "semantic_unet"


class SemanticUnetArchitecture(ClassArchitecture):
    """What must be known to build the U-Net before its weights can be filled in."""

    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")
