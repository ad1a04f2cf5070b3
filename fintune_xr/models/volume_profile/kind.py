"""The floor under every encoder of volumes: settings, and how it is had without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Model
from fintune_xr.models.vjepa2.settings import VolumeSettings
from fintune_xr.tasks.product import SCORES


class VolumeProfileSettings(VolumeSettings):
    """How a volume is summed up by the means and standard deviations along its axes."""


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:  # noqa: ARG001
    from fintune_xr.models.volume_profile.adapter import VolumeProfile

    return VolumeProfile(settings)


def _sizes(checkpoint: Checkpoint, settings: Any, shape: tuple[int, ...]) -> Mapping[str, int]:  # noqa: ARG001
    return {n.FEATURE: 2 * sum(shape)}


VOLUME_PROFILE: Final = ModelKind(
    "volume_profile", SCORES, VolumeProfileSettings, load=_load, has_weights=False, sizes=_sizes
)
