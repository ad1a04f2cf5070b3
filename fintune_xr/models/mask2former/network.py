"""Mask2Former by transformers: queries that each propose a class and a mask, and its own matching loss.

Pixels of no class are a class of their own here, the first: Mask2Former divides the whole image among its queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.mask2former.settings import Mask2FormerArchitecture
from fintune_xr.pixels.discs import UNKNOWN

# Logit of a mask where nothing is known: as sure of the outside as float32 can tell from 1. Larger ones would reach
# neighbours that are known, since the loss reads masks between pixels.
_OUTSIDE: Final = -16.0
_LEAST: Final = 1e-8


@dataclass(frozen=True, eq=False)
class MaskQueries:
    """What queries propose: `classes` (n, query, none and class and nothing) and `masks` (n, query, y, x), logits.

    `earlier` are the proposals of the layers before, which learn from the same loss.
    """

    classes: torch.Tensor
    masks: torch.Tensor
    earlier: tuple[dict[str, torch.Tensor], ...]

    @property
    def logits(self) -> torch.Tensor:
        """Logits (n, class, y, x) against none: of each class, the sum over queries of class times mask.

        Reference: Cheng et al. 2022, Masked-attention mask transformer, CVPR, section on semantic inference.
        """
        of_class = self.classes.float().softmax(-1)[..., :-1]
        share = torch.einsum("nqk,nqyx->nkyx", of_class, self.masks.float().sigmoid()).clamp(min=_LEAST).log()
        return share[:, 1:] - share[:, :1]


class Mask2FormerSemantic(nn.Module):
    """From colours to proposals of queries."""

    def __init__(self, architecture: Mask2FormerArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.proposer = Mask2FormerForUniversalSegmentation(_config(architecture))

    def forward(self, patches: torch.Tensor) -> MaskQueries:
        """Proposals for `patches` (n, colour, y, x)."""
        found = self.proposer(pixel_values=patches, output_auxiliary_logits=True)
        return MaskQueries(found.class_queries_logits, found.masks_queries_logits, tuple(found.auxiliary_logits or ()))


def weigh_classes(network: Mask2FormerSemantic, weights: Sequence[float]) -> None:
    """Lets queries of class k count `weights[k]` times in the loss of their classes; none of them stays at 1.

    Raises FintuneValueError unless there is a weight for each class.
    """
    n_classes = network.architecture.class_map.n_classes
    if len(weights) != n_classes:
        raise FintuneValueError(f"expected {n_classes} weights, one for each class, got {len(weights)}")
    # None of the classes comes first, and last what the library gives a query that found nothing.
    network.proposer.criterion.empty_weight[1:-1] = torch.tensor(weights)


def matching_loss(
    network: Mask2FormerSemantic, output: MaskQueries, target: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mask2Former's own loss of a batch and its parts, weighted as published; `target` (n, 1, y, x) holds labels.

    Unknown pixels (-1) belong to no mask, and what is proposed there is taken as outside of all of them: labels under
    them change nothing. Images of which nothing is known are left out.
    """
    labels = target[:, 0].long()
    shown = (labels != UNKNOWN).flatten(1).any(1)
    if not shown.any():
        return 0 * (output.masks.sum() + output.classes.sum()), {}
    kept = labels[shown]
    share = adaptive_avg_pool2d((kept != UNKNOWN).float()[:, None], (output.masks.shape[-2], output.masks.shape[-1]))
    present = [one.unique()[one.unique() != UNKNOWN] for one in kept]
    parts: dict[str, torch.Tensor] = network.proposer.get_loss_dict(
        masks_queries_logits=_inside(output.masks[shown], share),
        class_queries_logits=output.classes[shown].float(),
        mask_labels=[(one == classes[:, None, None]).float() for one, classes in zip(kept, present, strict=True)],
        class_labels=present,
        auxiliary_predictions=[_earlier(one, shown, share) for one in output.earlier],
    )
    named = ("loss_mask", "loss_dice", "loss_cross_entropy")
    summed = {name.removeprefix("loss_"): _sum_of(parts, name) for name in named}
    return torch.stack(list(summed.values())).sum(), summed


def _earlier(proposed: dict[str, torch.Tensor], shown: torch.Tensor, share: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "masks_queries_logits": _inside(proposed["masks_queries_logits"][shown], share),
        "class_queries_logits": proposed["class_queries_logits"][shown].float(),
    }


def _inside(masks: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`masks` with the outside where less than half of what is under a logit is known."""
    return masks.float().masked_fill(share < 0.5, _OUTSIDE)


def _sum_of(parts: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A part of the loss over the last layer and those before it."""
    return torch.stack([value for key, value in parts.items() if key.startswith(name)]).sum()


def _config(chosen: Mask2FormerArchitecture) -> Any:
    encoder = SwinConfig(
        embed_dim=chosen.width, depths=list(chosen.depths), num_heads=list(chosen.heads), window_size=chosen.window,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerConfig(
        backbone_config=encoder,
        feature_size=chosen.features,
        mask_feature_size=chosen.features,
        hidden_dim=chosen.features,
        encoder_feedforward_dim=4 * chosen.features,
        dim_feedforward=8 * chosen.features,
        encoder_layers=chosen.pixel_layers,
        decoder_layers=chosen.decoder_layers,
        num_attention_heads=chosen.decoder_heads,
        num_queries=chosen.queries,
        num_labels=chosen.class_map.n_classes + 1,
        train_num_points=chosen.points,
        use_auxiliary_loss=True,
    )
