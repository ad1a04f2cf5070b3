"""Agreement of picked with annotated particles: centres matched one to one within a distance, on plain arrays.

What is counted here are particles. Scores of pixels on disc masks, which other authors report for the same task, are
in `fintune_xr.metrics.pixels`; the two differ a lot and are never mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import f1, precision, recall


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Picks of one tile held against its annotated particles.

    `score` (pick,) float32, highest first; `is_hit` (pick,) whether the pick adds a particle to those that its
    predecessors found; `n_true` annotated particles.
    """

    score: NDArray[np.float32]
    is_hit: NDArray[np.bool_]
    n_true: int

    def counts(self, threshold: float = -np.inf) -> tuple[int, int, int]:
        """True positives, false positives and false negatives of the picks that score `threshold` or more."""
        has = self.score >= np.float32(threshold)
        tp = int(np.count_nonzero(self.is_hit & has))
        return tp, int(np.count_nonzero(has)) - tp, self.n_true - tp


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Counts of particles of one or more tiles together at each threshold, from the highest threshold down.

    `threshold` (threshold,) float32, every score that occurs; `tp`, `fp`, `fn` (threshold,) int64.
    """

    threshold: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """tp / (tp + fp)."""
        return precision(self.tp, self.fp, self.fn)

    @property
    def recall(self) -> NDArray[np.float64]:
        """tp / (tp + fn): NaN where nothing is annotated."""
        return recall(self.tp, self.fp, self.fn)

    @property
    def f1(self) -> NDArray[np.float64]:
        """2 tp / (2 tp + fp + fn)."""
        return f1(self.tp, self.fp, self.fn)


def match_points(
    true: NDArray[np.floating], found: NDArray[np.floating], score: NDArray[np.floating], *, distance_px: float
) -> Found:
    """Which picks `found` (pick, 2) hit a particle of `true` (particle, 2), for every threshold on `score` at once.

    A pick may be matched to a particle no farther than `distance_px`; each is matched once, and as many are matched as
    can be. Picks are taken in order of falling score, and one is a hit if there is an augmenting path from it: the
    matchings of the picks before it and of it together then hold one pair more. So the hits among the picks of any
    threshold are as many as a largest matching of those picks has pairs.

    Raises FintuneValueError for points that are not finite pairs or a distance below 0.
    Reference: Kuhn 1955, Naval Research Logistics Quarterly 2:83; Edmonds & Fulkerson 1965, Transversals and matroid
    partition, J. Res. NBS 69B:147 (why earlier picks never have to be given up).
    """
    particles, picks = _points(true, "true"), _points(found, "found")
    scores = np.asarray(score, np.float32).reshape(-1)
    if len(scores) != len(picks):
        raise FintuneValueError(f"expected one score for each pick, got {len(scores)} for {len(picks)} picks")
    if not 0 <= distance_px < np.inf:
        raise FintuneValueError(f"distance_px: expected 0 or more px, got {distance_px}")
    order = np.argsort(-scores, kind="stable")
    is_hit = np.zeros(len(picks), np.bool_)
    if len(picks) and len(particles):
        near = cKDTree(particles).query_ball_point(picks[order], distance_px, return_sorted=True)
        matched: dict[int, int] = {}
        for pick in range(len(picks)):
            is_hit[pick] = _augment(pick, near, matched)
    return Found(scores[order], is_hit, len(particles))


def threshold_curve(tiles: Sequence[Found]) -> Curve:
    """Counts of all `tiles` together at every score that occurs in one of them; no thresholds without picks."""
    scores = np.concatenate([np.empty(0, np.float32), *(tile.score for tile in tiles)])
    hits = np.concatenate([np.empty(0, np.bool_), *(tile.is_hit for tile in tiles)])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    # Equal scores cannot be told apart by a threshold: only the last of them is a place on the curve.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], [True] * bool(scores.size)))
    tp = np.cumsum(hits[order], dtype=np.int64)[last]
    n_true = sum(tile.n_true for tile in tiles)
    return Curve(scores[last], tp, last + 1 - tp, n_true - tp)


def best_threshold(curve: Curve) -> float:
    """The threshold of the highest F1, the highest such threshold where several have it.

    Raises FintuneValueError where nothing was picked or nothing is annotated: no threshold is better than another.
    """
    if curve.threshold.size == 0 or not np.any(curve.tp + curve.fn):
        raise FintuneValueError(
            "no threshold can be chosen: expected picks and annotated particles in the part that it is chosen on, "
            f"found {curve.threshold.size} thresholds and {int(np.max(curve.tp + curve.fn, initial=0))} particles. "
            "Annotate micrographs of that part, or give the threshold."
        )
    return float(curve.threshold[int(np.argmax(curve.f1))])


def average_precision(curve: Curve) -> float:
    """Area under precision over recall, each step of recall at the precision reached there; NaN without particles.

    Particles that no pick finds count 0. Not interpolated, as in scikit-learn's `average_precision_score`.
    """
    n_true = int(np.max(curve.tp + curve.fn, initial=0))
    if n_true == 0:
        return float("nan")
    steps = np.diff(curve.tp, prepend=0) / n_true
    return float(np.sum(steps * curve.precision))


def _points(points: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    pairs = np.asarray(points, np.float64).reshape(-1, 2) if np.size(points) == 0 else np.asarray(points, np.float64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.isfinite(pairs).all():
        raise FintuneValueError(f"{name}: expected finite points (n, 2), got shape {np.shape(points)}")
    return pairs


def _augment(start: int, near: Sequence[Sequence[int]], matched: dict[int, int]) -> bool:
    """Whether `start` could be matched; `matched` (particle -> pick) then has one pair more.

    Searched breadth first, so that no depth of recursion limits it.
    """
    reached_from: dict[int, int] = {}
    given_up: dict[int, int] = {}
    waiting = [start]
    for pick in waiting:
        for particle in near[pick]:
            if particle in reached_from:
                continue
            reached_from[particle] = pick
            if particle not in matched:
                _turn(particle, start, reached_from, given_up, matched)
                return True
            waiting.append(matched[particle])
            given_up[matched[particle]] = particle
    return False


def _turn(
    particle: int, start: int, reached_from: dict[int, int], given_up: dict[int, int], matched: dict[int, int]
) -> None:
    """Matches every particle on the path back from `particle` to the pick that it was reached from."""
    while True:
        pick = reached_from[particle]
        matched[particle] = pick
        if pick == start:
            return
        particle = given_up[pick]
