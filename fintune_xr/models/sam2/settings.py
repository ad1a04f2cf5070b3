"""What SAM 2's image networks and their files are like, and how they are applied; free of network libraries."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import Field, field_validator

from fintune_xr.models.sam.settings import SamInputSettings
from fintune_xr.settings import Settings
from fintune_xr.tasks.semantic import RGB_CHANNELS

# Image edges must be multiples of this: three halvings after a stride of 4.
STRIDE_PX: Final = 32


class Sam2Architecture(Settings):
    """What must be known to build SAM 2's image network before its weights can be filled in.

    Neither the windows of attention, nor the blocks that attend to the whole image, nor the number of heads leave a
    trace in the shapes of weights.
    """

    width: int = Field(ge=8, description="Features of the first of four stages; each later one has twice as many.")
    depths: tuple[int, int, int, int] = Field(description="Blocks of each stage.")
    global_blocks: tuple[int, ...] = Field(description="Blocks that attend to the whole image, counted from 0.")
    heads: int = Field(default=1, ge=1, description="Heads of the first stage; each later one has twice as many.")
    windows: tuple[int, int, int, int] = Field(default=(8, 4, 14, 7), description="Windows of each stage's attention.")
    background: int = Field(default=7, ge=1, description="Grid of the positions that are stretched over the image.")
    image_px: int = Field(default=1024, ge=64, multiple_of=32, description="Edge of the images that it learnt on.")
    features: int = Field(default=256, ge=16, multiple_of=16, description="Features of pyramid and decoder.")
    decoder_width: int = Field(default=2048, ge=16, description="Hidden features of the decoder's layers.")
    decoder_heads: int = Field(default=8, ge=1, description="Heads of the decoder's attention.")

    @property
    def n_blocks(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)


# Reference: Ravi et al. 2024, SAM 2: Segment anything in images and videos, arXiv:2408.00714; version 2.1 of the
# published configurations.
SAM2_SIZES: Final[Mapping[str, Sam2Architecture]] = MappingProxyType(
    {
        "sam2.1_hiera_tiny": Sam2Architecture(width=96, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9)),
        "sam2.1_hiera_small": Sam2Architecture(width=96, depths=(1, 2, 11, 2), global_blocks=(7, 10, 13)),
        "sam2.1_hiera_base_plus": Sam2Architecture(
            width=112, depths=(2, 3, 16, 3), global_blocks=(12, 16, 20), heads=2, background=14
        ),
        "sam2.1_hiera_large": Sam2Architecture(
            width=144, depths=(2, 6, 36, 4), global_blocks=(23, 33, 43), heads=2, windows=(8, 4, 16, 8)
        ),
    }
)
STATE_ENTRY: Final = "model"
TRUNK: Final = "image_encoder.trunk."
# The same under transformers' names, as their files of safetensors have them.
BACKBONE: Final = "vision_encoder.backbone."


class Sam2Settings(SamInputSettings):
    """How SAM 2 segments everything in a tile; it is shown three planes as red, green and blue, as they are."""

    channels: tuple[str, ...] | None = Field(
        default=RGB_CHANNELS, min_length=3, max_length=3, description="Planes that are red, green and blue."
    )
    percentiles: tuple[float, float] = Field(default=(0.0, 100.0), description="Colours are shown as they are.")
    points_per_batch: int = Field(default=16, ge=1, description="Prompts that the decoder sees at once.")
    points_per_side: int = Field(default=32, ge=1, le=256, description="Prompts along each side of a tile.")
    pred_iou_thresh: float = Field(default=0.8, ge=0, le=1, description="Masks must exceed this predicted IoU.")
    stability_score_thresh: float = Field(default=0.95, ge=0, le=1, description="Masks must reach this stability.")
    box_nms_thresh: float = Field(default=0.7, ge=0, le=1, description="Of masks whose boxes overlap more, one stays.")

    @field_validator("percentiles")
    @classmethod
    def _as_they_are(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if percentiles != (0.0, 100.0):
            raise ValueError("SAM 2 is shown colours as they are; leave percentiles out")
        return percentiles
