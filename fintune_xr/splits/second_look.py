"""A second look at two planes that a hash calls alike: whether their details lie on each other."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.splits.image_hash import Floats, shrunk

# Planes are compared at this size; copies that were saved smaller or noisier still agree there.
SIDE: Final = 128
# What is wider than this share of a plane is light and shade that many fields share, and no detail.
_BROAD: Final = 1 / 24
# Copies that are moved by more than this share of a side are crops, and no copies.
_MOST_MOVED: Final = 1 / 16
# Copies of crops of 48 px and of whole fields (gain, JPEG, turned, moved) reach 0.6 and more, different cells 0.53.
COPY: Final = 0.6


def likeness(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Correlation of the details of two planes (y, x), however one of them is turned and a little moved; -1 to 1.

    Both are shrunk to `SIDE` px, light and shade are taken away, and the best of the eight orientations of the square
    and of small shifts counts.
    """
    first, second = (_details(plane) for plane in (one, other))
    turned = [turn[:, ::step] for base in (second, second.T) for turn in (base, base[::-1]) for step in (1, -1)]
    return max(_best_shift(first, plane) for plane in turned)


def likeness_in_place(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """As `likeness`, of planes that are not turned against each other."""
    return _best_shift(_details(one), _details(other))


def _details(plane: NDArray[np.generic]) -> Floats:
    from scipy.ndimage import gaussian_filter

    small = shrunk(plane, min(SIDE, *plane.shape))
    fine = small - gaussian_filter(small, _BROAD * len(small))
    # A few bright specks must not decide alone.
    low, high = np.percentile(fine, (1, 99))
    fine = fine.clip(low, high)
    spread = fine.std()
    return np.zeros_like(fine) if spread == 0 else (fine - fine.mean()) / spread


def _best_shift(one: Floats, other: Floats) -> float:
    if one.shape != other.shape:
        side = min(len(one), len(other))
        one, other = shrunk(one, side), shrunk(other, side)
    product = np.fft.rfft2(one) * np.conj(np.fft.rfft2(other))
    every = np.fft.irfft2(product, s=one.shape) / one.size
    most = max(1, int(_MOST_MOVED * len(one)))
    near = np.concatenate([every[: most + 1], every[-most:]])
    return float(np.concatenate([near[:, : most + 1], near[:, -most:]], axis=1).max())
