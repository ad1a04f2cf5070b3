"""How networks that give each pixel a class are built and applied; free of network libraries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fintune_xr.models.channels import ChannelSettings
from fintune_xr.settings import Settings
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.semantic import RGB_CHANNELS


class ClassArchitecture(Settings):
    """What every network of classes is bound to: the classes that its outputs stand for, and how they compete."""

    channels: tuple[str, ...] = Field(default=RGB_CHANNELS, min_length=3, max_length=3, description="Its three inputs.")
    class_map: ClassMap = Field(description="Classes in the order of the outputs, and what they are made of.")
    competition: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="Whether classes share one probability, or each is asked for by itself."
    )


class ClassSettings(ChannelSettings):
    """How a trained network of classes is applied."""

    window_px: int = Field(
        default=1024, ge=64, multiple_of=32, description="Edge of the parts that tiles over 1.5 times it are seen in."
    )
    overlap_px: int = Field(default=128, ge=0, description="By how much such parts overlap, and are blended.")
    patch_batch: int = Field(default=2, ge=1, description="Tiles or parts that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )
    tta: bool = Field(default=False, description="Mean probability over the eight orientations of the square.")
