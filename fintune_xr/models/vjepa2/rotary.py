"""Meta's V-JEPA 2 encoder with rotary positions, as transformers builds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fintune_xr.errors import CheckpointError, MissingPackageError
from fintune_xr.models.vjepa2.settings import VolumeArchitecture


def rotary_encoder(size: VolumeArchitecture, *, epsilon: float, crop_px: int) -> nn.Module:
    """The encoder of `VJEPA2Model`, without predictor and without values, for frames of `crop_px` x `crop_px`.

    Raises MissingPackageError without transformers, CheckpointError for patches that are not square.
    """
    try:
        from transformers import VJEPA2Config
        from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder
    except ImportError as error:
        raise MissingPackageError(
            "encoders of V-JEPA 2 need transformers: install the extra 'oct' (pip install 'fintune-xr[oct]')"
        ) from error
    tubelet, height, width = size.patch
    if height != width:
        raise CheckpointError(f"patches of {height} x {width} px: V-JEPA 2 has square ones")
    config: Any = VJEPA2Config(
        patch_size=height,
        tubelet_size=tubelet,
        crop_size=crop_px,
        in_chans=size.channels,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        # The library takes the whole part of the product, which a quotient could miss by one.
        mlp_ratio=(size.mlp_width + 0.5) / size.width,
        layer_norm_eps=epsilon,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        encoder: nn.Module = VJEPA2Encoder(config)
    return encoder
