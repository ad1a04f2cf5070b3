"""Published SAM 2 weights under the names that transformers gives to the parts of the image network."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, Final

import torch

from fintune_xr.errors import CheckpointError
from fintune_xr.models.sam2.settings import BACKBONE, SAM2_SIZES, STATE_ENTRY, TRUNK, Sam2Architecture

# Parts that remember earlier frames of a video.
_OF_VIDEOS: Final = (
    "memory_", "obj_ptr", "mask_downsample", "maskmem", "no_obj", "no_mem_pos",
    # And as transformers calls them.
    "object_pointer", "temporal_positional", "no_memory_pos", "occlusion_",
)  # fmt: skip
_POINTS: Final = re.compile(r"sam_prompt_encoder\.point_embeddings\.(\d+)\.weight")
_POSITIONS: Final = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_GRID_POSITIONS: Final = "shared_image_embedding.positional_embedding"
_PROMPT_POSITIONS: Final = "prompt_encoder.shared_embedding.positional_embedding"
_HEADS: Final = r"(output_hypernetworks_mlps\.\d+|iou_prediction_head|pred_obj_score_head)"

# In this order; each pattern is searched for in the name that the ones before it have made.
_RENAMED: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^no_mem_embed$", "no_memory_embedding"),
        (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
        (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
        (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
        (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
        (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
        (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
        (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
        (r"^sam_prompt_encoder\.", "prompt_encoder."),
        (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
        (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
        (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
        (r"^sam_mask_decoder\.", "mask_decoder."),
        (_HEADS + r"\.layers\.0\.", r"\1.proj_in."),
        (_HEADS + r"\.layers\.1\.", r"\1.layers.0."),
        (_HEADS + r"\.layers\.2\.", r"\1.proj_out."),
        (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
        (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
        (r"\.out_proj\.", ".o_proj."),
        (r"\.norm(\d)\.", r".layer_norm\1."),
        (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    )
)


def published_state(entries: Mapping[str, Any], *, source: str) -> dict[str, torch.Tensor]:
    """The network in a published file: under SAM 2's own names, or under those of transformers.

    Raises CheckpointError for a file of anything else, SAM 1 among it.
    """
    state = entries.get(STATE_ENTRY)
    # A file of safetensors holds nothing but tensors, so the network lies there without an entry around it.
    for one in (state, entries):
        if isinstance(one, Mapping) and any(key.startswith((TRUNK, BACKBONE)) for key in one):
            return dict(one)
    is_first = any("image_encoder.blocks." in key for key in (*entries, *(state or ())))
    found = "the first SAM, which is another network" if is_first else f"entries {', '.join(sorted(entries)[:5])}"
    raise CheckpointError(
        f"{source} is not SAM 2 as published: expected its network, with names that begin with {TRUNK} under the "
        f"entry {STATE_ENTRY!r}, or with {BACKBONE}; found {found}."
    )


def transformers_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` of a published file under transformers' names, without the parts that are for videos."""
    kept = {key: value for key, value in state.items() if not key.startswith(_OF_VIDEOS)}
    if not any(key.startswith(TRUNK) for key in kept):
        # The video network's files hold one of the two, which are the same.
        both = {_GRID_POSITIONS: _PROMPT_POSITIONS, _PROMPT_POSITIONS: _GRID_POSITIONS}
        return {**{key: kept[other] for key, other in both.items() if other in kept}, **kept}
    points = {int(m[1]): kept.pop(key) for key in list(kept) if (m := _POINTS.fullmatch(key))}
    positions = kept.pop(_POSITIONS, None)
    renamed = {_renamed(key): value for key, value in kept.items()}
    if points:
        renamed["prompt_encoder.point_embed.weight"] = torch.cat([points[index] for index in sorted(points)])
    if positions is not None:
        # Prompts and the grid of the image share their positions.
        renamed[_PROMPT_POSITIONS] = renamed[_GRID_POSITIONS] = positions
    return renamed


def published_size(state: Mapping[str, torch.Tensor], *, source: str) -> Sam2Architecture:
    """Which of the published networks `state` is of, by its width and depths.

    Raises CheckpointError for any other: what its blocks attend to cannot be read off their shapes.
    """
    width, depths = _width_and_depths(state, source)
    for architecture in SAM2_SIZES.values():
        if (architecture.width, architecture.depths) == (width, depths):
            return architecture
    known = ", ".join(f"{name}: {one.width} wide, {_dashed(one.depths)}" for name, one in SAM2_SIZES.items())
    raise CheckpointError(
        f"{source} is SAM 2 of an unknown size, {width} wide with {_dashed(depths)} blocks; known: {known}. "
        "Its windows and global blocks leave no trace in the weights, so it cannot be built from them."
    )


def _width_and_depths(state: Mapping[str, torch.Tensor], source: str) -> tuple[int, tuple[int, ...]]:
    trunk = TRUNK if any(key.startswith(TRUNK) for key in state) else BACKBONE
    blocks = {int(m[1]) for key in state if (m := re.match(re.escape(trunk) + r"blocks\.(\d+)\.", key))}
    position = state.get(f"{trunk}pos_embed")
    if position is None or blocks != set(range(len(blocks))):
        raise CheckpointError(f"{source}: {trunk}pos_embed or some of its blocks are missing. Is the file complete?")
    # The first block of a stage projects its input to twice as many features.
    starts = [index for index in sorted(blocks) if f"{trunk}blocks.{index}.proj.weight" in state]
    edges = [0, *starts, len(blocks)]
    return int(position.shape[1]), tuple(last - first for first, last in itertools.pairwise(edges))


def _renamed(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def _dashed(depths: tuple[int, ...]) -> str:
    return "-".join(str(depth) for depth in depths)
