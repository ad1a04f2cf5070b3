"""From a checkpoint to a working segmenter, loaded once per process."""

from __future__ import annotations

import functools
import threading
from typing import Any

from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.models.checkpoints import FLOW_UNET_KIND, SAM_KIND, THRESHOLD_KIND, UNET_KIND, Checkpoint
from fintune_xr.models.devices import resolve_device
from fintune_xr.models.kind import model_settings
from fintune_xr.models.protocol import Model, Segmenter
from fintune_xr.models.threshold.adapter import ThresholdSegmenter
from fintune_xr.settings import Settings
from fintune_xr.tasks.product import INSTANCES, PROBABILITIES, Product

_LOADING = threading.Lock()


def product_of(kind: str) -> Product:
    """What a run of a model of this kind stores."""
    return PROBABILITIES if kind == UNET_KIND else INSTANCES


def load_model(
    checkpoint: Checkpoint, *, channels: tuple[str, ...], settings: Settings, device: str, keep: bool = True
) -> Model:
    """The model of `checkpoint` for tiles with these `channels`; the same object for the same arguments.

    `device` is cpu, cuda or cuda:N. The weights' digest is checked when they are read. Without `keep` the model
    is built anew and leaves memory with its last user, for work that goes through many checkpoints.

    Raises DeviceError, CheckpointError, CheckpointNotFoundError, UnknownNameError or SettingsError.
    """
    expected = model_settings(checkpoint.kind)
    if not isinstance(settings, expected):
        raise SettingsError(
            f"a model of kind {checkpoint.kind} takes {expected.__name__}, got {type(settings).__name__}"
        )
    # Two threads of a worker must not load the same network twice.
    with _LOADING:
        return (_loaded if keep else _built)(checkpoint, tuple(channels), settings, resolve_device(device))


def load_segmenter(
    checkpoint: Checkpoint, *, channels: tuple[str, ...], settings: Settings, device: str, keep: bool = True
) -> Segmenter:
    """The same for a model that gives instance masks.

    Raises FintuneValueError for a model that gives anything else.
    """
    if product_of(checkpoint.kind) is not INSTANCES:
        raise FintuneValueError(
            f"{checkpoint.name!r} is a model of kind {checkpoint.kind}, which gives maps of probability: expected one "
            "that gives instance masks"
        )
    model: Any = load_model(checkpoint, channels=channels, settings=settings, device=device, keep=keep)
    return model  # type: ignore[no-any-return]


@functools.cache
def _loaded(checkpoint: Checkpoint, channels: tuple[str, ...], settings: Any, device: str) -> Model:
    return _built(checkpoint, channels, settings, device)


def _built(checkpoint: Checkpoint, channels: tuple[str, ...], settings: Any, device: str) -> Model:
    if checkpoint.kind == THRESHOLD_KIND:
        return ThresholdSegmenter(settings, channels=channels)
    # The network libraries take many seconds to import, and a classical run needs none of them.
    if checkpoint.kind == FLOW_UNET_KIND:
        from fintune_xr.models.flow_unet.adapter import load_flow_unet

        return load_flow_unet(checkpoint, settings, channels=channels, device=device)
    if checkpoint.kind == SAM_KIND:
        from fintune_xr.models.sam.adapter import load_sam_segmenter

        return load_sam_segmenter(checkpoint, settings, channels=channels, device=device)
    if checkpoint.kind == UNET_KIND:
        from fintune_xr.models.particle_unet.adapter import load_unet

        return load_unet(checkpoint, settings, channels=channels, device=device)
    from fintune_xr.models.cellpose.adapter import load_cpsam

    return load_cpsam(checkpoint, settings, channels=channels, device=device)
