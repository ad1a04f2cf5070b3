"""The U-Net that finds particles, as a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.particle_unet.settings import KIND, ParticleUnetSettings
from fintune_xr.models.protocol import Detector
from fintune_xr.tasks.product import PROBABILITIES

# What weights called themselves before there was a second U-Net of this form.
_FORMER: Final = "unet"


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Detector:
    from fintune_xr.models.particle_unet.adapter import load_unet

    return load_unet(checkpoint, settings, channels=channels, device=device)


PARTICLE_UNET: Final = ModelKind(
    KIND, PROBABILITIES, ParticleUnetSettings, load=_load, recognises=says_kind(KIND, _FORMER),
    planes=own_planes, pools=True, former=(_FORMER,),
)  # fmt: skip
