"""How good a flow network is on whole tiles that it does not learn from: by its masks, not by its loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.instance.loss import flow_loss
from fintune_xr.finetune.instance.tiles import AnnotatedTiles, flow_target
from fintune_xr.metrics.counts import IOU
from fintune_xr.metrics.instance import match_masks
from fintune_xr.models.flows.segmenter import FlowSegmenter
from fintune_xr.models.protocol import Mask


@dataclass(frozen=True, slots=True)
class FlowValidation:
    """Means over tiles. `ap50` is NaN where masks were not reconstructed: the flows had no shape yet."""

    loss: float
    unexplained: float
    ap50: float


def require_cells(tiles: AnnotatedTiles) -> None:
    """Raises FintuneValueError where no tile has an annotated cell, as there would be nothing to select by."""
    if not any(tiles.read(index)[1].any() for index in range(len(tiles))):
        raise FintuneValueError(
            f"the {len(tiles)} validation tile(s) hold no annotated cell; give validation donors that have some"
        )


def validate(segmenter: FlowSegmenter, tiles: AnnotatedTiles, *, reconstruct_below: float) -> FlowValidation:
    """Loss and mean average precision of `segmenter` at an IoU of 0.5; one tile is in memory at a time.

    Masks are reconstructed only where a smaller part of the flows than `reconstruct_below` is unexplained, on the
    average of all tiles: earlier that is slow and gives nothing.
    """
    judged = [_judged(segmenter, tiles, index, reconstruct_below) for index in range(len(tiles))]
    loss = float(np.mean([one.loss for one in judged]))
    unexplained = float(np.mean([one.unexplained for one in judged if one.has_cells]))
    if not unexplained < reconstruct_below:
        return FlowValidation(loss, unexplained, float("nan"))
    # A tile that looked too bad by itself is looked at again: its maps are not kept until all others are known.
    late = {
        index: _judged(segmenter, tiles, index, float("inf"))
        for index, one in enumerate(judged)
        if one.precision is None
    }
    precisions = [late.get(index, one).precision for index, one in enumerate(judged)]
    return FlowValidation(loss, unexplained, float(np.nanmean(np.array(precisions, float))))


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is kept of a tile; no `precision` where its masks were not reconstructed."""

    loss: float
    unexplained: float
    has_cells: bool
    precision: float | None


def _judged(segmenter: FlowSegmenter, tiles: AnnotatedTiles, index: int, reconstruct_below: float) -> _Judged:
    image, mask = tiles.read(index)
    maps = segmenter.predict([segmenter.normalise(image)])[0]
    one = flow_loss(torch.from_numpy(maps)[None], torch.from_numpy(flow_target(mask))[None])
    unexplained = float(one.unexplained)
    precision = None
    if unexplained < reconstruct_below:
        precision = average_precision(mask, segmenter.reconstruct(maps))
    return _Judged(float(one.total), unexplained, bool(mask.any()), precision)


def average_precision(true: Mask, predicted: Mask) -> float:
    """TP / (TP + FP + FN) at an IoU of 0.5; NaN where neither mask has an instance."""
    matches = match_masks(true, predicted, thresholds=(IOU,))
    found, total = int(matches.tp[0]), int(matches.tp[0] + matches.fp[0] + matches.fn[0])
    return found / total if total else float("nan")
