"""The small U-Net that predicts flows, as a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.flow_unet.settings import KIND, FlowUnetSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.tasks.product import INSTANCES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from fintune_xr.models.flow_unet.adapter import load_flow_unet

    return load_flow_unet(checkpoint, settings, channels=channels, device=device)


FLOW_UNET: Final = ModelKind(
    KIND, INSTANCES, FlowUnetSettings, load=_load, recognises=says_kind(KIND), planes=own_planes,
    pools=True,
)  # fmt: skip
