"""Cellpose-SAM: how its weights are known and had."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.checkpoints import Checkpoint, Planes, bare_key
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.models.weights_cache import Published
from fintune_xr.tasks.product import INSTANCES

# Cellpose keeps its names and its address in cellpose.models, whose import takes many seconds and so happens
# only to download. A test compares these names with the installed package.
CPSAM_NAMES: Final = ("cpsam", "cpsam_v2")

LOCAL_MODELS_VARIABLE: Final = "CELLPOSE_LOCAL_MODELS_PATH"
_DINO: Final = "encoder.cls_token"


def weights_folder() -> Path:
    """Folder in which Cellpose keeps its weights on this machine."""
    chosen = os.environ.get(LOCAL_MODELS_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cellpose" / "models"


def _published(name: str) -> Published:
    def address() -> str:
        from cellpose import models

        return str(models._MODEL_URL) + name

    return Published(name, name, weights_folder, LOCAL_MODELS_VARIABLE, address)


def _recognises(entries: Mapping[str, Any]) -> bool:
    return bool({bare_key(key) for key in entries} & {"W2", _DINO})


def _refuses(entries: Mapping[str, Any]) -> str:
    if any(bare_key(key) == _DINO for key in entries):
        return "holds a Cellpose network with a DINOv3 encoder, which is not supported. Use cpsam weights."
    return ""


def _planes(entries: Mapping[str, Any], record: Mapping[str, Any]) -> Planes:  # noqa: ARG001
    return Planes(tuple(record.get("channels", ())), tuple(record.get("zero_channels", ())))


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from fintune_xr.models.cellpose.adapter import load_cpsam

    return load_cpsam(checkpoint, settings, channels=channels, device=device)


CPSAM: Final = ModelKind(
    "cpsam", INSTANCES, CpsamSettings, load=_load, recognises=_recognises, refuses=_refuses,
    weights="Cellpose 4 weights (no entry W2; those of Cellpose 3 and older cannot be used)",
    published=MappingProxyType({name: _published(name) for name in CPSAM_NAMES}), planes=_planes, pools=True,
)  # fmt: skip
