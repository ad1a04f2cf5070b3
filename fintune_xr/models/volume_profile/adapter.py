"""The floor under every encoder of volumes: means and standard deviations along each axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def volume_profile(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean, then standard deviation, of the planes across z, across y and across x of `volume` (1, z, y, x).

    Shape (2 (z + y + x),): first all means, z before y before x, then all standard deviations.
    """
    (values,) = volume.astype(np.float64)
    axes = ((1, 2), (0, 2), (0, 1))
    means = [values.mean(axis) for axis in axes]
    spreads = [values.std(axis) for axis in axes]
    return np.concatenate([*means, *spreads]).astype(np.float32)
