"""MONAI's DynUNet with an output for each class, applied in windows that leave no seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.classes.logits import ClassLogits
from fintune_xr.models.classes.mapper import WHOLE, ClassMapper, class_mapper
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.dynunet import channels_last, channels_last_unet, save_own, stride_px
from fintune_xr.models.patch_batches import Cut
from fintune_xr.models.protocol import Maps
from fintune_xr.models.semantic_unet.settings import KIND, SemanticUnetArchitecture
from fintune_xr.models.windows import seamless_cut
from fintune_xr.settings import validate


class SemanticUnet(torch.nn.Module):
    """From colours to a logit for each class and pixel."""

    def __init__(self, architecture: SemanticUnetArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.unet = channels_last_unet(
            len(architecture.channels), architecture.class_map.n_classes, architecture.filters
        )

    def forward(self, patches: torch.Tensor) -> ClassLogits:
        """Logits of `patches` (n, colour, y, x) whose edges are multiples of the stride."""
        return ClassLogits(self.unet(channels_last(patches)))


def unet_mapper(network: SemanticUnet, settings: ClassSettings, *, channels: Sequence[str]) -> ClassMapper:
    """What applies `network` to tiles of a store with these `channels`.

    Raises UnknownNameError for a colour that the store lacks.
    """
    cut = partial(_whole_or_windows, window_px=settings.window_px, n_levels=len(network.architecture.filters))
    return class_mapper(network, settings, channels, cut)


def _whole_or_windows(image: Maps, *, window_px: int, n_levels: int) -> Cut:
    """`image` whole where its edges are up to 1.5 windows: two windows along each see far more pixels together."""
    stride = stride_px(n_levels)
    edge = -(-max(image.shape[1:]) // stride) * stride
    return seamless_cut(image, edge if edge <= WHOLE * window_px else window_px, n_levels=n_levels)


def load_semantic_unet(
    checkpoint: Checkpoint, settings: ClassSettings, *, channels: Sequence[str], device: str
) -> ClassMapper:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a colour that the store lacks.
    """
    entries = read_state(checkpoint)
    network = SemanticUnet(validate(SemanticUnetArchitecture, entries["architecture"], where=checkpoint.path))
    load_strictly(network, entries["state"], source=checkpoint.path)
    network.to(device).to(memory_format=torch.channels_last).eval()
    return unet_mapper(network, settings, channels=channels)


def save_semantic_unet(network: SemanticUnet, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)
