"""What a network is sure of, as labels for the next one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.discs import TARGET_DTYPE, UNKNOWN


def pseudo_target(probability: NDArray[np.floating], *, positive: float, negative: float) -> NDArray[np.int8]:
    """Labels (y, x) int8: 1 where `probability` is `positive` or more, 0 where it is `negative` or less, else -1.

    Raises FintuneValueError unless 0 <= negative < positive <= 1.
    Reference: Lee 2013, Pseudo-Label, ICML workshop on challenges in representation learning.
    """
    if not 0 <= negative < positive <= 1:
        raise FintuneValueError(
            f"thresholds of pseudo-labels: expected 0 <= negative < positive <= 1, got negative {negative} and "
            f"positive {positive}"
        )
    labels = np.full(probability.shape, UNKNOWN, TARGET_DTYPE)
    labels[probability >= positive] = 1
    labels[probability <= negative] = 0
    return labels
