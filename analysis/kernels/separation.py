"""Whether a threshold on a histogram of log signal has a population on each of its sides, on plain arrays."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fintune_xr.analysis.kernels.thresholds import CENTRES, EDGES, MIN_CELLS, Counts, Floats, two_components

APART: Final = 2.0
"""Ashman's D from which two populations count as apart."""

# A density that falls from 0 on has an eighth of its mass below a quarter of its median; half of it is left to chance.
_LEFT_OF_FALLING: Final = 1 / 16


class Separation(NamedTuple):
    """Ashman's D of the two fitted populations of each histogram, and whether the threshold lies between them.

    Both are unknown, NaN and true, of histograms without a threshold.
    """

    distance: Floats
    is_between: NDArray[np.bool_]


def separation(counts: Counts, threshold: Floats) -> Separation:
    """How far the populations of each histogram `counts` (..., bin) are apart, and whether `threshold` (...) in counts
    tells them from each other.

    Two Gaussians are fitted to log signal. D is the distance of their means in units of their widths; above 2 they are
    two modes (Ashman, Bird & Zepf 1994, Astron. J. 108:2348). A threshold lies within one of them where most cells
    above it are of the lower population, or most of the upper population are below it. Cells no brighter than the
    background, which are in the first bin, take no part in the fit: they are a population of their own where they are
    many and hardly any cell is just above them, which no single mode at 0 allows.
    """
    shape = counts.shape[:-1]
    flat, limit = counts.reshape(-1, counts.shape[-1]), np.asarray(threshold, np.float64).reshape(-1)
    distance, is_between = np.full(limit.size, np.nan), np.ones(limit.size, bool)
    at = np.flatnonzero(~np.isnan(limit))
    if at.size:
        distance[at], is_between[at] = _of_known(flat[at], np.log1p(limit[at]))
    return Separation(distance.reshape(shape), is_between.reshape(shape))


def _of_known(counts: Counts, limit: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    above = counts.copy()
    above[:, 0] = 0
    distance, between = np.zeros(limit.size), np.zeros(limit.size, bool)
    fit = np.flatnonzero((above.sum(axis=-1) >= MIN_CELLS) & ((above > 0).sum(axis=-1) > 1))
    if fit.size:
        weight, mean, variance = two_components(above[fit])
        width = np.sqrt(variance)
        distance[fit] = np.sqrt(2) * (mean[:, 1] - mean[:, 0]) / np.sqrt(variance.sum(axis=1))
        over = weight * norm.sf((limit[fit, None] - mean) / width)
        between[fit] = (distance[fit] > APART) & (over[:, 1] > over[:, 0]) & (2 * over[:, 1] > weight[:, 1])
    return distance, between | _is_zero_apart(counts, limit)


def zero_apart(counts: Counts, threshold: Floats) -> NDArray[np.bool_]:
    """Whether the cells in the first bin of each histogram `counts` (..., bin), those no brighter than the background,
    are a population apart from all others, and `threshold` (...) in counts lies between the two.
    """
    flat, limit = counts.reshape(-1, counts.shape[-1]), np.asarray(threshold, np.float64).reshape(-1)
    return _is_zero_apart(flat, np.log1p(limit)).reshape(counts.shape[:-1])


def _is_zero_apart(counts: Counts, limit: Floats) -> NDArray[np.bool_]:
    above = np.cumsum(counts[:, 1:], axis=-1)
    total = np.maximum(above[:, -1], 1)
    median = np.expm1(CENTRES[1:])[np.argmax(2 * above >= total[:, None], axis=-1)]
    quarter = np.maximum(np.searchsorted(EDGES, np.log1p(median / 4)) - 2, 0)
    near = above[np.arange(len(above)), quarter]
    apart = (above[:, -1] >= MIN_CELLS) & (near < _LEFT_OF_FALLING * total) & (counts[:, 0] > 2 * near)
    over = np.where(EDGES[1:-1] >= limit[:, None], counts[:, 1:], 0).sum(axis=-1)
    return np.asarray(apart & (2 * over > total))
