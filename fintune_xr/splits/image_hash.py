"""Hashes of images that copies keep: another gain, compression or depth, mirrored, or turned by right angles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HASH_SIDE: Final = 32
HASH_KEPT: Final = 16
N_BITS: Final = HASH_KEPT**2
FEWEST_PLACES: Final = 16
"""Of the 32 x 32 places of a shrunk plane, how many must differ from most others: fewer may be dust or hot pixels."""


@dataclass(frozen=True, eq=False)
class Looks:
    """What tiles look like: `words` (tile, channel, orientation, word) of their hashes, `told` (tile, channel).

    A plane without contrast is not told from another one. Orientation 0 is the plane as it is.
    """

    channels: tuple[str, ...]
    words: NDArray[np.uint64]
    told: NDArray[np.bool_]

    def differing(self, tile: int, others: NDArray[np.intp]) -> NDArray[np.int64]:
        """Bits (other, channel) in which a tile differs from others, however turned; N_BITS for a plane not told."""
        apart = np.bitwise_count(self.words[others] ^ self.words[tile, :, :1])
        fewest = apart.sum(axis=-1, dtype=np.int64).min(axis=-1)
        return np.where(self.told[others] & self.told[tile], fewest, N_BITS)


def looks(tiles: Iterable[NDArray[np.generic]], channels: Sequence[str]) -> Looks:
    """The hashes of `tiles`, each (channel, y, x) of a size of its own; one is held at a time."""
    words, told = [], []
    for planes in tiles:
        small = [shrunk(plane) for plane in planes]
        words.append([np.packbits(perceptual_hashes(one), axis=-1).view(np.uint64) for one in small])
        told.append([has_contrast(one) for one in small])
    shape = (len(told), len(channels))
    packed = np.array(words, np.uint64).reshape(*shape, 8, N_BITS // 64)
    return Looks(tuple(channels), packed, np.array(told, bool).reshape(shape))


def shrunk(plane: NDArray[np.generic], side: int = HASH_SIDE) -> Floats:
    """Means (side, side) of a plane (y, x) over equal areas; the mirrored plane gives the mirrored means."""
    edges = [np.linspace(0, length, side + 1) for length in plane.shape]
    return area_means(plane, *edges)


def area_means(plane: NDArray[np.generic], y: Floats, x: Floats) -> Floats:
    """Means of a plane (y, x) over the areas between neighbours of the edges `y` and `x`, in px from its corner."""
    height, width = plane.shape
    means: Floats = _areas(height, y) @ plane.astype(np.float64) @ _areas(width, x).T
    return means


def perceptual_hashes(small: Floats) -> NDArray[np.bool_]:
    """Hashes (orientation, bit) of a shrunk plane in the 8 orientations of the square, as it is first.

    Signs of the 16 x 16 lowest frequencies of the cosine transform but the mean: the pHash of Zauner 2010, around zero
    in the place of the median. Mirroring an axis changes the signs of its odd frequencies, so all 8 come from one
    transform.
    """
    from scipy.fft import dctn

    low = dctn(small, norm="ortho")[:HASH_KEPT, :HASH_KEPT]
    low[0, 0] = 0.0
    odd = (-1.0) ** np.arange(HASH_KEPT)
    mirrored = [one * y[:, None] * x for one in (low, low.T) for y in (odd**2, odd) for x in (odd**2, odd)]
    return np.array(mirrored).reshape(8, N_BITS) > 0


def has_contrast(small: Floats) -> bool:
    """Whether a shrunk plane shows anything in more than a few places."""
    rounding = 1e-9 * np.abs(small).max()
    return int((np.abs(small - np.median(small)) > rounding).sum()) >= FEWEST_PLACES


def _areas(length: int, edges: Floats) -> Floats:
    """Share (place, pixel) of each of `length` pixels in the mean of what lies between two edges along an axis."""
    pixel = np.arange(length)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return covered.clip(0) / np.diff(edges)[:, None]
