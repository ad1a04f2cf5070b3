"""A digest of what a tile shows: the same for the same counts, however they were saved."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """SHA-256 of the shape and the values of a tile (channel, …, y, x).

    Counts of 8 bits saved with 16 are the same counts. Tiles whose channels are each of one value are alike: instead of
    a digest, it is said of them that they show nothing.
    """
    if not pixels.size or all(plane.min() == plane.max() for plane in pixels):
        return n.SHOWS_NOTHING
    digest = hashlib.sha256(repr(pixels.shape).encode())
    for plane in pixels:
        digest.update(np.ascontiguousarray(plane, _wide(plane.dtype)).data)
    return digest.hexdigest()


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Little-endian, and of at least 16 bits where values are whole."""
    if dtype.kind == "u" and dtype.itemsize < 2:
        return np.dtype("<u2")
    if dtype.kind == "i" and dtype.itemsize < 2:
        return np.dtype("<i2")
    return dtype.newbyteorder("<")
