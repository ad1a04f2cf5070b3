"""Settings of SAM and micro-SAM, for one run and for a sweep."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from fintune_xr import names as n
from fintune_xr.models.channels import ChannelSettings
from fintune_xr.settings import require_each_once

Share = Annotated[float, Field(ge=0, le=1)]

PointsPerSide = Annotated[int, Field(ge=1, le=256)]


class SamInputSettings(ChannelSettings):
    """What SAM is shown, and what is made of its masks; names and defaults of the generator are SAM's own."""

    channels: tuple[str, ...] | None = Field(
        default=(n.MARKER_CHANNEL, n.DAPI),
        min_length=1,
        max_length=3,
        description="Planes that become red, green and blue; one plane becomes grey, a third one missing is black.",
    )
    percentiles: tuple[float, float] = Field(
        default=(1.0, 99.8), description="Percentiles of a tile's plane that become 0 and 255."
    )
    stability_score_offset: float = Field(
        default=1.0, gt=0, description="Shift of the mask threshold, in logits, that a stable mask survives."
    )
    points_per_batch: int = Field(default=64, ge=1, description="Prompts that the decoder sees at once.")
    min_area_px: int = Field(default=15, ge=1, description="Instances with fewer visible pixels are dropped.")
    max_area_fraction: float = Field(
        default=0.25, gt=0, le=1, description="Masks over a larger share of the tile are background and dropped."
    )

    @field_validator("percentiles")
    @classmethod
    def _ascending(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"expected 0 <= low < high <= 100, got {low} and {high}")
        return percentiles


class SamSettings(SamInputSettings):
    """How SAM segments everything in a tile."""

    points_per_side: PointsPerSide = Field(default=32, description="Prompts along each side of a tile.")
    pred_iou_thresh: Share = Field(default=0.88, description="Masks must exceed this predicted IoU; 0: no filter.")
    stability_score_thresh: Share = Field(default=0.95, description="Masks must reach this stability; 0: no filter.")
    box_nms_thresh: Share = Field(default=0.7, description="Of masks whose boxes overlap more, the best one stays.")


class SamSweepSettings(SamInputSettings):
    """The grid of a sweep and the tiles that it runs on."""

    points_per_side: tuple[PointsPerSide, ...] = Field(default=(16, 32, 64), min_length=1)
    pred_iou_thresh: tuple[Share, ...] = Field(default=(0.7, 0.8, 0.88), min_length=1)
    stability_score_thresh: tuple[Share, ...] = Field(default=(0.8, 0.9, 0.95), min_length=1)
    box_nms_thresh: tuple[Share, ...] = Field(default=(0.7,), min_length=1)
    n_tiles: int = Field(default=10, ge=1, description="Annotated tiles drawn.")
    seed: int = Field(default=2024, ge=0, description="Seed of the draw.")

    @model_validator(mode="after")
    def _each_once(self) -> SamSweepSettings:
        require_each_once(self, n.POINTS_PER_SIDE, n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)
        return self
