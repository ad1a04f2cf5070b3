"""How good a flow network is on whole tiles that it does not learn from: by its masks, not by its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.data import AnnotatedTiles, flow_target
from fintune_xr.finetune.losses import flow_loss
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.flows import FlowSegmenter
from fintune_xr.models.segmenter import Maps, Mask

IOU = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class ValidationTile:
    """A whole tile as the network sees it, with what should come out."""

    image: Maps
    mask: Mask


@dataclass(frozen=True, slots=True)
class FlowValidation:
    """Means over tiles. `ap50` is NaN where masks were not reconstructed: the flows had no shape yet."""

    loss: float
    unexplained: float
    ap50: float


def validation_tiles(tiles: AnnotatedTiles, segmenter: FlowSegmenter) -> list[ValidationTile]:
    """The tiles, normalised as for inference.

    Raises FintuneValueError where no tile has an annotated cell, as there would be nothing to select by.
    """
    read = [tiles.read(index) for index in range(len(tiles))]
    if not any(mask.any() for _, mask in read):
        raise FintuneValueError(
            f"the {len(read)} validation tile(s) hold no annotated cell; give validation donors that have some"
        )
    return [ValidationTile(segmenter.normalise(image), mask) for image, mask in read]


def validate(
    segmenter: FlowSegmenter, tiles: Sequence[ValidationTile], *, reconstruct_below: float
) -> FlowValidation:
    """Loss and mean average precision of `segmenter` at an IoU of 0.5.

    Masks are reconstructed only where a smaller part of the flows than `reconstruct_below` is unexplained:
    earlier that is slow and gives nothing.
    """
    predicted = [segmenter.predict([tile.image])[0] for tile in tiles]
    losses = [
        flow_loss(torch.from_numpy(maps)[None], torch.from_numpy(flow_target(tile.mask))[None])
        for maps, tile in zip(predicted, tiles, strict=True)
    ]
    loss = float(np.mean([float(one.total) for one in losses]))
    with_cells = [float(one.unexplained) for one, tile in zip(losses, tiles, strict=True) if tile.mask.any()]
    unexplained = float(np.mean(with_cells))
    if not unexplained < reconstruct_below:
        return FlowValidation(loss, unexplained, float("nan"))
    precisions = [
        average_precision(tile.mask, segmenter.reconstruct(maps))
        for maps, tile in zip(predicted, tiles, strict=True)
    ]
    return FlowValidation(loss, unexplained, float(np.nanmean(precisions)))


def average_precision(true: Mask, predicted: Mask) -> float:
    """TP / (TP + FP + FN) at an IoU of 0.5; NaN where neither mask has an instance."""
    matches = match_masks(true, predicted, thresholds=(IOU,))
    found, total = int(matches.tp[0]), int(matches.tp[0] + matches.fp[0] + matches.fn[0])
    return found / total if total else float("nan")
