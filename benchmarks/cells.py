"""Masks with a stated number of cells, and what reading an array once costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel


def grid_of_cells(n_cells: int, *, side: int = 2048, seed: int = 0) -> NDArray[np.uint32]:
    """Mask (y, x) of `n_cells` ellipses on a jittered grid; another seed gives other sizes and places."""
    rng = np.random.default_rng(seed)
    per_side = int(np.ceil(np.sqrt(n_cells)))
    step = side / per_side
    mask = np.zeros((side, side), np.uint32)
    for index in range(n_cells):
        cy, cx = (np.array(divmod(index, per_side)) + 0.5) * step + rng.uniform(-0.15, 0.15, 2) * step
        ry, rx = rng.uniform(0.2, 0.38, 2) * step
        top, left = max(0, int(cy - ry)), max(0, int(cx - rx))
        box = mask[top : int(cy + ry) + 1, left : int(cx + rx) + 1]
        y, x = np.ogrid[top : top + box.shape[0], left : left + box.shape[1]]
        box[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = index + 1
    return mask


def image_of_cells(mask: NDArray[np.uint32], *, n_channels: int = 2, seed: int = 0) -> NDArray[np.uint16]:
    """Image (channel, y, x) of Poisson counts: 300 in every cell over a background of 200."""
    rng = np.random.default_rng(seed)
    return rng.poisson(200 + 300 * (mask > 0), (n_channels, *mask.shape)).astype(np.uint16)


def added_up(array: NDArray[np.generic]) -> int:
    """Sum of all elements by a compiled loop: the least that looking at every pixel once costs here."""
    return int(_added_up(array.reshape(-1)))


@compile_kernel
def _added_up(flat: NDArray[np.generic]) -> np.uint64:
    total = np.uint64(0)
    for value in flat:
        total += value
    return total
