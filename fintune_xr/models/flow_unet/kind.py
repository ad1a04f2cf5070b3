"""The small U-Net that predicts flows: settings, and how its weights are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.flows.settings import FlowSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import INSTANCES


class FlowUnetArchitecture(Settings):
    """What must be known to build the network before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, description="Planes of the input, in order.")
    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")


class FlowUnetSettings(FlowSettings):
    """How a trained U-Net is applied."""


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from fintune_xr.models.flow_unet.adapter import load_flow_unet

    return load_flow_unet(checkpoint, settings, channels=channels, device=device)


FLOW_UNET: Final = ModelKind(
    "flow_unet", INSTANCES, FlowUnetSettings, load=_load, recognises=says_kind("flow_unet"), planes=own_planes,
    pools=True,
)  # fmt: skip
