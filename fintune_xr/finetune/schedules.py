"""How the learning rate goes over a training, and which parameters it is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def warmup_cosine(n_steps: int, *, n_warmup: int, final: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise over `n_warmup`, then a cosine down to `final`.

    The first step learns already: the rise starts at 1 / n_warmup.
    """

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def parameter_groups(network: torch.nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for an optimiser; scales and shifts of norm layers do not decay."""
    trained = [value for value in network.parameters() if value.requires_grad]
    return [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
