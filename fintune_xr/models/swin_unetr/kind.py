"""A Swin transformer with the decoder of UNETR, as a kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.models.swin_unetr.settings import KIND
from fintune_xr.tasks.product import CLASSES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.swin_unetr.adapter import load_swin_unetr

    return load_swin_unetr(checkpoint, settings, channels=channels, device=device)


SWIN_UNETR: Final = ModelKind(
    KIND, CLASSES, ClassSettings, load=_load, recognises=says_kind(KIND), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs,
)  # fmt: skip
