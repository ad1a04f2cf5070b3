"""Particles as discs: points with diameters turned into a target of each pixel, on plain arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError

UNKNOWN: Final = -1
TARGET_DTYPE: Final = np.int8


def disc_target(
    points: NDArray[np.floating] | NDArray[np.integer],
    diameters_px: NDArray[np.floating] | NDArray[np.integer],
    shape: tuple[int, int],
    *,
    rim_px: float = 0.0,
) -> NDArray[np.int8]:
    """Target (y, x) int8: 1 inside any disc, -1 in a rim of `rim_px` around the discs, 0 elsewhere.

    `points` (point, 2) are centres (y, x) in px, whole numbers being centres of pixels; `diameters_px` (point,).
    A pixel belongs to a disc where its centre is no farther than half the diameter from the disc's, equality
    included: this is how the masks of CryoSegNet were drawn. Discs may reach over the edge and may overlap; a pixel
    inside one disc is 1 even in the rim of another.

    Raises FintuneValueError where points and diameters do not fit together, are not finite, or are not positive.
    """
    centres, radii = _checked(points, diameters_px, rim_px)
    inside = _union(centres, radii, shape)
    target = inside.astype(TARGET_DTYPE)
    if rim_px > 0:
        target[_union(centres, radii + rim_px, shape) & ~inside] = UNKNOWN
    return target


def _checked(
    points: NDArray[np.floating] | NDArray[np.integer],
    diameters_px: NDArray[np.floating] | NDArray[np.integer],
    rim_px: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centres = np.asarray(points, np.float64).reshape(-1, 2)
    radii = np.asarray(diameters_px, np.float64).reshape(-1) / 2
    if len(centres) != len(radii):
        raise FintuneValueError(
            f"discs: expected one diameter for each point, got {len(radii)} for {len(centres)} points."
        )
    if not (np.isfinite(centres).all() and np.isfinite(radii).all() and (radii > 0).all()):
        raise FintuneValueError("discs: expected finite points and diameters above 0 px. Correct the annotation.")
    if not 0 <= rim_px < np.inf:
        raise FintuneValueError(f"rim_px: expected 0 or more px, got {rim_px}")
    return centres, radii


def _union(centres: NDArray[np.float64], radii: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    found = np.zeros(shape, np.bool_)
    for (y, x), radius in zip(centres, radii, strict=True):
        rows, columns = (_span(at, radius, size) for at, size in zip((y, x), shape, strict=True))
        distance = np.add.outer((np.arange(*rows) - y) ** 2, (np.arange(*columns) - x) ** 2)
        found[slice(*rows), slice(*columns)] |= distance <= radius**2
    return found


def _span(at: float, radius: float, size: int) -> tuple[int, int]:
    """First row or column that a disc may touch, and the one after the last; empty where it lies outside."""
    first = min(size, max(0, int(np.floor(at - radius))))
    return first, max(first, min(size, int(np.ceil(at + radius)) + 1))
