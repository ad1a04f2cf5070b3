"""Digests of what a tile shows: the same for the same counts, however they were saved, or however they are turned."""

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


def pixel_labels(pixels: NDArray[Any]) -> dict[str, Any]:
    """What the store tells of the pixels of a tile (channel, …, y, x), by the names of its columns."""
    return {n.PIXELS_SHA256: pixels_sha256(pixels), n.PROFILE: profile(pixels)}


def profile(pixels: NDArray[Any]) -> int:
    """64 bits of the sums of rows and columns of each channel of a tile (channel, …, y, x), never 0 but where it shows
    nothing: the same for the tile mirrored, or turned by right angles.

    They cost one look at the pixels. Two tiles of one profile need not be the same: `turned_sha256` tells.
    """
    whole = _whole_numbers(pixels)
    if not whole.size or all(plane.min() == plane.max() for plane in whole):
        return 0
    rows, columns = (_one_way(_summed(whole, axis)) for axis in (-1, -2))
    digest = hashlib.sha256(b"|".join(sorted((rows, columns)))).digest()
    return int.from_bytes(digest[:8], "little", signed=True) or 1


def turned_sha256(pixels: NDArray[Any]) -> str:
    """A digest of a tile (channel, …, y, x) that it shares with itself mirrored, or turned by right angles, alone."""
    across = np.swapaxes(pixels, -1, -2)
    return min(pixels_sha256(one[..., ::y, ::x]) for one in (pixels, across) for y in (1, -1) for x in (1, -1))


def _whole_numbers(pixels: NDArray[Any]) -> NDArray[Any]:
    """The bits of the pixels as whole numbers, whose sums do not depend on the order."""
    return pixels.view(f"u{pixels.dtype.itemsize}")


def _summed(whole: NDArray[Any], axis: int) -> NDArray[np.uint64]:
    """Sums (channel, …, y or x) along the last axis or the one before it; they wrap, as they do in any order."""
    return np.add.reduce(whole, axis=axis, dtype=np.uint64)  # type: ignore[no-any-return]


def _one_way(sums: NDArray[np.uint64]) -> bytes:
    """Sums (channel, …, place) along one axis, from whichever of its ends comes first as bytes."""
    return min(np.ascontiguousarray(one, "<u8").tobytes() for one in (sums, sums[..., ::-1]))


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Little-endian, and of at least 16 bits where values are whole."""
    if dtype.kind == "u" and dtype.itemsize < 2:
        return np.dtype("<u2")
    if dtype.kind == "i" and dtype.itemsize < 2:
        return np.dtype("<i2")
    return dtype.newbyteorder("<")
