"""Networks made ready for training, with how to apply and how to save each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.finetune.detection.objective import ParticleTask
from fintune_xr.finetune.encoders import Encoder, frozen_blocks, unet_encoder
from fintune_xr.finetune.instance.objective import FlowTask
from fintune_xr.finetune.objective import Task
from fintune_xr.finetune.settings import CpsamTrainSettings, FitSettings, TrainSettings, UnetTrainSettings
from fintune_xr.models.cellpose.kind import CPSAM, CpsamSettings
from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.adapter import FlowUnet, load_flow_unet, save_flow_unet
from fintune_xr.models.flow_unet.kind import FLOW_UNET, FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.models.particle_unet.adapter import ParticleUnet, UnetDetector, load_unet, save_unet
from fintune_xr.models.particle_unet.kind import PARTICLE_UNET, ParticleUnetArchitecture, ParticleUnetSettings
from fintune_xr.models.registry import kind_named

TRAINABLE: Final = (FLOW_UNET.name, CPSAM.name, PARTICLE_UNET.name)


class Applied(Protocol):
    """What applies a network to whole tiles."""

    choice: ChannelChoice


@dataclass(frozen=True, eq=False)
class Trainable:
    """A network in float32 with the task that it learns, what applies it while it does, and its way to disk."""

    settings: FitSettings
    network: torch.nn.Module
    encoder: Encoder
    applied: Applied
    task: Task
    save: Callable[[Path], None]

    def __post_init__(self) -> None:
        # A number of blocks that the encoder lacks is found before anything is prepared.
        frozen_blocks(self.settings, len(self.encoder.blocks), epoch=0)

    @property
    def choice(self) -> ChannelChoice:
        """Planes that it is shown."""
        return self.applied.choice

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Planes of the choice that are blanked."""
        return tuple(name for name, blank in zip(self.choice.names, self.choice.zeroed, strict=True) if blank)


def trainable(settings: FitSettings, *, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    """What `start` refers to, or a new U-Net of the kind that `settings` are for, to be trained on these `channels`.

    Raises UnknownNameError for a kind of model that cannot be trained, SettingsError for settings that do not
    suit it.
    """
    new = PARTICLE_UNET if isinstance(settings, UnetTrainSettings) else FLOW_UNET
    kind = new.name if start is None else kind_named(start.kind).name
    if kind not in TRAINABLE:
        raise unknown_name("trainable kind of model", kind, TRAINABLE)
    if kind == PARTICLE_UNET.name and isinstance(settings, UnetTrainSettings):
        return _particle_unet(settings, start, channels, device)
    if kind != PARTICLE_UNET.name and isinstance(settings, TrainSettings):
        return _flow_model(settings, start, channels, device)
    raise SettingsError(f"{type(settings).__name__} are not for a model of kind {kind}; see train_settings({kind!r})")


def _flow_model(settings: TrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str) -> Trainable:
    if start is None:
        return _new_flow_unet(settings, channels, device)
    chosen: dict[str, Any] = {
        "channels": settings.channels,
        "zero_channels": settings.zero_channels,
        "dynamics": settings.dynamics,
    }
    if start.kind == FLOW_UNET.name:
        segmenter = load_flow_unet(start, FlowUnetSettings(**chosen), channels=channels, device=device)
        return _trainable_flow_unet(settings, segmenter)
    from fintune_xr.models.cellpose.adapter import load_cpsam, save_cpsam

    if settings.patch_px != FlowSegmenter.patch_px:
        raise SettingsError(f"patch_px: Cellpose-SAM takes {FlowSegmenter.patch_px} px, got {settings.patch_px}")
    adapted = load_cpsam(start, CpsamSettings(**chosen), channels=channels, device=device)
    network: Any = adapted.network
    network.train()
    stem = (*network.encoder.patch_embed.parameters(), network.encoder.pos_embed)
    encoder = Encoder(tuple(network.encoder.blocks), stem)
    if isinstance(settings, CpsamTrainSettings) and settings.activation_checkpointing:
        encoder.recompute()
    task = FlowTask(settings, adapted)
    return Trainable(settings, network, encoder, adapted, task, lambda path: save_cpsam(network, path))


def _new_flow_unet(settings: TrainSettings, channels: Sequence[str], device: str) -> Trainable:
    choice = choose_channels(channels, settings, n_inputs=len(channels))
    network = FlowUnet(FlowUnetArchitecture(channels=choice.names, filters=settings.filters)).to(device)
    applied = FlowUnetSettings(dynamics=settings.dynamics)
    segmenter = FlowSegmenter(network, applied, choice=choice, n_inputs=len(choice.names))
    return _trainable_flow_unet(settings, segmenter)


def _trainable_flow_unet(settings: TrainSettings, segmenter: FlowSegmenter) -> Trainable:
    network: Any = segmenter.network
    network.train()
    task = FlowTask(settings, segmenter)
    model = Trainable(
        settings, network, unet_encoder(network.unet), segmenter, task,
        lambda path: save_flow_unet(network, stored, path),
    )  # fmt: skip
    stored = {**settings.as_dict(), "zero_channels": list(model.zeroed)}
    return model


def _particle_unet(
    settings: UnetTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    detector = _detector(settings, start, channels, device)
    network = detector.network
    network.train()
    _require_same_discs(settings, network.architecture)
    task = ParticleTask(settings, detector)
    model = Trainable(
        settings, network, unet_encoder(network.unet), detector, task, lambda path: save_unet(network, stored, path)
    )
    stored = {**settings.as_dict(), "zero_channels": list(model.zeroed)}
    return model


def _require_same_discs(settings: UnetTrainSettings, stated: ParticleUnetArchitecture) -> None:
    """What a network was taught cannot be taught otherwise afterwards, and its picking depends on it."""
    wanted = (settings.diameter_px or stated.diameter_px, settings.disc_fraction)
    if wanted != (stated.diameter_px, stated.disc_fraction):
        raise SettingsError(
            f"this network was trained on discs of {stated.disc_fraction:g} of {stated.diameter_px:g} px; asked for is "
            f"{wanted[1]:g} of {wanted[0]:g} px. Train a new one, or give the same diameter_px and disc_fraction."
        )


def _detector(
    settings: UnetTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> UnetDetector:
    chosen: dict[str, Any] = {"channels": settings.channels, "zero_channels": settings.zero_channels}
    if start is not None:
        return load_unet(start, ParticleUnetSettings(**chosen), channels=channels, device=device)
    if settings.diameter_px is None:
        raise SettingsError("diameter_px: expected the diameter of a particle in px for a new network, got none")
    choice = choose_channels(channels, settings, n_inputs=len(channels))
    architecture = ParticleUnetArchitecture(
        channels=choice.names, filters=settings.filters, diameter_px=settings.diameter_px,
        disc_fraction=settings.disc_fraction,
    )  # fmt: skip
    return UnetDetector(ParticleUnet(architecture).to(device), ParticleUnetSettings(**chosen), choice=choice)
