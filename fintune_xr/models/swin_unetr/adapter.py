"""A transformer that looks and convolutions that decide, as in Swin UNETR; "like TransUNet", which no library here has.

MONAI's own SwinUNETR needs a further package, so its decoder is put on transformers' Swin encoder.

Reference: Hatamizadeh et al. 2022, Swin UNETR, BrainLes, LNCS 12962.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from transformers import SwinBackbone, SwinConfig

from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.classes.logits import ClassLogits
from fintune_xr.models.classes.mapper import ClassMapper, class_mapper, whole_or_blended
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.dynunet import save_own
from fintune_xr.models.swin_unetr.settings import KIND, STRIDE_PX, SwinUnetrArchitecture
from fintune_xr.settings import validate


class SwinSemantic(torch.nn.Module):
    """From colours to a logit for each class and pixel."""

    def __init__(self, architecture: SwinUnetrArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        n = architecture.features
        self.encoder = SwinBackbone(_config(architecture))
        self.skips = torch.nn.ModuleList(
            [_block(len(architecture.channels), n), *(_block(n << level, n << level) for level in range(4))]
        )
        self.ups = torch.nn.ModuleList([*(_up(n << level + 1, n << level) for level in (2, 1, 0)), _up(n, n)])
        self.classes = torch.nn.Conv2d(n, architecture.class_map.n_classes, 1)

    def forward(self, patches: torch.Tensor) -> ClassLogits:
        """Logits of `patches` (n, colour, y, x) whose edges are multiples of 32 px."""
        levels = [patches, *self.encoder(patches).feature_maps]
        *kept, lowest = (skip(level) for skip, level in zip(self.skips, levels, strict=True))
        for up in self.ups:
            lowest = up(lowest, kept.pop())
        return ClassLogits(self.classes(lowest))


def _block(n_in: int, n_out: int) -> torch.nn.Module:
    block: torch.nn.Module = UnetrBasicBlock(2, n_in, n_out, 3, 1, "instance", res_block=True)
    return block


def _up(n_in: int, n_out: int) -> torch.nn.Module:
    block: torch.nn.Module = UnetrUpBlock(2, n_in, n_out, 3, 2, "instance", res_block=True)
    return block


def _config(chosen: SwinUnetrArchitecture) -> Any:
    return SwinConfig(
        patch_size=2, num_channels=len(chosen.channels), embed_dim=chosen.features, depths=list(chosen.depths),
        num_heads=list(chosen.heads), window_size=chosen.window,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def swin_mapper(network: SwinSemantic, settings: ClassSettings, *, channels: Sequence[str]) -> ClassMapper:
    """What applies `network` to tiles of a store with these `channels`.

    Raises UnknownNameError for a colour that the store lacks.
    """
    return class_mapper(network, settings, channels, whole_or_blended(settings, stride=STRIDE_PX))


def load_swin_unetr(
    checkpoint: Checkpoint, settings: ClassSettings, *, channels: Sequence[str], device: str
) -> ClassMapper:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a colour that the store lacks.
    """
    entries = read_state(checkpoint)
    network = SwinSemantic(validate(SwinUnetrArchitecture, entries["architecture"], where=checkpoint.path))
    load_strictly(network, entries["state"], source=checkpoint.path)
    return swin_mapper(network.to(device).eval(), settings, channels=channels)


def save_swin_unetr(network: SwinSemantic, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)
