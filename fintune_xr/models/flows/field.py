"""Flows of instances: at every pixel the unit vector that leads to the centre of its instance.

The same diffusion as in cellpose.dynamics, but run inside the bounding box of each instance, where it stays
in the processor's cache. Cellpose runs it over the whole image: a minute for 2048 x 2048 pixels.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel, fma
from fintune_xr.models.protocol import Maps, Mask

Grid = NDArray[np.float64]
Indices = NDArray[np.int64]

# Network output is this many times the unit flow (a convention of Cellpose's weights).
FLOW_SCALE = 5.0
_SCALE: Final = np.float32(FLOW_SCALE)
_NINTH: Final = 1.0 / 9.0


def instance_flows(mask: Mask) -> NDArray[np.float64]:
    """Flows (2, y, x), first along y then along x, of the instances in `mask`; zero in the background.

    `mask` (y, x) holds labels 1..N; labels may be missing. Heat enters at the pixel nearest to the instance's
    centre of mass and spreads for twice the largest height + width + 2 steps; the flow is its normalised
    gradient.

    Reference: Stringer et al. 2021, Nat. Methods 18:100.
    """
    flows = np.zeros((2, *mask.shape))
    _gradients(mask, _heat(mask, _boxes(mask)), flows)
    return flows


def flow_errors(mask: Mask, flows: Maps) -> NDArray[np.float64]:
    """Mean squared difference between predicted `flows` and those of `mask`, for its labels 1..N.

    `flows` (2, y, x) as a network gives them: FLOW_SCALE times the unit vector. NaN for a missing label.
    """
    boxes = _boxes(mask)
    sums, counts = _squared_differences(mask, _heat(mask, boxes), flows, len(boxes))
    with np.errstate(invalid="ignore"):
        means = np.asarray(sums / counts)
    return means[1:]


def _heat(mask: Mask, boxes: Indices) -> Grid:
    """Heat of every instance, one pixel wider on each side than `mask`; zero in the background."""
    heat = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
    present = np.flatnonzero(boxes[:, 1] > 0)
    if present.size:
        extents = boxes[present, 1] - boxes[present, 0] + boxes[present, 3] - boxes[present, 2] + 2
        _diffuse(mask, boxes, present, int(extents.max()), heat)
    return heat


@compile_kernel
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


@compile_kernel
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


@compile_kernel
def _diffuse(mask: Mask, boxes: Indices, present: Indices, n_pairs: int, image: Grid) -> None:
    """Writes the heat of every label in `present` after `n_pairs` pairs of steps."""
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
        source = (cy + 1) * w + cx + 1
        heat, after, flat = np.zeros(h * w), np.zeros(h * w), inside.reshape(-1)
        for _ in range(n_pairs):
            heat[source] += 1.0
            _spread(heat, flat, w, after)
            after[source] += 1.0
            _spread(after, flat, w, heat)
        for y in range(1, h - 1):
            for x in range(1, w - 1):
                if inside[y, x] > 0:
                    image[y0 + y + 1, x0 + x + 1] = heat[y * w + x]


@compile_kernel
def _spread(heat: Any, inside: Any, width: int, after: Any) -> None:
    """The mean of each pixel's heat and that of its eight neighbours, zero where `inside` is; all of them flat.

    From the first pixel that has eight neighbours to the last, over the frame on the way: it is not inside. Without
    the ends of rows the processor adds eight pixels at a time.
    """
    first = width + 1
    rows = heat.size - 2 * first
    n_, s, m = heat[: rows + 2], heat[2 * width :], heat[width:]
    within, then = inside[first:], after[first:]
    for i in range(rows):
        # In cellpose's order: where heat is even, the direction is that of rounding.
        total = m[i + 1] + n_[i + 1] + s[i + 1] + m[i] + m[i + 2]
        total = (total + n_[i] + n_[i + 2] + s[i] + s[i + 2]) * within[i]
        # A ninth, rounded as division rounds it, by its remainder: dividing takes longer than all of the rest.
        ninth = total * _NINTH
        then[i] = fma(fma(-9.0, ninth, total), _NINTH, ninth)


@compile_kernel
def _gradients(mask: Mask, heat: Grid, flows: Grid) -> None:
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x] > 0:
                flows[0, y, x], flows[1, y, x] = _gradient(heat, y, x)


@compile_kernel
def _squared_differences(mask: Mask, heat: Grid, flows: Maps, n_labels: int) -> tuple[Grid, Indices]:
    """Sum of squared differences to the unit flows, and pixels, of every label (label,); nothing for label 0."""
    sums, counts = np.zeros(n_labels), np.zeros(n_labels, np.int64)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            k = mask[y, x]
            if k > 0:
                dy, dx = _gradient(heat, y, x)
                dy -= flows[0, y, x] / _SCALE
                dx -= flows[1, y, x] / _SCALE
                sums[k] += dy * dy + dx * dx
                counts[k] += 1
    return sums, counts


@compile_kernel
def _gradient(heat: Grid, y: int, x: int) -> tuple[float, float]:
    """Normalised differences of `heat`, which is one pixel wider on each side, at the mask's pixel (y, x).

    At a contact the neighbour's heat counts, as it does in cellpose: networks were trained on that.
    """
    dy = heat[y + 2, x + 1] - heat[y, x + 1]
    dx = heat[y + 1, x + 2] - heat[y + 1, x]
    norm = 1e-60 + np.sqrt(dy * dy + dx * dx)
    return dy / norm, dx / norm
