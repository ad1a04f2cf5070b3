"""A small U-Net with Cellpose's outputs: trains from nothing on a CPU in a minute or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet

from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import FLOW_UNET_KIND, Checkpoint, load_strictly, read_state
from fintune_xr.models.flows import FlowSegmenter
from fintune_xr.models.settings import FlowUnetArchitecture, FlowUnetSettings
from fintune_xr.settings import validated


class FlowUnet(torch.nn.Module):
    """MONAI's DynUNet in channels-last memory, in the form that Cellpose's tiling expects."""

    def __init__(self, architecture: FlowUnetArchitecture) -> None:
        super().__init__()
        n_levels = len(architecture.filters)
        self.architecture = architecture
        self.unet = DynUNet(
            spatial_dims=2,
            in_channels=len(architecture.channels),
            out_channels=3,
            kernel_size=[3] * n_levels,
            strides=[1] + [2] * (n_levels - 1),
            upsample_kernel_size=[2] * (n_levels - 1),
            filters=list(architecture.filters),
            norm_name="batch",
        )
        # Convolutions on CPUs are several times faster so.
        self.to(memory_format=torch.channels_last)

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
        maps = self.unet(patches.contiguous(memory_format=torch.channels_last))
        return maps, maps.new_zeros((len(maps), 256))


def load_flow_unet(
    checkpoint: Checkpoint, settings: FlowUnetSettings, *, channels: Sequence[str], device: str
) -> FlowSegmenter:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a plane that the store lacks.
    """
    entries = read_state(checkpoint)
    architecture = validated(FlowUnetArchitecture, entries["architecture"], where=checkpoint.path)
    choice = choose_channels(
        channels, settings, trained=architecture.channels, zeroed=checkpoint.zeroed,
        n_inputs=len(architecture.channels),
    )
    network = FlowUnet(architecture)
    load_strictly(network, entries["state"], source=checkpoint.path)
    network.to(device, dtype=getattr(torch, settings.precision))
    network.to(memory_format=torch.channels_last).eval()
    return FlowSegmenter(network, settings, choice=choice, n_inputs=len(architecture.channels))


def save_flow_unet(network: FlowUnet, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    entries = {
        "kind": FLOW_UNET_KIND,
        "architecture": network.architecture.as_dict(),
        "settings": dict(settings),
        "state": state,
    }
    partial = path.with_name(f".{path.name}.partial")
    torch.save(entries, partial)
    partial.replace(path)
