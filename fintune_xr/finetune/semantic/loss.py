"""Losses of class maps: focal, Dice, and what SAM's decoder says of its own masks; with weights of the classes.

Labels are 0 for none of the classes, 1, 2, ... in the order of the class map, and -1 for pixels that are unknown.
Those are taken out before anything is computed, so that neither a value nor a gradient can depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.classes.logits import SIGMOID, SOFTMAX, ClassLogits, Competition, at_size, winners, with_none
from fintune_xr.pixels.discs import UNKNOWN

MASK: Final = "mask"
DICE: Final = "dice"
IOU: Final = "iou"
CLASS: Final = "class"

WeightRule = Literal["auto", "sqrt", "none"]

# Added to both sides of the fraction: a class that is nowhere, and found nowhere, has a Dice coefficient of 1.
SMOOTH: Final = 1.0
# SAM 2's weight of pixels that belong to the object; others have 1 minus it.
ALPHA: Final = 0.25


@dataclass(frozen=True)
class LossRule:
    """How parts of the loss are brought together; `class_weights` (class,) have a mean of 1."""

    class_weights: tuple[float, ...]
    parts: Mapping[str, float] = field(default_factory=lambda: {MASK: 5.0, DICE: 2.0, IOU: 1.0, CLASS: 1.0})
    gamma: float = 2.0
    competition: Competition = SOFTMAX


@dataclass(frozen=True, eq=False)
class Known:
    """The pixels that are known: `logits` (pixel, class) float32, `truth` (pixel,) and `image` (pixel,) int64.

    `is_shown` (image,) says of which images any pixel is known.
    """

    logits: torch.Tensor
    truth: torch.Tensor
    image: torch.Tensor
    is_shown: torch.Tensor


def semantic_loss(
    output: ClassLogits, target: torch.Tensor, rule: LossRule
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch and its parts before they are weighted; `target` (n, 1, y, x) holds labels.

    What the network does not predict (`iou`, `class`) has no part in it.

    Raises FintuneValueError for shapes or a number of classes that do not fit.
    """
    known = known_pixels(output.logits, target)
    weights = known.logits.new_tensor(rule.class_weights)
    if weights.shape != known.logits.shape[1:]:
        raise FintuneValueError(
            f"expected a weight for each of {known.logits.shape[1]} classes, got {len(rule.class_weights)}"
        )
    parts = {MASK: mask_loss(known, weights, rule), DICE: dice_loss(known, weights, rule.competition)}
    if output.iou is not None:
        parts[IOU] = iou_loss(known, output.iou.float(), weights)
    if output.presence is not None:
        parts[CLASS] = presence_loss(known, output.presence.float(), weights)
    return torch.stack([rule.parts[name] * part for name, part in parts.items()]).sum(), parts


def known_pixels(logits: torch.Tensor, target: torch.Tensor) -> Known:
    """The known pixels of `logits` (n, class, y, x), brought to the size of `target` (n, 1, y, x) beforehand."""
    if target.ndim != 4 or target.shape[1] != 1 or logits.ndim != 4 or len(logits) != len(target):
        raise FintuneValueError(
            "expected logits (n, class, y, x) and labels (n, 1, y, x), got shapes "
            f"{tuple(logits.shape)} and {tuple(target.shape)}"
        )
    labels = target[:, 0].long()
    is_known = labels != UNKNOWN
    brought = at_size(logits, (labels.shape[-2], labels.shape[-1])).movedim(1, -1)
    return Known(brought[is_known], labels[is_known], torch.nonzero(is_known)[:, 0], is_known.flatten(1).any(1))


def mask_loss(known: Known, weights: torch.Tensor, rule: LossRule) -> torch.Tensor:
    """Mean focal loss of the known pixels, 0 where none is known; pixels of no class weigh 1.

    Under `softmax` the classes and "none" share one probability. Under `sigmoid` it is SAM 2's: each class against
    all else, its pixels weighted by `ALPHA`, averaged over classes.

    Reference: Lin et al. 2017, Focal loss for dense object detection, ICCV; Ravi et al. 2024, SAM 2, arXiv:2408.00714.
    """
    n_pixels = max(1, len(known.truth))
    if rule.competition == SIGMOID:
        return (_focal_by_class(known, rule.gamma) * weights).sum() / (n_pixels * len(weights))
    against = with_none(known.logits, dim=1)
    truth = known.truth[:, None]
    whole = against.logsumexp(1)
    entropy = whole - against.gather(1, truth)[:, 0]
    # (1 - p)^gamma by its logarithm, which has a gradient where p is 1 to the last bit.
    others = against.scatter(1, truth, -torch.inf).logsumexp(1) - whole
    of_pixel = torch.cat([weights.new_ones(1), weights])[known.truth]
    return (of_pixel * torch.exp(rule.gamma * others) * entropy).sum() / n_pixels


