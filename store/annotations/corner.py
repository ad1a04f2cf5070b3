"""Whether things lie in one corner of all their pictures alone, as they do where lengths were taken for pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Things that all lie within this share of height and width, from the upper left, hardly fill pictures of this size ...
_CORNER: Final = 0.75
# ... where so many that lay anywhere would do so by chance less often than this.
_CHANCE: Final = 1e-4


def only_in_corner(reach: Sequence[NDArray[np.float64]], what: str, unit: str) -> str:
    """Why numbers are hardly px of their pictures; empty where they can be. `unit` is the usual other one.

    `reach` holds, for each picture, how far each thing reaches in it, (thing, 2) as shares of height and width.
    """
    ends: NDArray[Any] = np.concatenate([np.empty((0, 2)), *reach])
    if not len(ends):
        return ""
    y, x = np.clip(ends.max(axis=0), 1e-9, None)
    if max(y, x) >= _CORNER or (y * x) ** len(ends) > _CHANCE:
        return ""
    return (
        f"all {len(ends)} {what} lie in the first {100 * y:.0f}% of the rows and {100 * x:.0f}% of the columns. Are "
        f"they {unit} (--unit {unit}), or px of a smaller picture (--scale)? --unit px takes them as they are."
    )
