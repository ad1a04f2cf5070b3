"""The small U-Net that predicts flows: what it is called, how it is built and applied."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from fintune_xr.models.flows.settings import FlowSettings
from fintune_xr.settings import Settings

KIND: Final = "flow_unet"


class FlowUnetArchitecture(Settings):
    """What must be known to build the network before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, description="Planes of the input, in order.")
    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")


class FlowUnetSettings(FlowSettings):
    """How a trained U-Net is applied."""
