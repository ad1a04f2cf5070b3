"""What somebody changed in a mask: objects left as they were, reshaped, added and removed, and pixels of all that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.pixels.instance_labels import Overlaps, label_table, overlaps

# Above a half no object can have two partners.
_SAME_OBJECT: Final = 0.5


@dataclass(frozen=True, slots=True)
class Corrections:
    """Objects of two masks (y, x) of one tile by what became of them, and `n_px`, pixels that belong to another one.

    `n_reshaped` objects share more than half of their union with one of before, and are others in some pixel; what
    has no such partner was added or removed.
    """

    n_px: int
    n_kept: int
    n_reshaped: int
    n_added: int
    n_removed: int

    @property
    def is_unchanged(self) -> bool:
        """Whether both masks hold the same objects."""
        return self.n_px == 0


def corrections(before: NDArray[Any], after: NDArray[Any]) -> Corrections:
    """What lies between two masks (y, x) of the same tile, whichever numbers their objects have.

    Raises FintuneValueError where they differ in shape.
    """
    first, second = label_table(before, "mask before"), label_table(after, "mask after")
    shared = overlaps(first, second)
    first_area, second_area = shared.first_area[shared.first], shared.second_area[shared.second]
    is_pair = shared.pixels > _SAME_OBJECT * (first_area + second_area - shared.pixels)
    n_pairs, n_kept = int(is_pair.sum()), _n_equal(shared)
    counts = [int(np.count_nonzero(areas[1:])) for areas in (shared.first_area, shared.second_area)]
    # What was added is of no object of before: a number that none of them has.
    partner = np.full(second.size, first.size, np.int64)
    partner[0] = 0
    partner[shared.second[is_pair]] = shared.first[is_pair]
    n_px = int(np.count_nonzero(partner[second.mask] != first.mask))
    return Corrections(n_px, n_kept, n_pairs - n_kept, counts[1] - n_pairs, counts[0] - n_pairs)


def _n_equal(shared: Overlaps) -> int:
    first_area, second_area = shared.first_area[shared.first], shared.second_area[shared.second]
    return int(np.count_nonzero((shared.pixels == first_area) & (shared.pixels == second_area)))
