"""A small U-Net with Cellpose's outputs: trains from nothing on a CPU in a minute or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.dynunet import channels_last, channels_last_unet, save_own
from fintune_xr.models.flow_unet.settings import KIND, FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.settings import validate


class FlowUnet(torch.nn.Module):
    """MONAI's DynUNet in channels-last memory, in the form that Cellpose's tiling expects."""

    def __init__(self, architecture: FlowUnetArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.unet = channels_last_unet(len(architecture.channels), 3, architecture.filters)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, which the input must have."""
        return next(self.parameters()).dtype

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (n, 3, y, x) of `patches` (n, channel, y, x), and a style vector of zeros."""
        maps = self.unet(channels_last(patches))
        return maps, maps.new_zeros((len(maps), 256))


def load_flow_unet(
    checkpoint: Checkpoint, settings: FlowUnetSettings, *, channels: Sequence[str], device: str
) -> FlowSegmenter:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a plane that the store lacks.
    """
    entries = read_state(checkpoint)
    architecture = validate(FlowUnetArchitecture, entries["architecture"], where=checkpoint.path)
    choice = choose_channels(
        channels,
        settings,
        trained=architecture.channels,
        zeroed=checkpoint.zeroed,
        n_inputs=len(architecture.channels),
    )
    network = FlowUnet(architecture)
    load_strictly(network, entries["state"], source=checkpoint.path)
    network.to(device, dtype=getattr(torch, settings.precision))
    network.to(memory_format=torch.channels_last).eval()
    return FlowSegmenter(network, settings, choice=choice, n_inputs=len(architecture.channels))


def save_flow_unet(network: FlowUnet, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)
