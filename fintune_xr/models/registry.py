"""From a checkpoint to a working segmenter, loaded once per process."""

from __future__ import annotations

import functools
import threading
from typing import Any

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.models.checkpoints import CPSAM_KIND, FLOW_UNET_KIND, MODEL_KINDS, THRESHOLD_KIND, Checkpoint
from fintune_xr.models.devices import resolve_device
from fintune_xr.models.segmenter import Segmenter
from fintune_xr.models.threshold import ThresholdSegmenter, ThresholdSettings
from fintune_xr.settings import Settings

_LOADING = threading.Lock()


def model_settings(kind: str) -> type[Settings]:
    """The settings class of models of this kind.

    Raises UnknownNameError for a kind that does not exist.
    """
    if kind == THRESHOLD_KIND:
        return ThresholdSettings
    settings: type[Settings]
    if kind == FLOW_UNET_KIND:
        settings = _flow_unet().FlowUnetSettings
    elif kind == CPSAM_KIND:
        settings = _cellpose_sam().CpsamSettings
    else:
        raise unknown_name("kind of model", kind, MODEL_KINDS)
    return settings


def load_segmenter(
    checkpoint: Checkpoint, *, channels: tuple[str, ...], settings: Settings, device: str
) -> Segmenter:
    """The segmenter of `checkpoint` for tiles with these `channels`; the same object for the same arguments.

    `device` is cpu, cuda or cuda:N. The weights' digest is checked when they are read.

    Raises DeviceError, CheckpointError, CheckpointNotFoundError, UnknownNameError or SettingsError.
    """
    expected = model_settings(checkpoint.kind)
    if not isinstance(settings, expected):
        raise SettingsError(
            f"a model of kind {checkpoint.kind} takes {expected.__name__}, got {type(settings).__name__}"
        )
    # Two threads of a worker must not load the same network twice.
    with _LOADING:
        return _loaded(checkpoint, tuple(channels), settings, resolve_device(device))


@functools.cache
def _loaded(checkpoint: Checkpoint, channels: tuple[str, ...], settings: Any, device: str) -> Segmenter:
    if checkpoint.kind == THRESHOLD_KIND:
        return ThresholdSegmenter(settings, channels=channels)
    load = _flow_unet().load_flow_unet if checkpoint.kind == FLOW_UNET_KIND else _cellpose_sam().load_cpsam
    segmenter: Segmenter = load(checkpoint, settings, channels=channels, device=device)
    return segmenter


# The network libraries take many seconds to import, and a classical run needs none of them.
def _flow_unet() -> Any:
    from fintune_xr.models import flow_unet

    return flow_unet


def _cellpose_sam() -> Any:
    from fintune_xr.models import cellpose_sam

    return cellpose_sam
