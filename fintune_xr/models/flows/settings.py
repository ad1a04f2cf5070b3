"""Settings that every model predicting flows understands; free of network libraries."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from fintune_xr.models.channels import ChannelSettings
from fintune_xr.settings import Settings

NITER: Final = 200
"""Cellpose's steps along the flows where nobody asks for another number."""


class DynamicsSettings(Settings):
    """Mask reconstruction; names and defaults are Cellpose's."""

    cellprob_threshold: float = Field(default=0.0, description="Pixels with a larger cell logit are followed.")
    flow_threshold: float = Field(default=0.4, ge=0, description="Largest flow error kept; 0: no check.")
    niter: int = Field(
        default=NITER,
        ge=1,
        description=f"Steps along the flows. {NITER} are scaled with the diameter where one is given, others are not.",
    )
    min_size_px: int = Field(default=15, ge=0, description="Smaller instances are dropped.")
    max_size_fraction: float = Field(default=0.4, gt=0, le=1, description="Larger shares of the tile are dropped.")


class FlowSettings(ChannelSettings):
    """Settings that any model predicting flows understands."""

    dynamics: DynamicsSettings = DynamicsSettings()
    patch_batch: int = Field(default=8, ge=1, description="Patches that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )
