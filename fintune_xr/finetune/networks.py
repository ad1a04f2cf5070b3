"""Networks made ready for training, with how to apply and how to save each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.finetune.encoders import Encoder, frozen_blocks
from fintune_xr.finetune.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.checkpoints import CPSAM_KIND, FLOW_UNET_KIND, Checkpoint
from fintune_xr.models.flow_unet import FlowUnet, load_flow_unet, save_flow_unet
from fintune_xr.models.flows import FlowSegmenter
from fintune_xr.models.settings import CpsamSettings, FlowUnetArchitecture, FlowUnetSettings


@dataclass(frozen=True, eq=False)
class Trainable:
    """A network in float32, the segmenter that applies it while it learns, and its way to disk."""

    settings: TrainSettings
    network: torch.nn.Module
    encoder: Encoder
    segmenter: FlowSegmenter
    save: Callable[[Path], None]

    def __post_init__(self) -> None:
        # A number of blocks that the encoder lacks is found before anything is prepared.
        frozen_blocks(self.settings, len(self.encoder.blocks), epoch=0)

    @property
    def choice(self) -> ChannelChoice:
        """Planes that it is shown."""
        return self.segmenter.choice

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Planes of the choice that are blanked."""
        return tuple(name for name, blank in zip(self.choice.names, self.choice.zeroed, strict=True) if blank)

    @property
    def n_inputs(self) -> int:
        """Planes that the network has inputs for."""
        return self.segmenter.n_inputs


def trainable(
    settings: TrainSettings, *, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """What `start` refers to, or a new U-Net, to be trained on tiles with these `channels`.

    Raises UnknownNameError for a kind of model that cannot be trained, SettingsError for settings that do not
    suit it.
    """
    if start is None:
        return _new_flow_unet(settings, channels, device)
    chosen: dict[str, Any] = {
        "channels": settings.channels, "zero_channels": settings.zero_channels, "dynamics": settings.dynamics
    }
    if start.kind == FLOW_UNET_KIND:
        segmenter = load_flow_unet(start, FlowUnetSettings(**chosen), channels=channels, device=device)
        return _trainable_unet(settings, segmenter)
    if start.kind != CPSAM_KIND:
        raise unknown_name("trainable kind of model", start.kind, (FLOW_UNET_KIND, CPSAM_KIND))
    from fintune_xr.models.cellpose_sam import load_cpsam, save_cpsam

    if settings.patch_px != FlowSegmenter.patch_px:
        raise SettingsError(
            f"patch_px: Cellpose-SAM takes {FlowSegmenter.patch_px} px, got {settings.patch_px}"
        )
    adapted = load_cpsam(start, CpsamSettings(**chosen), channels=channels, device=device)
    network: Any = adapted.network
    network.train()
    stem = (*network.encoder.patch_embed.parameters(), network.encoder.pos_embed)
    encoder = Encoder(tuple(network.encoder.blocks), stem)
    if isinstance(settings, CpsamTrainSettings) and settings.activation_checkpointing:
        encoder.recompute()
    return Trainable(settings, network, encoder, adapted, lambda path: save_cpsam(network, path))


def _new_flow_unet(settings: TrainSettings, channels: Sequence[str], device: str) -> Trainable:
    choice = choose_channels(channels, settings, n_inputs=len(channels))
    network = FlowUnet(FlowUnetArchitecture(channels=choice.names, filters=settings.filters)).to(device)
    applied = FlowUnetSettings(dynamics=settings.dynamics)
    segmenter = FlowSegmenter(network, applied, choice=choice, n_inputs=len(choice.names))
    return _trainable_unet(settings, segmenter)


def _trainable_unet(settings: TrainSettings, segmenter: FlowSegmenter) -> Trainable:
    network: Any = segmenter.network
    network.train()
    unet = network.unet
    encoder = Encoder((unet.input_block, *unet.downsamples, unet.bottleneck))
    model = Trainable(settings, network, encoder, segmenter, lambda path: save_flow_unet(network, stored, path))
    stored = {**settings.as_dict(), "zero_channels": list(model.zeroed)}
    return model
