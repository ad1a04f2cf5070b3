"""Names and sizes: from the entries of a weights file to the network that they are for.

Meta's names, which are also those of networks with learned positions, are ours. Those of transformers differ by the
table below, and keep query, key and value apart where Meta has them in three thirds of one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from fintune_xr.errors import CheckpointError
from fintune_xr.models.vjepa2.settings import VJEPA2, VolumeArchitecture

if TYPE_CHECKING:
    import torch

KERNEL: Final = "patch_embed.proj.weight"
BIAS: Final = "patch_embed.proj.bias"
POSITIONS: Final = "pos_embed"
HEAD_WIDTH: Final = 64
# Meta's ViT-H is the one published size whose heads are not 64 wide.
_HEADS_OF_META: Final = {(1280, 32): 16}

_FROM_TRANSFORMERS: Final = (
    (re.compile(r"^embeddings\.patch_embeddings\.proj\."), "patch_embed.proj."),
    (re.compile(r"^layer\.(\d+)\.attention\.proj\."), r"blocks.\1.attn.proj."),
    (re.compile(r"^layer\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"^layernorm\."), "norm."),
)
_TO_TRANSFORMERS: Final = (
    (re.compile(r"^patch_embed\.proj\."), "embeddings.patch_embeddings.proj."),
    (re.compile(r"^blocks\.(\d+)\.attn\.proj\."), r"layer.\1.attention.proj."),
    (re.compile(r"^blocks\.(\d+)\."), r"layer.\1."),
    (re.compile(r"^norm\."), "layernorm."),
)
_FUSED: Final = re.compile(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")
_PART: Final = re.compile(r"^layer\.(\d+)\.attention\.(query|key|value)\.(weight|bias)$")
_THIRDS: Final = ("query", "key", "value")


def with_our_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` under Meta's names; of a file with the names of transformers, query, key and value are put together.

    Entries that neither knows keep their names, so that loading names them. A block of which one of the three is
    missing keeps the other two as they are.
    """
    import torch

    ours: dict[str, torch.Tensor] = {}
    parts: dict[tuple[str, str], dict[str, tuple[str, torch.Tensor]]] = {}
    for key, value in state.items():
        if part := _PART.match(key):
            parts.setdefault((part[1], part[3]), {})[part[2]] = (key, value)
        else:
            ours[_renamed(key, _FROM_TRANSFORMERS)] = value
    for (block, what), thirds in parts.items():
        if set(thirds) == set(_THIRDS):
            ours[f"blocks.{block}.attn.qkv.{what}"] = torch.cat([thirds[name][1] for name in _THIRDS])
        else:
            ours.update(dict(thirds.values()))
    return ours


def with_names_of_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` under Meta's names as `VJEPA2Model.encoder` calls its entries."""
    theirs = {}
    for key, value in state.items():
        if fused := _FUSED.match(key):
            if len(value) % len(_THIRDS):
                raise CheckpointError(f"{key}: expected thirds of query, key and value, got {len(value)} rows")
            for name, third in zip(_THIRDS, value.chunk(len(_THIRDS)), strict=True):
                theirs[f"layer.{fused[1]}.attention.{name}.{fused[2]}"] = third
        else:
            theirs[_renamed(key, _TO_TRANSFORMERS)] = value
    return theirs


def architecture_of(state: Mapping[str, torch.Tensor], *, heads: int | None, source: str) -> VolumeArchitecture:
    """Sizes of the network that `state`, under our names, is for, from the shapes of its entries.

    Networks that store positions are `vit3d`, others `vjepa2`. Heads are 64 wide, which no entry tells, unless
    `heads` or a size that Meta published says otherwise.

    Raises CheckpointError where the entries that tell the sizes are missing or of a strange shape.
    """
    kernel = _entry(state, KERNEL, 5, source)
    n_blocks = 1 + max((int(key.split(".")[1]) for key in state if re.match(r"^blocks\.\d+\.", key)), default=-1)
    if n_blocks == 0:
        raise CheckpointError(f"{source}: expected transformer blocks (blocks.0.…), found none")
    width, channels, *patch = kernel.shape
    positions = _entry(state, POSITIONS, 3, source).shape[1] if POSITIONS in state else 0
    kind: Literal["vit3d", "vjepa2"] = "vit3d" if positions else "vjepa2"
    told = heads or (_HEADS_OF_META.get((width, n_blocks)) if kind == VJEPA2 else None)
    return VolumeArchitecture(
        kind=kind,
        width=width,
        depth=n_blocks,
        heads=told or _heads(width, source),
        mlp_width=_entry(state, "blocks.0.mlp.fc1.weight", 2, source).shape[0],
        patch=(patch[0], patch[1], patch[2]),
        channels=channels,
        positions=positions,
    )


def fold_channels(
    kernel: torch.Tensor, bias: torch.Tensor, *, mean: Iterable[float] | None, sd: Iterable[float] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel (width, 1, d, h, w) and bias that do to one channel what the given ones do to equal channels.

    With `mean` and `sd` of each channel they also do (x - mean) / sd first: K' = sum_c K_c / sd_c and
    b' = b - sum_c mean_c / sd_c sum K_c.
    """
    if mean is None or sd is None:
        return kernel.sum(1, keepdim=True), bias
    means = kernel.new_tensor(list(mean)).double().view(1, -1, 1, 1, 1)
    scaled = kernel.double() / kernel.new_tensor(list(sd)).double().view(1, -1, 1, 1, 1)
    shift = (scaled * means).sum((1, 2, 3, 4))
    return scaled.sum(1, keepdim=True).to(kernel.dtype), (bias.double() - shift).to(bias.dtype)


def _renamed(key: str, table: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, name in table:
        renamed, n_changes = pattern.subn(name, key)
        if n_changes:
            return renamed
    return key


def _entry(state: Mapping[str, Any], key: str, n_dims: int, source: str) -> torch.Tensor:
    value: torch.Tensor | None = state.get(key)
    if value is None:
        raise CheckpointError(f"{source}: missing: {key}, which tells the size of the encoder")
    if value.ndim != n_dims:
        raise CheckpointError(f"{source}: shape of {key}: expected {n_dims} dims, got {tuple(value.shape)}")
    return value


def _heads(width: int, source: str) -> int:
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"{source}: an encoder {width} wide cannot have heads of {HEAD_WIDTH}, and no entry tells how many there "
            "are. Give heads=N."
        )
    return width // HEAD_WIDTH
