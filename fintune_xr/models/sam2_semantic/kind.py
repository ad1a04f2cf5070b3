"""SAM 2 as a classifier of pixels, as a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.models.sam2_semantic.settings import KIND
from fintune_xr.tasks.product import CLASSES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.sam2_semantic.adapter import load_sam2_semantic

    return load_sam2_semantic(checkpoint, settings, channels=channels, device=device)


def _promptable(checkpoint: Checkpoint, device: str) -> Any:
    from fintune_xr.models.sam2_semantic.adapter import promptable

    return promptable(checkpoint, device=device)


SAM2_SEMANTIC: Final = ModelKind(
    KIND, CLASSES, ClassSettings, load=_load, recognises=says_kind(KIND), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs, promptable=_promptable,
)  # fmt: skip
