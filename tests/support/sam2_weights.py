"""Names and shapes of the entries of published SAM 2 weights, written down by hand, and files of them made at random.

The list is of version 2.1: https://github.com/facebookresearch/sam2, `sam2/modeling`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch

from fintune_xr.models.sam2.settings import Sam2Architecture

Shape = tuple[int, ...]

# Small enough for tests: under a million parameters with the decoder.
SMALL = Sam2Architecture(
    width=16, depths=(1, 1, 2, 1), global_blocks=(3,), windows=(8, 4, 8, 4), background=7, image_px=128, features=64,
    decoder_width=128, decoder_heads=4,
)  # fmt: skip


def linear(name: str, n_in: int, n_out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_out, n_in)
    yield f"{name}.bias", (n_out,)


def norm(name: str, n: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n,)
    yield f"{name}.bias", (n,)


def conv(name: str, n_in: int, n_out: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_out, n_in, kernel, kernel)
    yield f"{name}.bias", (n_out,)


def transposed(name: str, n_in: int, n_out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (n_in, n_out, 2, 2)
    yield f"{name}.bias", (n_out,)


def attention(name: str, features: int, rate: int) -> Iterator[tuple[str, Shape]]:
    for part in "qkv":
        yield from linear(f"{name}.{part}_proj", features, features // rate)
    yield from linear(f"{name}.out_proj", features // rate, features)


def mlp(name: str, sizes: tuple[int, ...]) -> Iterator[tuple[str, Shape]]:
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        yield from linear(f"{name}.layers.{layer}", n_in, n_out)


def trunk(one: Sam2Architecture) -> Iterator[tuple[str, Shape]]:
    at = "image_encoder.trunk"
    yield f"{at}.pos_embed", (1, one.width, one.background, one.background)
    yield f"{at}.pos_embed_window", (1, one.width, one.windows[0], one.windows[0])
    yield from conv(f"{at}.patch_embed.proj", 3, one.width, 7)
    block = 0
    for stage, depth in enumerate(one.depths):
        for inside in range(depth):
            wide = one.width << stage
            before = wide // 2 if stage and not inside else wide
            here = f"{at}.blocks.{block}"
            yield from norm(f"{here}.norm1", before)
            yield from linear(f"{here}.attn.qkv", before, 3 * wide)
            yield from linear(f"{here}.attn.proj", wide, wide)
            yield from norm(f"{here}.norm2", wide)
            yield from mlp(f"{here}.mlp", (wide, 4 * wide, wide))
            if before != wide:
                yield from linear(f"{here}.proj", before, wide)
            block += 1


def prompts(n: int) -> Iterator[tuple[str, Shape]]:
    at = "sam_prompt_encoder"
    yield f"{at}.pe_layer.positional_encoding_gaussian_matrix", (2, n // 2)
    for point in range(4):
        yield f"{at}.point_embeddings.{point}.weight", (1, n)
    yield f"{at}.not_a_point_embed.weight", (1, n)
    yield f"{at}.no_mask_embed.weight", (1, n)
    yield from conv(f"{at}.mask_downscaling.0", 1, 4, 2)
    yield from norm(f"{at}.mask_downscaling.1", 4)
    yield from conv(f"{at}.mask_downscaling.3", 4, 16, 2)
    yield from norm(f"{at}.mask_downscaling.4", 16)
    yield from conv(f"{at}.mask_downscaling.6", 16, n, 1)


def decoder(n: int, wide: int) -> Iterator[tuple[str, Shape]]:
    at = "sam_mask_decoder"
    for layer in range(2):
        here = f"{at}.transformer.layers.{layer}"
        yield from attention(f"{here}.self_attn", n, 1)
        yield from norm(f"{here}.norm1", n)
        yield from attention(f"{here}.cross_attn_token_to_image", n, 2)
        yield from norm(f"{here}.norm2", n)
        yield from mlp(f"{here}.mlp", (n, wide, n))
        yield from norm(f"{here}.norm3", n)
        yield from norm(f"{here}.norm4", n)
        yield from attention(f"{here}.cross_attn_image_to_token", n, 2)
    yield from attention(f"{at}.transformer.final_attn_token_to_image", n, 2)
    yield from norm(f"{at}.transformer.norm_final_attn", n)
    for token, count in (("iou_token", 1), ("mask_tokens", 4), ("obj_score_token", 1)):
        yield f"{at}.{token}.weight", (count, n)
    yield from transposed(f"{at}.output_upscaling.0", n, n // 4)
    yield from norm(f"{at}.output_upscaling.1", n // 4)
    yield from transposed(f"{at}.output_upscaling.3", n // 4, n // 8)
    yield from conv(f"{at}.conv_s0", n, n // 8, 1)
    yield from conv(f"{at}.conv_s1", n, n // 4, 1)
    for mask in range(4):
        yield from mlp(f"{at}.output_hypernetworks_mlps.{mask}", (n, n, n, n // 8))
    yield from mlp(f"{at}.iou_prediction_head", (n, n, n, 4))
    yield from mlp(f"{at}.pred_obj_score_head", (n, n, n, 1))


def of_videos(n: int) -> Iterator[tuple[str, Shape]]:
    """Some of the entries that only videos need, of each prefix one."""
    yield "maskmem_tpos_enc", (7, 1, 1, 64)
    yield "no_mem_pos_enc", (1, 1, n)
    yield "no_obj_ptr", (1, n)
    yield "no_obj_embed_spatial", (1, 64)
    yield from conv("mask_downsample", 1, 1, 4)
    yield from linear("memory_attention.layers.0.linear1", n, 2048)
    yield from norm("memory_attention.norm", n)
    yield from conv("memory_encoder.pix_feat_proj", n, n, 1)
    yield from mlp("obj_ptr_proj", (n, n, n, n))
    yield from linear("obj_ptr_tpos_proj", n, 64)


def published_shapes(one: Sam2Architecture) -> dict[str, Shape]:
    """Every entry of the image network and some of those for videos."""
    n = one.features
    neck = (
        pair
        for level in range(4)
        for pair in conv(f"image_encoder.neck.convs.{level}.conv", one.width << (3 - level), n, 1)
    )
    return {
        **dict(trunk(one)), **dict(neck), **dict(prompts(n)), **dict(decoder(n, one.decoder_width)),
        "no_mem_embed": (1, 1, n), **dict(of_videos(n)),
    }  # fmt: skip


def random_state(one: Sam2Architecture, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random values under the published names, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in published_shapes(one).items()}


def write_published(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A file as SAM 2 is published."""
    torch.save({"model": state}, path)
    return path
