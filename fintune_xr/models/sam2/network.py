"""SAM 2 by transformers: its parts called one by one, on a grid of any size.

`Sam2Model.forward` fixes the grid by its configuration and `get_image_embeddings` keeps no gradients, so the vision
encoder, the decoder's projections and the decoder are called here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.checkpoints import load_strictly
from fintune_xr.models.sam2.keys import published_size, transformers_state
from fintune_xr.models.sam2.settings import STRIDE_PX, Sam2Architecture

# Labels of prompts: a place of the object, a place of something else, and none at all.
INSIDE, OUTSIDE, NO_POINT = 1, 0, -1


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """What SAM 2 sees in images: features (n, feature, y, x) at a stride of 4, 8 and 16 px."""

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What the decoder makes of prompts: `masks` (n, object, mask, y, x) logits at a stride of 4 px.

    `iou` (n, object, mask) is what it expects of each mask, `presence` (n, object) a logit of there being an object.
    """

    masks: torch.Tensor
    iou: torch.Tensor
    presence: torch.Tensor


def empty_sam2(architecture: Sam2Architecture) -> Sam2Model:
    """SAM 2's image network with random weights, as small as `architecture` says."""
    network = Sam2Model(_config(architecture))
    # Otherwise evaluation silently swaps a mask that is unstable for another one.
    network.mask_decoder.dynamic_multimask_via_stability = False
    return network.eval()


def published_sam2(state: Mapping[str, torch.Tensor], *, source: str) -> Sam2Model:
    """The network of a published file, whose `state` says which size it is.

    Raises CheckpointError for another size, or an entry that is missing, unknown or of another shape.
    """
    network = empty_sam2(published_size(state, source=source))
    load_strictly(network, transformers_state(state), source=source)
    return network


def pyramid(network: Sam2Model, images: torch.Tensor) -> Pyramid:
    """Features of `images` (n, colour, y, x), standardised colours; with gradients where parameters want them.

    Raises FintuneValueError for edges that are no multiples of `STRIDE_PX`.
    """
    if any(length % STRIDE_PX for length in images.shape[-2:]):
        raise FintuneValueError(
            f"images for SAM 2: expected edges in multiples of {STRIDE_PX} px, got {tuple(images.shape[-2:])}"
        )
    fine, middle, coarse = network.vision_encoder(images, return_dict=True).fpn_hidden_states
    return Pyramid(fine, middle, coarse)


def decode(network: Sam2Model, seen: Pyramid, prompts: torch.Tensor, *, multimask: bool) -> Decoded:
    """Masks for `prompts` (n, object, token, feature): one for each object, or three for a prompt that is ambiguous."""
    decoder = network.mask_decoder
    grid = seen.coarse.shape[-2:]
    masks, iou, _, presence = decoder(
        # What the video network adds to an image that has no past.
        image_embeddings=seen.coarse + network.no_memory_embedding.reshape(1, -1, 1, 1),
        image_positional_embeddings=grid_positions(network, (grid[0], grid[1])).expand(len(prompts), -1, -1, -1),
        sparse_prompt_embeddings=prompts,
        dense_prompt_embeddings=network.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1),
        multimask_output=multimask,
        high_resolution_features=[decoder.conv_s0(seen.fine), decoder.conv_s1(seen.middle)],
    )
    return Decoded(masks, iou, presence.flatten(1))


def grid_positions(network: Sam2Model, grid: tuple[int, int]) -> torch.Tensor:
    """Positions (1, feature, y, x) of a grid over the whole image, whatever its size."""
    embedding = network.shared_image_embedding
    weight = embedding.positional_embedding
    y, x = ((torch.arange(length, device=weight.device, dtype=weight.dtype) + 0.5) / length for length in grid)
    places = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    # Half precision would round places to some hundredths of a turn.
    with torch.autocast(weight.device.type, enabled=False):
        found: torch.Tensor = embedding(places).permute(2, 0, 1)[None]
    return found


def point_tokens(
    network: Sam2Model, points: torch.Tensor, labels: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """Tokens (n, object, point + 1, feature) of `points` (n, object, point, 2), x and y in px of images of `shape`.

    `labels` (n, object, point) are `INSIDE`, `OUTSIDE` or `NO_POINT`.
    """
    scaled = _as_learnt(network, points, shape)
    found: torch.Tensor = network.prompt_encoder._embed_points(scaled, labels, pad=True)
    return found


def box_tokens(
    network: Sam2Model,
    boxes: torch.Tensor,
    shape: tuple[int, int],
    *,
    points: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Tokens of `boxes` (n, object, 4), left, top, right, bottom in px of images of `shape`, and of further points."""
    encoder = network.prompt_encoder
    corners = _as_learnt(network, boxes.reshape(*boxes.shape[:2], 2, 2), shape).flatten(-2)
    tokens: torch.Tensor = encoder._embed_boxes(corners)
    if points is None or labels is None:
        return tokens
    further = encoder._embed_points(_as_learnt(network, points, shape), labels, pad=False)
    return torch.cat([further, tokens], dim=2)


def stage_of_block(network: Sam2Model, block: int) -> int:
    """The stage, counted from 1, that a block of the encoder belongs to."""
    ends = network.vision_encoder.backbone.stage_ends
    return 1 + next(stage for stage, end in enumerate(ends) if block <= end)


def encoder_stem(network: Sam2Model) -> tuple[nn.Parameter, ...]:
    """What comes before the blocks of the encoder."""
    backbone = network.vision_encoder.backbone
    return (*backbone.patch_embed.parameters(), backbone.pos_embed, backbone.pos_embed_window)


def _as_learnt(network: Sam2Model, places: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`places` (..., 2), x and y in px of images of `shape`, in px of the images that the network learnt on."""
    edge = network.prompt_encoder.input_image_size
    scale = places.new_tensor([edge / shape[1], edge / shape[0]])
    return places * scale


def _config(architecture: Sam2Architecture) -> Sam2Config:
    chosen = architecture
    widths = [chosen.width << stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=chosen.width,
        num_attention_heads=chosen.heads,
        image_size=[chosen.image_px] * 2,
        window_positional_embedding_background_size=[chosen.background] * 2,
        blocks_per_stage=list(chosen.depths),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[chosen.heads << stage for stage in range(4)],
        window_size_per_stage=list(chosen.windows),
        global_attention_blocks=list(chosen.global_blocks),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[chosen.image_px // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=chosen.features,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=chosen.features, image_size=chosen.image_px)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=chosen.features, mlp_dim=chosen.decoder_width, num_attention_heads=chosen.decoder_heads,
        iou_head_hidden_dim=chosen.features,
    )  # fmt: skip
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
