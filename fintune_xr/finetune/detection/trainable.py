"""The particle U-Net made ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.detection.objective import ParticleObjective
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.encoders import unet_encoder
from fintune_xr.finetune.trainable import Trainable, require_same_network
from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.particle_unet.adapter import ParticleUnet, UnetDetector, load_unet, save_unet
from fintune_xr.models.particle_unet.settings import ParticleUnetArchitecture, ParticleUnetSettings


def particle_unet(
    settings: UnetTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """The particle U-Net of `start`, or a new one, to be trained on these `channels`.

    Raises SettingsError for discs that a trained network was not taught, `filters` that it does not have, or for a new
    one without a diameter.
    """
    detector = _detector(settings, start, channels, device)
    network = detector.network
    network.train()
    _require_same_discs(settings, network.architecture)
    if start is not None:
        require_same_network(network.architecture, settings, start.name)
    objective = ParticleObjective(settings, detector)
    encoder = unet_encoder(network.unet)
    model = Trainable(settings, network, encoder, detector, objective, lambda path: save_unet(network, stored, path))
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
