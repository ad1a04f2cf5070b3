"""Digests of what a tile shows: the same for the same counts, however they were saved, or however they are turned."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.compilation import compile_kernel

# Numbers of so many bytes are summed in 32 bits, so many of them at most; a part of a row stays in the fastest cache.
_SMALL: Final = 2
_MOST_SUMMED: Final = 1 << 16
_AT_ONCE: Final = 1 << 12


def pixels_sha256(pixels: NDArray[Any]) -> str:
    """SHA-256 of the shape and the values of a tile (channel, …, y, x).

    Counts of 8 bits saved with 16 are the same counts. Tiles whose channels are each of one value are alike: instead of
    a digest, it is said of them that they show nothing.
    """
    if not pixels.size or all(map(holds_one_value, pixels)):
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
    if not whole.size or all(map(holds_one_value, whole)):
        return 0
    rows, columns = map(_one_way, _summed(whole))
    digest = hashlib.sha256(b"|".join(sorted((rows, columns)))).digest()
    return int.from_bytes(digest[:8], "little", signed=True) or 1


def holds_one_value(plane: NDArray[Any]) -> bool:
    """Whether all pixels of a plane (…, y, x) are the same; of most planes the first row tells."""
    row = plane[(0,) * (plane.ndim - 1)]
    return bool((row == row[0]).all() and plane.min() == plane.max())


def turned_sha256(pixels: NDArray[Any]) -> str:
    """A digest of a tile (channel, …, y, x) that it shares with itself mirrored, or turned by right angles, alone."""
    across = np.swapaxes(pixels, -1, -2)
    return min(pixels_sha256(one[..., ::y, ::x]) for one in (pixels, across) for y in (1, -1) for x in (1, -1))


def _whole_numbers(pixels: NDArray[Any]) -> NDArray[Any]:
    """The bits of the pixels as whole numbers, whose sums do not depend on the order."""
    return pixels.view(f"u{pixels.dtype.itemsize}")


def _summed(whole: NDArray[Any]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Sums (channel, …, y) of rows and (channel, …, x) of columns; they wrap, as they do in any order."""
    rows, columns = (np.zeros((*whole.shape[:-2], length), np.uint64) for length in whole.shape[-2:])
    part = np.empty(whole.shape[-1], np.uint32 if whole.itemsize <= _SMALL else np.uint64)
    for place in np.ndindex(whole.shape[:-2]):
        _add_sums(np.ascontiguousarray(whole[place]), rows[place], columns[place], part)
    return rows, columns


@compile_kernel
def _add_sums(
    plane: NDArray[Any], rows: NDArray[np.uint64], columns: NDArray[np.uint64], part: NDArray[Any]
) -> None:  # fmt: skip
    """Adds the sums of a plane; `part` (x) is of the dtype that holds those of `_MOST_SUMMED` of its numbers."""
    for top in range(0, plane.shape[0], _MOST_SUMMED):
        part[:] = 0
        for row in range(top, min(top + _MOST_SUMMED, plane.shape[0])):
            for left in range(0, plane.shape[1], _AT_ONCE):
                line, below = plane[row, left : left + _AT_ONCE], part[left : left + _AT_ONCE]
                total = part.dtype.type(0)
                for place in range(line.size):
                    value = part.dtype.type(line[place])
                    below[place] += value
                    total = part.dtype.type(total + value)
                rows[row] += np.uint64(total)
        for place in range(part.size):
            columns[place] += np.uint64(part[place])


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
