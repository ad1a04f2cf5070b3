"""The side of a stored pixel in um, whatever the cohort is of, and how TIFF says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n

_UM_OF: Final[Mapping[str, float]] = {n.MPP: 1.0, n.PIXEL_SIZE_A: 1e-4}
_UM_IN_CM: Final = 1e4
UM2_IN_MM2: Final = 1e6


def sides_um(images: xr.Dataset) -> NDArray[np.float64]:
    """Side in um of a stored pixel of each tile of `images` (tile,), or of its only one; 0 where it is not known."""
    for column, factor in _UM_OF.items():
        if column in images.coords:
            return np.asarray(images[column].values * factor, np.float64)
    return np.zeros(images[n.TILE].shape)


def resolution(side_um: float) -> dict[str, Any]:
    """Arguments with which tifffile writes the size of a pixel; none where it is not known."""
    if not side_um > 0:
        return {}
    return {"resolution": (_UM_IN_CM / side_um,) * 2, "resolutionunit": "CENTIMETER"}
