"""Losses of a logit per pixel against labels 1, 0 and -1, where -1 is unknown and must not exist for the network.

Unknown pixels are taken out before anything is computed, so that neither a value nor a gradient can depend on them.
MONAI's losses that take `ignore_index` do not all do that: its FocalLoss is too large by the number of classes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.discs import UNKNOWN

SMOOTH: Final = 1e-5


class DenseLoss(NamedTuple):
    """The loss and its parts before they are weighted."""

    total: torch.Tensor
    focal: torch.Tensor
    dice: torch.Tensor


def combined_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    focal_weight: float = 0.7,
    dice_weight: float = 0.3,
    alpha: float = 0.25,
    gamma: float = 2.0,
    pos_weight: float = 1.0,
) -> DenseLoss:
    """Focal and Dice loss of the known pixels; of the same shape, `target` holds 1, 0 and -1 for unknown.

    Raises FintuneValueError for shapes that differ.
    """
    focal = focal_loss(logits, target, alpha=alpha, gamma=gamma, pos_weight=pos_weight)
    dice = dice_loss(logits, target)
    return DenseLoss(focal_weight * focal + dice_weight * dice, focal, dice)


def focal_loss(
    logits: torch.Tensor, target: torch.Tensor, *, alpha: float = 0.25, gamma: float = 2.0, pos_weight: float = 1.0
) -> torch.Tensor:
    """Mean focal loss of the known pixels; 0 where none is known.

    `alpha` weighs pixels of particles and 1 - alpha the others; `pos_weight` multiplies the loss of particle pixels on
    top of that, as in torch's cross entropy.

    Reference: Lin et al. 2017, Focal loss for dense object detection, ICCV.
    """
    known, truth = _known(logits, target)
    entropy = binary_cross_entropy_with_logits(known, truth, reduction="none")
    # (1 - p_t)^gamma by its logarithm, which has a gradient where p_t is 1 to the last bit.
    easiness = torch.exp(gamma * logsigmoid(-known * (2 * truth - 1)))
    weight = truth * (alpha * pos_weight) + (1 - truth) * (1 - alpha)
    return _mean(weight * easiness * entropy)


def dice_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 minus the Dice coefficient of probability and label over all known pixels of the batch; 0 where none is known.

    Over the batch, because a patch without a particle has no Dice coefficient of its own.

    Reference: Milletari et al. 2016, V-Net, 3DV.
    """
    known, truth = _known(logits, target)
    found = torch.sigmoid(known)
    overlap = 2 * (found * truth).sum() + SMOOTH
    return 1 - overlap / (found.sum() + truth.sum() + SMOOTH)


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, *, pos_weight: float = 1.0) -> torch.Tensor:
    """Mean cross entropy of the known pixels, those of particles counted `pos_weight` times; 0 where none is known."""
    known, truth = _known(logits, target)
    weight = known.new_tensor(pos_weight)
    return _mean(binary_cross_entropy_with_logits(known, truth, reduction="none", pos_weight=weight))


def _known(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels (pixel,) in float32 of the pixels that are known."""
    if logits.shape != target.shape:
        raise FintuneValueError(f"logits and target differ in shape: {tuple(logits.shape)} and {tuple(target.shape)}")
    is_known = target != UNKNOWN
    return logits[is_known].float(), target[is_known].float()


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.sum() / max(1, values.numel())
