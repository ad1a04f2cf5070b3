"""Which cells of two masks of the same field are one cell: those that share more than half of their union."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.instance_labels import label_table, overlaps

SAME_ABOVE: Final = 0.5


def same_cells(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    """For each cell of the mask `first` (y, x), by ascending label, the place of the same cell in `second`, or -1.

    Places count the cells of `second` from 0 on, by ascending label. Two cells are the same where the pixels that they
    share are more than half of those that either has (IoU > 0.5), so that a cell is the same as one other at most.

    Raises FintuneValueError where shapes differ or a mask holds no labels.
    """
    tables = [label_table(mask, f"{which} {n.MASK}") for which, mask in (("first", first), ("second", second))]
    pairs = overlaps(*tables)
    union = pairs.first_area[pairs.first] + pairs.second_area[pairs.second] - pairs.pixels
    same = pairs.pixels > SAME_ABOVE * union
    place_of_first, place_of_second = _places(pairs.first_area), _places(pairs.second_area)
    found = np.full(np.count_nonzero(pairs.first_area[1:]), -1, np.int64)
    found[place_of_first[pairs.first[same]]] = place_of_second[pairs.second[same]]
    return found


def _places(area: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place (index,) of each label among those that a mask holds; the background is none of them."""
    is_held = area > 0
    is_held[0] = False
    return np.cumsum(is_held) - 1
