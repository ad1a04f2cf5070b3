"""What the small U-Nets share: MONAI's DynUNet in channels-last memory, and the form of their weights files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet

from fintune_xr.execution.whole_file import whole_file


def channels_last_unet(n_inputs: int, n_outputs: int, filters: Sequence[int]) -> DynUNet:
    """A 2-D U-Net with as many levels as `filters`, each half the resolution of the one before; batch norm."""
    n_levels = len(filters)
    unet = DynUNet(
        spatial_dims=2,
        in_channels=n_inputs,
        out_channels=n_outputs,
        kernel_size=[3] * n_levels,
        strides=[1] + [2] * (n_levels - 1),
        upsample_kernel_size=[2] * (n_levels - 1),
        filters=list(filters),
        norm_name="batch",
    )
    # Convolutions on CPUs are several times faster so.
    return unet.to(memory_format=torch.channels_last)


def channels_last(patches: torch.Tensor) -> torch.Tensor:
    """`patches` (n, channel, y, x) in the memory order that the network's weights have."""
    return patches.contiguous(memory_format=torch.channels_last)


def stride_px(n_levels: int) -> int:
    """Pixels of the input to a pixel of the lowest of `n_levels` levels: image edges must be multiples of it."""
    return 1 << (n_levels - 1)


def reach_px(n_levels: int) -> int:
    """How far from an output pixel input pixels can still change it, by the convolutions' arithmetic.

    Two 3 x 3 convolutions on each level on the way down, the first of them with stride 2 and so counted at the
    resolution above; two on each level but the lowest on the way up; transposed convolutions of 2 x 2 look at no
    neighbours, but place an output pixel anywhere inside an input pixel of the lowest level.
    """
    down = 2 + sum((1 << level - 1) + (1 << level) for level in range(1, n_levels))
    up = sum(2 << level for level in range(n_levels - 1))
    return down + up + stride_px(n_levels) - 1


def save_own(
    kind: str, network: torch.nn.Module, architecture: Mapping[str, Any], settings: Mapping[str, Any], path: Path,
    **further: Any,
) -> None:  # fmt: skip
    """Writes a checkpoint that holds everything needed to build the network again, and `further` entries.

    It appears whole or not at all.
    """
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    entries = {"kind": kind, "architecture": dict(architecture), "settings": dict(settings), "state": state}
    entries |= further
    with whole_file(path, alone=True) as place:
        torch.save(entries, place)
