"""Weights of encoders of volumes as others write them, and a forward pass that shares no code with ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import erf

WIDTH, DEPTH, HEADS, PATCH, GRID = 24, 2, 3, (2, 4, 8), (8, 16, 16)
N_TOKENS = 4 * 4 * 2


def meta_shapes(
    *, width: int = WIDTH, patch: tuple[int, int, int] = PATCH, channels: int = 1, depth: int = DEPTH
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an encoder as Meta's code writes them."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, channels, *patch),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(depth):
        at = f"blocks.{block}."
        shapes |= {
            f"{at}norm1.weight": (width,),
            f"{at}norm1.bias": (width,),
            f"{at}attn.qkv.weight": (3 * width, width),
            f"{at}attn.qkv.bias": (3 * width,),
            f"{at}attn.proj.weight": (width, width),
            f"{at}attn.proj.bias": (width,),
            f"{at}norm2.weight": (width,),
            f"{at}norm2.bias": (width,),
            f"{at}mlp.fc1.weight": (4 * width, width),
            f"{at}mlp.fc1.bias": (4 * width,),
            f"{at}mlp.fc2.weight": (width, 4 * width),
            f"{at}mlp.fc2.bias": (width,),
        }
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of these shapes."""
    rng = np.random.default_rng(seed)
    return {
        key: torch.from_numpy((rng.normal(size=shape) * 0.3 + ("norm" in key and "weight" in key)).astype(np.float32))
        for key, shape in shapes.items()
    }


def meta_state(seed: int = 0, **sizes: Any) -> dict[str, torch.Tensor]:
    """An encoder with rotary positions under Meta's names."""
    return drawn(meta_shapes(**sizes), seed)


def learned_state(seed: int = 0, *, width: int = WIDTH) -> dict[str, torch.Tensor]:
    """The same with a learned position for each token of `GRID`."""
    return drawn({"pos_embed": (1, N_TOKENS, width), **meta_shapes(width=width)}, seed)


def reference_embedding(state: dict[str, torch.Tensor], volume: np.ndarray, *, heads: int = HEADS) -> np.ndarray:
    """Mean token of `volume` (z, y, x) by plain numpy in float64, for an encoder with learned positions."""
    w = {key: value.numpy().astype(np.float64) for key, value in state.items()}
    width, _, *patch = w["patch_embed.proj.weight"].shape
    kernel = w["patch_embed.proj.weight"].reshape(width, -1)
    tokens = []
    for z in range(0, volume.shape[0], patch[0]):
        for y in range(0, volume.shape[1], patch[1]):
            for x in range(0, volume.shape[2], patch[2]):
                seen = volume[z : z + patch[0], y : y + patch[1], x : x + patch[2]]
                tokens.append(kernel @ seen.ravel() + w["patch_embed.proj.bias"])
    h = np.stack(tokens) + w["pos_embed"][0]

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        centred = values - values.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(values: np.ndarray, name: str) -> np.ndarray:
        return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    block = 0
    while f"blocks.{block}.norm1.weight" in w:
        at = f"blocks.{block}."
        query, key, value = np.split(linear(norm(h, f"{at}norm1"), f"{at}attn.qkv"), 3, axis=1)
        mixed = []
        for q, k, v in zip(*(np.split(one, heads, axis=1) for one in (query, key, value)), strict=True):
            weight = np.exp(q @ k.T / np.sqrt(q.shape[1]))
            mixed.append(weight / weight.sum(1, keepdims=True) @ v)
        h = h + linear(np.concatenate(mixed, axis=1), f"{at}attn.proj")
        hidden = linear(norm(h, f"{at}norm2"), f"{at}mlp.fc1")
        h = h + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"{at}mlp.fc2")
        block += 1
    return norm(h, "norm").mean(0)
