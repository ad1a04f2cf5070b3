"""From a map of probabilities to particle centres: peaks of a smoothed map, the highest first, none too close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from fintune_xr.errors import FintuneValueError

SCORE_DISC: Final = 0.7
"""Diameter of the disc that a score is the mean of, as a part of the particle's diameter.

On discs drawn at the annotated centres of EMPIAR-10017, which overlap (the median nearest neighbour is 0.87 diameters
away), a whole disc merges neighbours and half a disc finds several peaks in one particle.
"""

SEPARATION: Final = 0.6
"""Least distance of two picks, as a part of the particle's diameter."""

_SHOULDER: Final = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Picked centres, highest score first: `y`, `x` (peak,) float32 in px; `score` (peak,) float32 in 0-1."""

    y: NDArray[np.float32]
    x: NDArray[np.float32]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.score.size)

    @property
    def yx(self) -> NDArray[np.float64]:
        """Centres (peak, 2) as (y, x) in px."""
        return np.column_stack([self.y, self.x]).astype(np.float64)

    def above(self, threshold: float) -> Peaks:
        """Those that score `threshold` or more: what picking with that floor gives."""
        has = self.score >= np.float32(threshold)
        return Peaks(self.y[has], self.x[has], self.score[has])


def pick_peaks(
    probability: NDArray[np.floating],
    *,
    diameter_px: float,
    floor: float,
    border_px: float = 0.0,
    separation: float = SEPARATION,
) -> Peaks:
    """Peaks of a probability map (y, x) that score `floor` or more, by greedy non-maximum suppression.

    The score of a pixel is the mean probability in the disc of `SCORE_DISC` times `diameter_px` around it, over those
    of its pixels that lie in the map. Candidates are the local maxima of the score (of a level summit its first
    pixel) at least `border_px` from the edge, moved to the top of the parabola through the neighbours. They are taken
    from the highest score down, equal ones from the top left; one closer than `separation` times `diameter_px` to
    a taken one is dropped. A candidate never depends on a lower one, so peaks at a threshold are the peaks at any lower
    floor that reach the threshold (`Peaks.above`): they can be stored once and the threshold chosen later.

    Raises FintuneValueError for a map that is not (y, x), holds NaN, or lies outside 0-1; for lengths below 0.
    Reference: Neubeck & Van Gool 2006, Efficient non-maximum suppression, ICPR.
    """
    _check(probability, diameter_px, border_px, separation)
    score = disc_mean(probability, SCORE_DISC * diameter_px)
    return separated(score, floor=floor, border_px=border_px, distance_px=separation * diameter_px)


def separated(score: NDArray[np.float32], *, floor: float, border_px: float, distance_px: float) -> Peaks:
    """Local maxima of `score` (y, x) that reach `floor`, thinned greedily so that none is closer than `distance_px`.

    Candidates and their order as in `pick_peaks`, for any score.
    """
    rows, columns = np.nonzero(_local_maxima(score) & (score >= np.float32(floor)))
    y, x = _refined(score, rows, columns)
    height, width = score.shape
    inside = (np.minimum(y, height - 1 - y) >= border_px) & (np.minimum(x, width - 1 - x) >= border_px)
    rows, columns, y, x = rows[inside], columns[inside], y[inside], x[inside]
    values = score[rows, columns]
    order = np.lexsort((columns, rows, -values))
    return thinned(Peaks(y[order], x[order], values[order]), distance_px=distance_px)


def thinned(peaks: Peaks, *, distance_px: float) -> Peaks:
    """Those of `peaks`, which come highest first, that are no closer than `distance_px` to a higher one that stays."""
    kept = _greedy(peaks.yx, distance_px)
    return Peaks(peaks.y[kept], peaks.x[kept], peaks.score[kept])


def disc_mean(values: NDArray[np.floating], diameter_px: float) -> NDArray[np.float32]:
    """Mean (y, x) float32 of `values` in a disc of `diameter_px` around each pixel, of what lies in the map."""
    whole = np.asarray(values, np.float64)
    height, width = whole.shape
    sums, areas = np.zeros_like(whole), np.zeros(whole.shape, np.int32)
    from_left = np.zeros((height, width + 1))
    np.cumsum(whole, axis=1, out=from_left[:, 1:])
    at = np.arange(width)
    radius = diameter_px / 2
    for shift in range(-min(int(radius), height - 1), min(int(radius), height - 1) + 1):
        half = int(np.sqrt(radius**2 - shift**2))
        first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, width)
        source = slice(max(0, shift), height + min(0, shift))
        target = slice(max(0, -shift), height + min(0, -shift))
        sums[target] += from_left[source][:, last] - from_left[source][:, first]
        areas[target] += last - first
    return (sums / areas).astype(np.float32)


def _check(probability: NDArray[np.floating], diameter_px: float, border_px: float, separation: float) -> None:
    if probability.ndim != 2 or probability.dtype.kind != "f":
        raise FintuneValueError(
            f"probability: expected floats (y, x), got {probability.dtype} of shape {probability.shape}"
        )
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise FintuneValueError(
            f"probability: expected values from 0 to 1, got {probability.min()} to {probability.max()}. "
            "Apply the sigmoid first; pass the valid part of the tile only."
        )
    if not (0 < diameter_px < np.inf and 0 <= border_px < np.inf and 0 <= separation < np.inf):
        raise FintuneValueError(
            f"expected a diameter above 0 px, border and separation of 0 or more; got {diameter_px}, {border_px}, "
            f"{separation}"
        )


def _local_maxima(score: NDArray[np.float32]) -> NDArray[np.bool_]:
    """No neighbour is higher and none before it, in reading order, is as high: one pixel at least of each summit."""
    before = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], np.bool_)
    highest_before = ndimage.maximum_filter(score, footprint=before, mode="constant", cval=-np.inf)
    highest_after = ndimage.maximum_filter(score, footprint=before[::-1, ::-1], mode="constant", cval=-np.inf)
    found: NDArray[np.bool_] = (score > highest_before) & (score >= highest_after)
    return found


def _refined(
    score: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows and columns moved by up to half a pixel, to the top of the parabola along each axis."""
    padded = np.pad(score.astype(np.float64), 1, constant_values=np.nan)
    y, x = rows + 1, columns + 1
    here = padded[y, x]
    vertical = _summit(padded[y - 1, x], here, padded[y + 1, x])
    horizontal = _summit(padded[y, x - 1], here, padded[y, x + 1])
    return (rows + vertical).astype(np.float32), (columns + horizontal).astype(np.float32)


def _summit(
    before: NDArray[np.float64], here: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    bend = before - 2 * here + after
    flat = ~(bend < -_SHOULDER)  # also NaN, beyond the edge
    return np.where(flat, 0.0, np.clip((before - after) / np.where(flat, 1.0, 2 * bend), -0.5, 0.5))


def _greedy(yx: NDArray[np.float64], distance_px: float) -> NDArray[np.int64]:
    """Positions of points that stay when each, from the first on, drops the later ones closer than `distance_px`."""
    if len(yx) == 0:
        return np.empty(0, np.int64)
    pairs = cKDTree(yx).query_pairs(distance_px, output_type="ndarray")
    near = np.linalg.norm(yx[pairs[:, 0]] - yx[pairs[:, 1]], axis=1) < distance_px
    pairs = np.sort(pairs[near], axis=1)
    first = np.searchsorted(pairs[np.argsort(pairs[:, 0], kind="stable"), 0], np.arange(len(yx) + 1))
    later = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    dropped = np.zeros(len(yx), np.bool_)
    for point in range(len(yx)):
        if not dropped[point]:
            dropped[later[first[point] : first[point + 1]]] = True
    return np.flatnonzero(~dropped)
