"""Outlines of instances along the edges of their pixels, and the pixels that outlines enclose: one undoes the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon as pixels_within

from fintune_xr.compilation import compile_kernel
from fintune_xr.pixels.cell_measurement import renumber

Ring: TypeAlias = NDArray[np.float64]
"""Corners (corner, 2) of a closed line as (x, y), the first not repeated; the first pixel reaches from 0 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One instance: each of its pieces is an outer ring, clockwise on the screen, with its holes after it."""

    label: int
    pieces: tuple[tuple[Ring, ...], ...]


def outlines(mask: NDArray[Any]) -> Iterator[Outline]:
    """The outline of each instance of a mask (y, x), in ascending order of labels.

    Rings run along the edges of pixels and turn at whole numbers, so that they enclose exactly the pixels of the
    instance. Pixels that touch in a corner alone are pieces of their own: no ring meets itself, as polygons of
    geometry libraries demand.
    """
    numbered = renumber(mask)
    for number, where in enumerate(ndimage.find_objects(numbered.mask.astype(np.int64)), start=1):
        top, left = where[0].start, where[1].start
        pieces, count = ndimage.label(numbered.mask[where] == number)
        found = tuple(_piece(pieces == piece, top, left) for piece in range(1, count + 1))
        yield Outline(int(numbered.label[number - 1]), found)


def fill_rings(rings: Sequence[Ring], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (y, x) of an image of this `shape` whose middles lie within an odd number of the rings.

    So the holes of a piece are left out, whichever way their rings turn.
    """
    inside = np.zeros(shape, np.bool_)
    for ring in rings:
        rows, columns = pixels_within(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)
        inside[rows, columns] ^= True
    return inside


def _piece(piece: NDArray[np.bool_], top: int, left: int) -> tuple[Ring, ...]:
    corners, ends = _traced(np.pad(piece, 1))
    offset = np.array([left - 1, top - 1], np.float64)
    rings = [offset + ring for ring in np.split(corners, ends[:-1])]
    # The first edge that is met from above is of the outer ring.
    return tuple(rings)


# Steps of a walk along edges, east, south, west, north, with the piece to the right of it; and the pixels ahead of the
# corner that a step ends in, to the right and to the left, counted from the pixel right below that corner.
_STEP = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
_RIGHT = np.array([[0, 0], [0, -1], [-1, -1], [-1, 0]])
_LEFT = np.array([[-1, 0], [0, 0], [0, -1], [-1, -1]])


@compile_kernel
def _traced(piece: Any) -> Any:
    """Corners (corner, 2) as (x, y) of all rings of a piece with a border of nothing, and where each ring ends."""
    height, width = piece.shape
    seen = np.zeros((height, width), np.bool_)
    corners = np.empty((4 * height * width, 2), np.int64)
    ends = np.empty(height * width + 1, np.int64)
    n_corners, n_rings = 0, 0
    for first_y in range(1, height):
        for first_x in range(1, width):
            # An edge with the piece below it and nothing above, that no ring has passed yet.
            if not piece[first_y, first_x] or piece[first_y - 1, first_x] or seen[first_y, first_x]:
                continue
            y, x, way = first_y, first_x, 0
            while True:
                if way == 0:
                    seen[y, x] = True
                y, x = y + _STEP[way, 0], x + _STEP[way, 1]
                turn = 0
                if piece[y + _LEFT[way, 0], x + _LEFT[way, 1]]:
                    # Also where pixels touch in a corner alone: so the ring does not meet itself there.
                    turn = 3
                elif not piece[y + _RIGHT[way, 0], x + _RIGHT[way, 1]]:
                    turn = 1
                if turn:
                    corners[n_corners, 0], corners[n_corners, 1] = x, y
                    n_corners += 1
                    way = (way + turn) % 4
                if way == 0 and y == first_y and x == first_x:
                    break
            ends[n_rings] = n_corners
            n_rings += 1
    return corners[:n_corners], ends[:n_rings]
