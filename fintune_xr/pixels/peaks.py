"""From a map of probabilities to particle centres: peaks of a smoothed map, the highest first, none too close."""

from __future__ import annotations

from collections.abc import Sequence
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
_STRIP_ROWS: Final = 256


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
    return find_peaks(score, floor=floor, border_px=border_px, distance_px=separation * diameter_px)


def find_peaks(score: NDArray[np.float32], *, floor: float, border_px: float, distance_px: float) -> Peaks:
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
    return thin_peaks(Peaks(y[order], x[order], values[order]), distance_px=distance_px)


def thin_peaks(peaks: Peaks, *, distance_px: float) -> Peaks:
    """Those of `peaks`, which come highest first, that are no closer than `distance_px` to a higher one that stays."""
    kept = _greedy(peaks.yx, distance_px)
    return Peaks(peaks.y[kept], peaks.x[kept], peaks.score[kept])


def disc_mean(values: NDArray[np.floating], diameter_px: float) -> NDArray[np.float32]:
    """Mean (y, x) float32 of `values` in a disc of `diameter_px` around each pixel, of what lies in the map.

    Takes time in proportion to the diameter and memory for a strip of rows.
    """
    height, width = values.shape
    halves = _half_widths(diameter_px / 2, height)
    reach = len(halves) - 1
    means = np.empty((height, width), np.float32)
    for first in range(0, height, _STRIP_ROWS):
        last = min(first + _STRIP_ROWS, height)
        above, below = min(reach, first), min(reach, height - last)
        strip = values[first - above : last + below].astype(np.float64)
        sums = _disc_sums(np.pad(strip, ((reach - above, reach - below), (0, 0))), halves)
        means[first:last] = sums / _disc_areas(range(first, last), (height, width), halves)
    return means


def _half_widths(radius: float, height: int) -> list[int]:
    """How many columns a disc reaches to each side, in its middle row and in each of the rows below it."""
    return [int(np.sqrt(radius**2 - row**2)) for row in range(min(int(radius), height - 1) + 1)]


def _disc_sums(padded: NDArray[np.float64], halves: Sequence[int]) -> NDArray[np.float64]:
    """Sums over the discs around the pixels (y, x) that are left when the rows put above and below are taken away."""
    reach, width = len(halves) - 1, padded.shape[1]
    rows = len(padded) - 2 * reach
    side = halves[0] + 1
    from_left = np.pad(np.cumsum(padded, axis=1), ((0, 0), (side, 0)))
    from_left = np.pad(from_left, ((0, 0), (0, side)), mode="edge")
    sums = np.zeros((rows, width))
    for shift, half in enumerate(halves):
        last, before = side + half, side - half - 1
        in_row = from_left[:, last : last + width] - from_left[:, before : before + width]
        sums += in_row[reach + shift : reach + shift + rows]
        if shift:
            sums += in_row[reach - shift : reach - shift + rows]
    return sums


def _disc_areas(rows: range, shape: tuple[int, int], halves: Sequence[int]) -> NDArray[np.float64]:
    """Pixels of the map in the disc around each pixel (y, x) of `rows`."""
    height, width = shape
    y, x = np.array(rows)[:, None], np.arange(width)
    shifts = np.arange(1 - len(halves), len(halves))
    has_row = (y + shifts >= 0) & (y + shifts < height)
    half = np.array(halves)[np.abs(shifts)][:, None]
    columns = np.minimum(x + half, width - 1) - np.maximum(x - half, 0) + 1
    return np.asarray(has_row.astype(np.float64) @ columns.astype(np.float64))


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


def _summit(before: NDArray[np.float64], here: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    bend = before - 2 * here + after
    flat = ~(bend < -_SHOULDER)  # also NaN, beyond the edge
    return np.where(flat, 0.0, np.clip((before - after) / np.where(flat, 1.0, 2 * bend), -0.5, 0.5))


def _greedy(yx: NDArray[np.float64], distance_px: float) -> NDArray[np.int64]:
    """Positions of points that stay when each, from the first on, drops the later ones closer than `distance_px`."""
    if len(yx) == 0:
        return np.empty(0, np.int64)
    # Only points that stay are asked for their neighbours: a rough map has millions of candidates close together.
    tree = cKDTree(yx)
    dropped = np.zeros(len(yx), np.bool_)
    kept = []
    for point in range(len(yx)):
        if not dropped[point]:
            kept.append(point)
            near = np.array(tree.query_ball_point(yx[point], distance_px), np.int64)
            dropped[near[np.linalg.norm(yx[near] - yx[point], axis=1) < distance_px]] = True
    return np.array(kept, np.int64)
