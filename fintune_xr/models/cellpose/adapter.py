"""Cellpose-SAM: Cellpose's own network, weights and results, without its guesses and fallbacks."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from cellpose import transforms
from cellpose.vit import CPSAM
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from fintune_xr.errors import CheckpointError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.models.flows.settings import NITER
from fintune_xr.models.patch_batches import Cut
from fintune_xr.models.protocol import Maps, Mask

# Cellpose-SAM has three inputs; for two stains the third stays empty.
N_INPUTS = 3
# Diameter that Cellpose's weights expect where the user states one.
MODEL_DIAMETER_PX = 30.0

# Relative positions of a block that attends over the whole 64 x 64 grid of SAM's encoder.
_GLOBAL_POSITIONS = 127
_POSITIONS = re.compile(r"encoder\.blocks\.\d+\.attn\.rel_pos_h")
_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """What sets the size of SAM's image encoder."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...] = ()


FULL_SIZE = EncoderSize(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))


class CpsamSegmenter(FlowSegmenter):
    """Cellpose's results, tile by tile, in stages."""

    settings: CpsamSettings

    def reconstruct(self, maps: Maps) -> Mask:
        """Instances that the flows lead to; a rescaled tile takes proportionally more or fewer of the usual steps.

        Another number of steps is taken as it was asked for, as Cellpose does, but for runs that an earlier release
        began (`scales_niter`).
        """
        settings = self.settings.dynamics
        if settings.niter == NITER or self.settings.scales_niter:
            settings = settings.model_copy(update={"niter": max(1, int(settings.niter / self._rescale))})
        return masks_from_flows(maps, settings)

    @property
    def _rescale(self) -> float:
        diameter = self.settings.diameter_px
        return MODEL_DIAMETER_PX / diameter if diameter else 1.0

    def _cut(self, image: Maps) -> Cut:
        if self._rescale == 1.0:
            return super()._cut(image)
        scaled = transforms.resize_image(np.moveaxis(image, 0, -1), rsz=self._rescale)
        cut = super()._cut(np.moveaxis(scaled, -1, 0))

        def join(found: Sequence[Maps]) -> Maps:
            full = transforms.resize_image(np.moveaxis(cut.join(found), 0, -1), *image.shape[1:])
            return np.ascontiguousarray(np.moveaxis(full, -1, 0))

        return replace(cut, join=join)


def load_cpsam(
    checkpoint: Checkpoint, settings: CpsamSettings, *, channels: Sequence[str], device: str
) -> CpsamSegmenter:
    """Cellpose-SAM with the weights of `checkpoint` on `device`, for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, SettingsError for more planes than it has inputs.
    """
    choice = choose_channels(
        channels, settings, trained=checkpoint.channels, zeroed=checkpoint.zeroed, n_inputs=N_INPUTS
    )
    network = build_network(read_state(checkpoint), source=checkpoint.path)
    network.dtype = getattr(torch, settings.precision)
    network.to(device).eval()
    return CpsamSegmenter(network, settings, choice=choice, n_inputs=N_INPUTS)


def build_network(state: Mapping[str, torch.Tensor], *, source: str) -> CPSAM:
    """Cellpose's network filled with `state`; its width and depth are those of the weights.

    Raises CheckpointError if `source` lacks an entry, holds one too many or one of another shape: Cellpose
    itself would leave those at random values.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "W2" not in state:
        raise CheckpointError(
            f"{source} is not a Cellpose 4 network (no entry W2). Weights of Cellpose 3 cannot be used."
        )
    # Without memory of its own at first: drawing 300 million random weights to replace them takes seconds.
    with torch.device("meta"):
        network = empty_network(_encoder_size(state, source))
    load_strictly(network, state, source=source)
    return network


def empty_network(size: EncoderSize = FULL_SIZE) -> CPSAM:
    """Cellpose's network with random weights, as small as `size` says: for trials and tests."""

    def encoder_only(_: object) -> SimpleNamespace:
        return SimpleNamespace(image_encoder=_encoder(size))

    # Cellpose's constructor takes its encoder from this registry and from nowhere else.
    with _BUILDING:
        published = sam_model_registry["vit_l"]
        sam_model_registry["vit_l"] = encoder_only
        try:
            return CPSAM()
        finally:
            sam_model_registry["vit_l"] = published


def _encoder(size: EncoderSize) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=1024,
        patch_size=16,
        depth=size.depth,
        embed_dim=size.width,
        num_heads=size.heads,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=size.global_blocks,
        window_size=14,
        out_chans=256,
    )


def _encoder_size(state: Mapping[str, torch.Tensor], source: str) -> EncoderSize:
    """Width, depth, heads and global blocks, read off the shapes of the weights."""
    positions = {key: value for key, value in state.items() if _POSITIONS.fullmatch(key)}
    if "encoder.pos_embed" not in state or not positions:
        raise CheckpointError(f"{source} lacks its encoder (encoder.pos_embed, {_POSITIONS.pattern})")
    width = state["encoder.pos_embed"].shape[-1]
    first = next(iter(positions.values()))
    blocks = {int(key.split(".")[2]): value.shape[0] for key, value in positions.items()}
    return EncoderSize(
        width=width,
        depth=max(blocks) + 1,
        heads=width // first.shape[1],
        global_blocks=tuple(sorted(index for index, length in blocks.items() if length == _GLOBAL_POSITIONS)),
    )


def save_cpsam(network: CPSAM, path: Path) -> None:
    """Writes weights that stock Cellpose 4 opens by path."""
    with whole_file(path, alone=True) as place:
        torch.save({key: value.detach().cpu().float() for key, value in network.state_dict().items()}, place)
