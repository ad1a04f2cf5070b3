"""How the learning rates go over a training, and which parameters they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch

# Names of groups of parameters.
ENCODER: Final = "encoder"
REST: Final = "rest"


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


def parameter_groups(
    network: torch.nn.Module,
    encoder: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    encoder_learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """All that can learn, for an optimiser, in four groups; scales and shifts of norm layers do not decay.

    What a training freezes for a while belongs to its group from the beginning.
    """
    inside = {id(value) for value in encoder}
    trained = [value for value in network.parameters() if value.requires_grad]
    return [
        {
            "name": name,
            "lr": rate,
            "params": [value for value in trained if (id(value) in inside, value.ndim > 1) == (is_inside, decays)],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for name, rate, is_inside in ((ENCODER, encoder_learning_rate, True), (REST, learning_rate, False))
        for decays in (True, False)
    ]
