"""What a network says of the classes of pixels, and how classes compete for them."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch.nn.functional import interpolate

Competition = Literal["softmax", "sigmoid"]
SOFTMAX: Final = "softmax"
SIGMOID: Final = "sigmoid"


class ClassLogits(NamedTuple):
    """`logits` (n, class, y, x), on whatever grid the network ends with; "none of the classes" is a logit of 0.

    Networks with SAM's decoder also predict `iou` (n, class) of the mask of each class with the truth, and whether the
    class is there at all: `presence` (n, class), a logit.
    """

    logits: torch.Tensor
    iou: torch.Tensor | None = None
    presence: torch.Tensor | None = None


def at_size(logits: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`logits` (n, class, y, x) brought to `shape` (y, x), bilinear, in float32."""
    logits = logits.float()
    return logits if logits.shape[-2:] == shape else interpolate(logits, shape, mode="bilinear", align_corners=False)


def with_none(logits: torch.Tensor, *, dim: int) -> torch.Tensor:
    """`logits` with the fixed 0 of "none of the classes" in front of the first class along `dim`."""
    return torch.cat([torch.zeros_like(logits.narrow(dim, 0, 1)), logits], dim)


def winners(logits: torch.Tensor, *, dim: int) -> torch.Tensor:
    """0 where no logit along `dim` is above 0, else the number 1, 2, ... of the class with the highest.

    The same for both ways of competing: a probability of one half against none is a logit of 0.
    """
    return with_none(logits, dim=dim).argmax(dim)


def probabilities(logits: torch.Tensor, competition: Competition) -> torch.Tensor:
    """Probability maps (n, none and class, y, x) whose highest entry is the winner.

    With `softmax` they sum to 1. With `sigmoid` each class is asked for by itself, and none stands at one half, so
    that it wins where no class is more likely there than not.
    """
    against = with_none(logits, dim=1)
    return against.softmax(1) if competition == SOFTMAX else against.sigmoid()
