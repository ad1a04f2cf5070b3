"""Codes of classes out of colours: each pixel of a colour-coded mask is of the class that the legend draws so."""

from __future__ import annotations

from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.tasks.legends import Legend, colour_of, colour_text

# How many colours are named, and how far from a straight line between two colours rounding puts their blends.
_SHOWN: Final = 4
_ROUNDING: Final = 1.0


def codes_of_colours(colours: NDArray[np.uint8], legend: Legend) -> NDArray[np.uint8]:
    """Codes (y, x) of the classes whose colours the pixels (y, x, red green blue) have.

    Raises TileReadError where pixels have a colour that the legend lacks, with the counts; blends of two of its
    colours, as smoothed edges have them, are named as such.
    """
    packed = _packed(colours.reshape(-1, 3))
    known = _packed(np.array(legend.colours, np.uint8))
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], packed), known.size - 1)
    unknown = known[order][at] != packed
    if unknown.any():
        raise TileReadError(_unknown(packed[unknown], packed.size, legend))
    codes = np.array([code for code, _ in legend.rows], np.uint8)
    return codes[order][at].reshape(colours.shape[:2])


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    red, green, blue = colours.astype(np.uint32).T
    packed: NDArray[np.uint32] = (red << 16) | (green << 8) | blue
    return packed


def _unknown(packed: NDArray[np.uint32], n_px: int, legend: Legend) -> str:
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    values, counts = values[order], counts[order]
    names = [colour_text(colour_of(f"{value:06x}")) for value in values[:_SHOWN].tolist()]
    listed = ", ".join(f"{name} ({count:,} px)" for name, count in zip(names, counts.tolist(), strict=False))
    more = f" and {values.size - _SHOWN} more" if values.size > _SHOWN else ""
    told = f"unknown colours: {packed.size:,} of {n_px:,} pixels have none of the legend: {listed}{more}"
    is_blend = blends(values, legend)
    if not is_blend.any():
        return told
    return (
        f"{told}. {int(counts[is_blend].sum()):,} of them lie between two colours of the legend, as anti-aliased or "
        "resampled edges do: export the masks in their own size, without smoothing"
    )


def blends(packed: NDArray[np.uint32], legend: Legend) -> NDArray[np.bool_]:
    """Which of these colours lie on the straight line between two of the legend's, up to rounding."""
    points = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.float64)
    found = np.zeros(packed.size, bool)
    for first, second in combinations(np.array(legend.colours, np.float64), 2):
        line = second - first
        share = np.clip((points - first) @ line / (line @ line), 0.0, 1.0)
        away = [np.abs(points - near).max(axis=1) for near in (first + share[:, None] * line, first, second)]
        found |= (away[0] <= _ROUNDING) & (np.minimum(*away[1:]) > _ROUNDING)
    return found
