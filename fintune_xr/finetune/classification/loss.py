"""The loss of classes, in which a scan counts as much in any batch."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def weighted_loss(logits: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1 / B) sum_i w_i (-log softmax(z_i)[y_i]) of `logits` (scan, class), `label` and `weight` (scan,).

    Divided by the number of scans and not by the sum of their weights, as torch's weighted mean is: there the weight
    of a class cancels out of every batch that holds no other.
    """
    single = cross_entropy(logits.float(), label, reduction="none")
    return (weight * single).mean()
