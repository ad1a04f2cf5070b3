"""What flow models are trained to make small."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from fintune_xr.models.flows.field import FLOW_SCALE


class FlowLoss(NamedTuple):
    """Cellpose's loss and its two parts; `unexplained` is 1 for a network that predicts no flow at all."""

    total: torch.Tensor
    flow: torch.Tensor
    cell: torch.Tensor
    unexplained: torch.Tensor


def flow_loss(maps: torch.Tensor, target: torch.Tensor) -> FlowLoss:
    """Half the mean squared flow error plus the cross entropy of cell against background.

    `maps` (n, 3, y, x): flow y, flow x, cell logit; `target` (n, 3, y, x): unit flow y, unit flow x, cell.

    Reference: Stringer et al. 2021, Nat. Methods 18:100.
    """
    flows = FLOW_SCALE * target[:, :2]
    flow = mse_loss(maps[:, :2], flows) / 2
    cell = binary_cross_entropy_with_logits(maps[:, 2], (target[:, 2] > 0.5).to(maps.dtype))
    whole = flows.square().mean() / 2
    return FlowLoss(flow + cell, flow, cell, flow.detach() / whole.clamp_min(1e-6))
