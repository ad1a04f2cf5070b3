"""Labels as plain strings: stored ones are NumPy's variable-length text, which does not cast to others."""

from __future__ import annotations

import unicodedata

import numpy as np
import xarray as xr
from numpy.typing import NDArray


def texts(labels: xr.DataArray) -> list[str]:
    """Values of a one-dimensional label array as Python strings."""
    return [str(value) for value in labels.values.tolist()]


def text_array(labels: xr.DataArray) -> NDArray[np.str_]:
    """The same as a NumPy array of fixed-width text."""
    return np.array(texts(labels), dtype=np.str_)


def one_spelling(text: str) -> str:
    """`text` with its letters composed (Unicode's NFC): macOS writes `ü` as two characters, others as one."""
    return unicodedata.normalize("NFC", text)
