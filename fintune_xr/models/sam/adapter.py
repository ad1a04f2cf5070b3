"""SAM and micro-SAM: segment_anything's own network, sized by the weights that are loaded into it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from fintune_xr.errors import CheckpointError
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.protocol import Maps, Mask, Plane
from fintune_xr.models.sam.colours import composite, sam_channels
from fintune_xr.models.sam.keys import sam_state
from fintune_xr.models.sam.masks import candidate_masks, paint, select
from fintune_xr.models.sam.prompts import SamPrompts
from fintune_xr.models.sam.settings import SamSettings

_WINDOW = 14
_POSITIONS = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h")
_NEEDED = ("pos_embed", "patch_embed.proj.weight", "neck.0.weight", "blocks.0.mlp.lin1.weight")


@dataclass(frozen=True, slots=True)
class SamSize:
    """What sets the size of SAM's image encoder; the decoder is the same for all of them."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    image_px: int = 1024
    patch_px: int = 16
    window: int = _WINDOW
    mlp_ratio: float = 4.0
    embedding: int = 256


class SamSegmenter:
    """Everything that SAM finds in a tile by itself, as instances."""

    def __init__(self, network: Sam, settings: SamSettings, choice: ChannelChoice) -> None:
        self.network = network
        self.settings = settings
        self.choice = choice

    def normalise(self, tile: Plane) -> Maps:
        """Colours (3, y, x) from 0 to 255 of the chosen planes."""
        return np.moveaxis(composite(tile, self.choice, self.settings), -1, 0).astype(np.float32)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Labels (1, y, x) of each image: there is nothing left to reconstruct once masks have been chosen."""
        return [self._labels(image)[None].astype(np.float32) for image in batch]

    def reconstruct(self, maps: Maps) -> Mask:
        """The instance mask itself."""
        labels: Mask = maps[0].astype(np.uint32)
        return labels

    def _labels(self, image: Maps) -> Mask:
        chosen = self.settings
        network = SamPrompts(self.network)
        embedded = network.embed(np.moveaxis(image, 0, -1).astype(np.uint8))
        candidates = candidate_masks(
            network, embedded, points_per_side=chosen.points_per_side, loosest=_loosest(chosen), options=chosen
        )
        kept = select(candidates, _loosest(chosen), box_nms_thresh=chosen.box_nms_thresh)
        return paint(candidates, kept, chosen)


def load_sam_segmenter(
    checkpoint: Checkpoint, settings: SamSettings, *, channels: Sequence[str], device: str
) -> SamSegmenter:
    """SAM with the weights of `checkpoint` on `device`, for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a plane that the store lacks.
    """
    return SamSegmenter(load_sam(checkpoint, device=device), settings, sam_channels(channels, settings))


def load_sam(checkpoint: Checkpoint, *, device: str) -> Sam:
    """SAM's network with the weights of `checkpoint`, ready to predict on `device`.

    Raises CheckpointError naming entries that are missing, unknown or of another shape.
    """
    network = build_sam(sam_state(read_state(checkpoint)), source=checkpoint.path)
    return network.to(device).eval()


def build_sam(state: Mapping[str, torch.Tensor], *, source: str) -> Sam:
    """SAM's network filled with `state`; its width, depth and image size are those of the weights.

    Raises CheckpointError if `source` is of another architecture, lacks an entry or holds one too many.
    """
    size = sam_size(state, source=source)
    network = empty_sam(size)
    load_strictly(network, state, source=source)
    return network


def empty_sam(size: SamSize) -> Sam:
    """SAM's network with random weights, as small as `size` says."""
    grid = size.image_px // size.patch_px
    encoder = ImageEncoderViT(
        img_size=size.image_px, patch_size=size.patch_px, depth=size.depth, embed_dim=size.width,
        num_heads=size.heads, mlp_ratio=size.mlp_ratio, norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True,
        use_rel_pos=True, global_attn_indexes=size.global_blocks, window_size=size.window, out_chans=size.embedding,
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=size.embedding, image_embedding_size=(grid, grid),
        input_image_size=(size.image_px, size.image_px), mask_in_chans=16,
    )  # fmt: skip
    transformer = TwoWayTransformer(depth=2, embedding_dim=size.embedding, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=size.embedding,
        iou_head_depth=3, iou_head_hidden_dim=256,
    )  # fmt: skip
    return Sam(encoder, prompts, decoder).eval()


def sam_size(state: Mapping[str, torch.Tensor], *, source: str) -> SamSize:
    """Size of the image encoder, read off the shapes of its weights.

    Raises CheckpointError where these are not the weights of SAM's vision transformer.
    """
    positions = {int(m[1]): state[key].shape for key in state if (m := _POSITIONS.fullmatch(key))}
    absent = [f"image_encoder.{name}" for name in _NEEDED if f"image_encoder.{name}" not in state]
    if absent or not positions:
        raise CheckpointError(
            f"{source} is not SAM with a vision transformer (ViT-B, L or H); missing: "
            f"{', '.join(absent) or _POSITIONS.pattern}. Weights with a small encoder (vit_t, MobileSAM) or of SAM 2 "
            "cannot be used here."
        )
    _, grid, _, width = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    spans = {block: (shape[0] + 1) // 2 for block, shape in positions.items()}
    return SamSize(
        width=width,
        depth=max(spans) + 1,
        heads=width // positions[min(positions)][1],
        global_blocks=tuple(sorted(block for block, span in spans.items() if span == grid)),
        image_px=grid * patch,
        patch_px=patch,
        window=_window(spans, grid, source),
        mlp_ratio=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        embedding=state["image_encoder.neck.0.weight"].shape[0],
    )


def _loosest(settings: SamSettings) -> tuple[float, float]:
    return settings.pred_iou_thresh, settings.stability_score_thresh


def _window(spans: Mapping[int, int], grid: int, source: str) -> int:
    """Side of the windows that the other blocks attend in."""
    sides = sorted({span for span in spans.values() if span != grid})
    if len(sides) > 1:
        raise CheckpointError(
            f"{source}: blocks of the image encoder attend in windows of several sizes {sides} on a grid of {grid}. "
            "Expected one size, as in SAM."
        )
    return sides[0] if sides else _WINDOW
