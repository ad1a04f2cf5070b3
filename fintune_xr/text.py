"""Labels as plain strings: stored ones are NumPy's variable-length text, which does not cast to others."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def texts(labels: xr.DataArray) -> list[str]:
    """Values of a one-dimensional label array as Python strings."""
    return [str(value) for value in labels.values.tolist()]


def text_array(labels: xr.DataArray) -> NDArray[np.str_]:
    """The same as a NumPy array of fixed-width text."""
    return np.array(texts(labels), dtype=np.str_)
