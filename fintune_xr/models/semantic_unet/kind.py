"""The U-Net of classes: how it is built."""

from __future__ import annotations

from pydantic import Field

from fintune_xr.models.classes.settings import ClassArchitecture


class SemanticUnetArchitecture(ClassArchitecture):
    """What must be known to build the U-Net before its weights can be filled in."""

    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")
