"""A kind of model as somebody else would bring it: everything brighter than a level is an instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field

from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import INSTANCES


class ToySettings(Settings):
    """How bright an instance is."""

    level: int = Field(default=500, ge=0, description="Counts of the first plane.")


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from .adapter import ToySegmenter

    return ToySegmenter(settings.level)


TOY: Final = ModelKind("toy", INSTANCES, ToySettings, load=_load, has_weights=False)
