"""Flows of instances: at every pixel the unit vector that leads to the centre of its instance.

The same diffusion as in cellpose.dynamics, but run inside the bounding box of each instance, where it stays
in the processor's cache. Cellpose runs it over the whole image: a minute for 2048 x 2048 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compiled import compiled
from fintune_xr.models.protocol import Maps, Mask

Grid = NDArray[np.float64]
Indices = NDArray[np.int64]

# Network output is this many times the unit flow (a convention of Cellpose's weights).
FLOW_SCALE = 5.0


def instance_flows(mask: Mask) -> NDArray[np.float64]:
    """Flows (2, y, x), first along y then along x, of the instances in `mask`; zero in the background.

    `mask` (y, x) holds labels 1..N; labels may be missing. Heat enters at the pixel nearest to the instance's
    centre of mass and spreads for twice the largest height + width + 2 steps; the flow is its normalised
    gradient.

    Reference: Stringer et al. 2021, Nat. Methods 18:100.
    """
    boxes = _boxes(mask)
    flows = np.zeros((2, *mask.shape))
    present = np.flatnonzero(boxes[:, 1] > 0)
    if present.size:
        extents = boxes[present, 1] - boxes[present, 0] + boxes[present, 3] - boxes[present, 2] + 2
        heat = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
        _diffuse(mask, boxes, present, 2 * int(extents.max()), heat)
        _gradients(mask, heat, flows)
    return flows


def flow_errors(mask: Mask, flows: Maps) -> NDArray[np.float64]:
    """Mean squared difference between predicted `flows` and those of `mask`, for its labels 1..N.

    `flows` (2, y, x) as a network gives them: FLOW_SCALE times the unit vector. NaN for a missing label.
    """
    difference = instance_flows(mask)
    difference -= flows / np.float32(FLOW_SCALE)
    squared = np.einsum("cyx,cyx->yx", difference, difference)
    labels = mask.ravel()
    sums = np.bincount(labels, weights=squared.ravel())
    counts = np.bincount(labels)
    with np.errstate(invalid="ignore"):
        means = np.asarray(sums / counts)
    return means[1:]


@compiled
def _boxes(mask: Mask) -> Indices:
    """First and past-the-last row and column of every label, (label, 4); zeros for a missing label."""
    height, width = mask.shape
    boxes = np.zeros((int(mask.max()) + 1 if mask.size else 1, 4), np.int64)
    for y in range(height):
        for x in range(width):
            k = int(mask[y, x])
            if k == 0:
                continue
            if boxes[k, 1] == 0:
                boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = y, y + 1, x, x + 1
            else:
                boxes[k, 1] = y + 1
                boxes[k, 2] = min(boxes[k, 2], x)
                boxes[k, 3] = max(boxes[k, 3], x + 1)
    return boxes


@compiled
def _centre(inside: Grid) -> tuple[int, int]:
    """The instance's pixel nearest to its rounded centre of mass; first in row order where several are."""
    n, sum_y, sum_x = 0, 0, 0
    height, width = inside.shape
    for y in range(height):
        for x in range(width):
            if inside[y, x] > 0:
                n, sum_y, sum_x = n + 1, sum_y + y, sum_x + x
    mean_y, mean_x = int(np.round(sum_y / n)), int(np.round(sum_x / n))
    best, best_y, best_x = 2**62, 0, 0
    for y in range(height):
        for x in range(width):
            distance = (y - mean_y) ** 2 + (x - mean_x) ** 2
            if inside[y, x] > 0 and distance < best:
                best, best_y, best_x = distance, y, x
    return best_y, best_x


@compiled
def _diffuse(mask: Mask, boxes: Indices, present: Indices, n_steps: int, image: Grid) -> None:
    """Writes the heat of every label in `present`; an instance's heat outside itself is zero throughout."""
    for k in present:
        y0, x0 = boxes[k, 0] - 1, boxes[k, 2] - 1
        h, w = boxes[k, 1] - y0 + 1, boxes[k, 3] - x0 + 1
        inside = np.zeros((h, w))
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                if mask[y0 + y, x0 + x] == k:
                    inside[y, x] = 1.0
        # Taken inside the frame, so that rounding halves falls as in whole-image coordinates of cellpose.
        cy, cx = _centre(inside[1:-1, 1:-1])
        heat = np.zeros((h, w))
        after = np.zeros((h, w))
        for _ in range(n_steps):
            heat[cy + 1, cx + 1] += 1.0
            for y in range(1, h - 1):
                for x in range(1, w - 1):
                    # In cellpose's order: where heat is even, the direction is that of rounding.
                    total = heat[y, x] + heat[y - 1, x] + heat[y + 1, x] + heat[y, x - 1] + heat[y, x + 1]
                    total = total + heat[y - 1, x - 1] + heat[y - 1, x + 1]
                    total = total + heat[y + 1, x - 1] + heat[y + 1, x + 1]
                    after[y, x] = total * inside[y, x] / 9.0
            heat, after = after, heat
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                if inside[y, x] > 0:
                    image[y0 + y + 1, x0 + x + 1] = heat[y, x]


@compiled
def _gradients(mask: Mask, heat: Grid, flows: Grid) -> None:
    """Normalised differences of `heat` (one pixel wider on each side than `mask`).

    At a contact the neighbour's heat counts, as it does in cellpose: networks were trained on that.
    """
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x] > 0:
                dy = heat[y + 2, x + 1] - heat[y, x + 1]
                dx = heat[y + 1, x + 2] - heat[y + 1, x]
                norm = 1e-60 + np.sqrt(dy * dy + dx * dx)
                flows[0, y, x] = dy / norm
                flows[1, y, x] = dx / norm
