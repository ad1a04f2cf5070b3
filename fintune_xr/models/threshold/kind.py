"""The classical model, and how it is had without weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.models.threshold.settings import ThresholdSettings
from fintune_xr.tasks.product import INSTANCES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:  # noqa: ARG001
    from fintune_xr.models.threshold.adapter import ThresholdSegmenter

    return ThresholdSegmenter(settings, channels=channels)


THRESHOLD: Final = ModelKind("threshold", INSTANCES, ThresholdSettings, load=_load, has_weights=False)