def dice_loss(known: Known, weights: torch.Tensor, competition: Competition) -> torch.Tensor:
    """1 minus the Dice coefficient of each class over the batch, weighted; classes that are absent count too.

    Reference: Milletari et al. 2016, V-Net, 3DV.
    """
    found = _class_probabilities(known.logits, competition)
    truth = _is_class(known)
    overlap = 2 * (found * truth).sum(0) + SMOOTH
    coefficient = overlap / (found.sum(0) + truth.sum(0) + SMOOTH)
    return (weights * (1 - coefficient)).sum() / weights.sum()


def iou_loss(known: Known, predicted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Squared error of the `predicted` IoU (n, class), over the classes that an image holds; 0 where it holds none."""
    with torch.no_grad():
        n_images, n_classes = predicted.shape
        found = winners(known.logits, dim=1)
        pairs = (n_images, n_classes + 1, n_classes + 1)
        address = (known.image * pairs[1] + known.truth) * pairs[2] + found
        counts = torch.bincount(address, minlength=n_images * pairs[1] * pairs[2]).reshape(pairs)
        both = torch.diagonal(counts, dim1=1, dim2=2)
        either = counts.sum(1) + counts.sum(2) - both
        true = (both / either.clamp(min=1))[:, 1:].to(predicted.dtype)
        is_there = counts.sum(2)[:, 1:] > 0
    errors = (predicted - true)[is_there] ** 2
    counted = weights.expand(n_images, -1)[is_there]
    return (counted * errors).sum() / counted.sum().clamp(min=torch.finfo(counted.dtype).tiny)


def presence_loss(known: Known, predicted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean weighted cross entropy of whether an image holds a class; `predicted` (n, class) are logits.

    Images of which nothing is known say nothing.
    """
    is_there = torch.zeros_like(predicted)
    in_class = known.truth > 0
    is_there[known.image[in_class], known.truth[in_class] - 1] = 1
    shown = known.is_shown
    entropy = binary_cross_entropy_with_logits(predicted[shown], is_there[shown], reduction="none")
    return (weights * entropy).sum() / max(1, entropy.numel())


def class_weights(n_pixels: NDArray[np.int64], rule: WeightRule | Sequence[float]) -> tuple[float, ...]:
    """Weights of classes with `n_pixels` (class,) in the training tiles; the most frequent class has 1.

    `auto` is the inverse of the frequency, `sqrt` its root, `none` is 1 for all; a list is taken as it is.

    Raises FintuneValueError for a class without a pixel, or a list that does not give each class a positive number.
    """
    if not isinstance(rule, str):
        if len(rule) != len(n_pixels) or min(rule) <= 0:
            raise FintuneValueError(
                f"class_weights: expected {len(n_pixels)} numbers above 0, one for each class, got {list(rule)}"
            )
        return tuple(float(weight) for weight in rule)
    if (np.asarray(n_pixels) <= 0).any():
        raise FintuneValueError(
            f"a class without a pixel in the training tiles cannot be learnt; pixels of each: {n_pixels.tolist()}"
        )
    power = {"auto": 1.0, "sqrt": 0.5, "none": 0.0}[rule]
    return tuple(float(weight) for weight in (n_pixels.max() / n_pixels) ** power)


def mean_one(weights: Sequence[float]) -> tuple[float, ...]:
    """`weights` divided by their mean, so that the size of the loss does not depend on how rare a class is."""
    mean = sum(weights) / len(weights)
    return tuple(weight / mean for weight in weights)


def _class_probabilities(logits: torch.Tensor, competition: Competition) -> torch.Tensor:
    return logits.sigmoid() if competition == SIGMOID else with_none(logits, dim=1).softmax(1)[:, 1:]


def _is_class(known: Known) -> torch.Tensor:
    """1 where a pixel is of a class (pixel, class), else 0."""
    n_classes = known.logits.shape[1]
    return torch.nn.functional.one_hot(known.truth, n_classes + 1)[:, 1:].to(known.logits.dtype)


def _focal_by_class(known: Known, gamma: float) -> torch.Tensor:
    """SAM 2's focal loss (class,), summed over pixels."""
    truth = _is_class(known)
    entropy = binary_cross_entropy_with_logits(known.logits, truth, reduction="none")
    easiness = torch.exp(gamma * logsigmoid(-known.logits * (2 * truth - 1)))
    alpha = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    return (alpha * easiness * entropy).sum(0)
