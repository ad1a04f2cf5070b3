"""Automatic mask generation by SAM, or any network that takes points, one embedding per tile and decoding per grid.

Every number comes out of segment_anything's own functions, in the order of its SamAutomaticMaskGenerator without
crops. Only what cannot change the result is left out: masks are not upsampled before the filter by predicted IoU,
which needs no pixels, and there is no filter of masks at the edge, which spares those at the edge of the image itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score
from torchvision.ops.boxes import batched_nms

from fintune_xr.models.protocol import Mask
from fintune_xr.models.sam.settings import SamInputSettings

# Masks that are at full size at once: 32 of 1024 x 1024 pixels take 128 MiB, twice while they are resized.
UPSAMPLED_AT_ONCE = 32

Thresholds = tuple[float, float]
"""Least predicted IoU and least stability score; 0 switches a filter off, as in segment_anything."""


class Embedded(Protocol):
    """What a network has seen of one image; all but its shape is the network's own."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image in px."""
        ...


E = TypeVar("E", bound=Embedded)


class Promptable(Protocol[E]):
    """A network that gives masks for points: an image is embedded once, and decoded for any number of prompts."""

    @property
    def mask_threshold(self) -> float:
        """Logit above which a pixel belongs to a mask."""
        ...

    def embed(self, image: NDArray[np.uint8]) -> E:
        """The embedding of a colour image (y, x, 3)."""
        ...

    def decode(self, embedded: E, points: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (mask, y, x), at any size, and predicted IoU (mask,), both float32, of all masks of `points`.

        `points` (point, 2) are x and y in px of the image, each a prompt by itself.
        """
        ...

    def at_full_size(self, embedded: E, logits: torch.Tensor) -> torch.Tensor:
        """Logits (mask, y, x) at the size of the image."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Masks of one grid of points that passed the loosest filters, in the order of the prompts.

    `predicted_iou`, `stability` (mask,) float32; `boxes` (mask, 4) int64 as left, top, right, bottom, the last
    pixels included; `area_px` (mask,) int64. The pixels inside each box are kept as bits.
    """

    predicted_iou: torch.Tensor
    stability: torch.Tensor
    boxes: torch.Tensor
    area_px: NDArray[np.int64]
    bits: tuple[NDArray[np.uint8], ...]
    shape: tuple[int, int]

    def crop(self, index: int) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
        """Where mask `index` lies, and its pixels there."""
        left, top, right, bottom = self.boxes[index].tolist()
        height, width = bottom - top + 1, right - left + 1
        pixels = np.unpackbits(self.bits[index], count=height * width).astype(bool)
        return (slice(top, bottom + 1), slice(left, right + 1)), pixels.reshape(height, width)

    def full(self, index: int) -> NDArray[np.bool_]:
        """Mask `index` (y, x) at the size of the tile."""
        mask = np.zeros(self.shape, bool)
        where, pixels = self.crop(index)
        mask[where] = pixels
        return mask


@torch.no_grad()
def candidate_masks(
    network: Promptable[E], embedded: E, *, points_per_side: int, loosest: Thresholds, options: SamInputSettings
) -> Candidates:
    """Masks of a square grid of prompts that pass the `loosest` thresholds, to be filtered further by `select`."""
    passed = [
        _measured(network, embedded, logits, iou, loosest[1], options.stability_score_offset)
        for batch in _prompts(embedded.shape, points_per_side, options.points_per_batch)
        for logits, iou in _decoded(network, embedded, batch, loosest[0])
    ]
    bits = [crop for part in passed for crop in part[3]]
    return Candidates(
        predicted_iou=torch.cat([torch.empty(0), *(part[0] for part in passed)]),
        stability=torch.cat([torch.empty(0), *(part[1] for part in passed)]),
        boxes=torch.cat([torch.empty((0, 4), dtype=torch.int64), *(part[2] for part in passed)]),
        area_px=np.array([np.bitwise_count(crop).sum() for crop in bits], np.int64),
        bits=tuple(bits),
        shape=embedded.shape,
    )


def select(candidates: Candidates, thresholds: Thresholds, *, box_nms_thresh: float) -> NDArray[np.int64]:
    """Positions of the masks that one setting keeps, the best predicted IoU first."""
    keep = torch.ones(candidates.predicted_iou.shape, dtype=torch.bool)
    if thresholds[0] > 0:
        keep &= candidates.predicted_iou > thresholds[0]
    if thresholds[1] > 0:
        keep &= candidates.stability >= thresholds[1]
    (passed,) = torch.nonzero(keep, as_tuple=True)
    best = batched_nms(
        candidates.boxes[passed].float(), candidates.predicted_iou[passed], torch.zeros(len(passed)), box_nms_thresh
    )
    return passed[best].numpy()


def paint(candidates: Candidates, kept: Sequence[int] | NDArray[np.int64], rule: SamInputSettings) -> Mask:
    """Instance mask (y, x) uint32 of the masks `kept`, best first, where they overlap the better one wins.

    Masks over `max_area_fraction` of the tile are background and dropped before, instances with fewer than
    `min_area_px` visible pixels after. Holes stay open, and the parts of a mask in pieces keep one label.
    """
    labels = np.zeros(candidates.shape, np.uint32)
    largest = rule.max_area_fraction * labels.size
    cells = [int(index) for index in kept if candidates.area_px[index] <= largest]
    for label, index in reversed(list(enumerate(cells, start=1))):
        where, pixels = candidates.crop(index)
        labels[where][pixels] = label
    visible = np.bincount(labels.ravel(), minlength=len(cells) + 1)
    stays = visible >= rule.min_area_px
    stays[0] = False
    renamed = np.where(stays, np.cumsum(stays), 0).astype(np.uint32)
    return renamed[labels]


def _prompts(shape: tuple[int, int], points_per_side: int, size: int) -> Iterator[NDArray[np.float64]]:
    """Batches of points (point, 2) as x and y in an image of `shape`."""
    points = build_point_grid(points_per_side) * np.array(shape)[None, ::-1]
    for first in range(0, len(points), size):
        yield points[first : first + size]


def _decoded(
    network: Promptable[E], embedded: E, points: NDArray[np.float64], least_iou: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits at decoder size and predicted IoU of the masks of `points` that pass, few at a time."""
    logits, iou = network.decode(embedded, points)
    if least_iou > 0:
        logits, iou = logits[iou > least_iou], iou[iou > least_iou]
    if len(iou):
        yield from zip(torch.split(logits, UPSAMPLED_AT_ONCE), torch.split(iou, UPSAMPLED_AT_ONCE), strict=True)


def _measured(
    network: Promptable[E], embedded: E, logits: torch.Tensor, iou: torch.Tensor, least_stability: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[NDArray[np.uint8]]]:
    """Predicted IoU, stability, boxes and packed pixels of the masks that are stable enough at full size."""
    full = network.at_full_size(embedded, logits)
    stability = calculate_stability_score(full, network.mask_threshold, offset)
    if least_stability > 0:
        stable = stability >= least_stability
        full, stability, iou = full[stable], stability[stable], iou[stable]
    masks = full > network.mask_threshold
    boxes = batched_mask_to_box(masks).cpu()
    pixels = masks.cpu().numpy()
    crops = [
        np.packbits(one[top : bottom + 1, left : right + 1])
        for one, (left, top, right, bottom) in zip(pixels, boxes.tolist(), strict=True)
    ]
    return iou.cpu(), stability.cpu(), boxes.to(torch.int64), crops
