"""Flow models made ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.encoders import Encoder, unet_encoder
from fintune_xr.finetune.instance.objective import FlowObjective
from fintune_xr.finetune.instance.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.finetune.trainable import Trainable, require_same_network
from fintune_xr.models.cellpose.kind import CPSAM
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.adapter import FlowUnet, load_flow_unet, save_flow_unet
from fintune_xr.models.flow_unet.settings import FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.flows.segmenter import FlowSegmenter


def flow_unet(settings: TrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    """The small U-Net of `start`, or a new one, to be trained on these `channels`.

    Raises CheckpointError for weights that do not fit, SettingsError for `filters` that they do not have,
    UnknownNameError for a plane that the tiles lack.
    """
    if start is None:
        return _new_flow_unet(settings, channels, device)
    segmenter = load_flow_unet(start, FlowUnetSettings(**_applied(settings)), channels=channels, device=device)
    network: Any = segmenter.network
    require_same_network(network.architecture, settings, start.name)
    return _trainable_flow_unet(settings, segmenter)


def _require_its_patches(settings: TrainSettings) -> None:
    for patch_px in (settings.patch_px, *(view.patch_px for view in settings.views)):
        if patch_px != FlowSegmenter.patch_px:
            raise SettingsError(f"patch_px: Cellpose-SAM takes {FlowSegmenter.patch_px} px, got {patch_px}")


def cpsam(settings: TrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    """Cellpose-SAM with the weights of `start`, to be trained on these `channels`.

    Raises SettingsError without weights to begin with, or for patches of another size than the network takes.
    """
    from fintune_xr.models.cellpose.adapter import load_cpsam, save_cpsam

    if start is None:
        raise SettingsError(f"{CPSAM.name}: expected weights to begin with, got none. Name published ones, or a file.")
    _require_its_patches(settings)
    adapted = load_cpsam(start, CpsamSettings(**_applied(settings)), channels=channels, device=device)
    network: Any = adapted.network
    network.train()
    stem = (*network.encoder.patch_embed.parameters(), network.encoder.pos_embed)
    encoder = Encoder(tuple(network.encoder.blocks), stem)
    if isinstance(settings, CpsamTrainSettings) and settings.activation_checkpointing:
        encoder.recompute()
    objective = FlowObjective(settings, adapted)
    return Trainable(settings, network, encoder, adapted, objective, lambda path: save_cpsam(network, path))


def _applied(settings: TrainSettings) -> dict[str, Any]:
    """What a training says of how its network is applied meanwhile."""
    return {
        "channels": settings.channels,
        "zero_channels": settings.zero_channels,
        "dynamics": settings.dynamics,
    }


def _new_flow_unet(settings: TrainSettings, channels: Sequence[str], device: str) -> Trainable:
    choice = choose_channels(channels, settings, n_inputs=len(channels))
    network = FlowUnet(FlowUnetArchitecture(channels=choice.names, filters=settings.filters)).to(device)
    applied = FlowUnetSettings(dynamics=settings.dynamics)
    segmenter = FlowSegmenter(network, applied, choice=choice, n_inputs=len(choice.names))
    return _trainable_flow_unet(settings, segmenter)


def _trainable_flow_unet(settings: TrainSettings, segmenter: FlowSegmenter) -> Trainable:
    network: Any = segmenter.network
    network.train()
    objective = FlowObjective(settings, segmenter)
    model = Trainable(
        settings, network, unet_encoder(network.unet), segmenter, objective,
        lambda path: save_flow_unet(network, stored, path),
    )  # fmt: skip
    stored = {**settings.as_dict(), "zero_channels": list(model.zeroed)}
    return model
