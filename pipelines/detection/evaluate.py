"""Particle-level scores of picks, and pixel-wise scores of probabilities, named apart, against the annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.report.detection.intervals import RESAMPLED
from fintune_xr.errors import FintuneValueError
from fintune_xr.metrics.counts import SCORES, score_name
from fintune_xr.metrics.detection import Curve, Found, average_precision, threshold_curve
from fintune_xr.metrics.intervals import STUDENT_T, instance_scores, score_line, scores_by_donor
from fintune_xr.metrics.pixels import EXACT_BINS, histogram_counts, pixel_auc
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.detection.picking import (
    chosen_part,
    match_candidates,
    require_searched,
    threshold_doubt,
    tile_histograms,
)
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.task_parts.seen_apart import Scored, seen_apart
from fintune_xr.provenance import provenance, settings_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import doubt, part_rests_on
from fintune_xr.store.runs.picks import open_candidates, open_picks, picked_names
from fintune_xr.store.runs.run import quarantined_of_runs, require_once
from fintune_xr.store.split import ALL, AnnotatedPart, part_to_score
from fintune_xr.text import texts

N_LEVELS: Final = 200

_COUNTS: Final = (n.TP, n.FP, n.FN)
# The same formula is called average precision of instances at one overlap, and intersection over union of pixels.
_KEPT: Final = {n.PARTICLE: (n.PRECISION, n.RECALL, n.F1), n.PIXEL: (n.PRECISION, n.RECALL, n.F1, n.AVERAGE_PRECISION)}
_RENAMED: Final = {n.AVERAGE_PRECISION: n.IOU}


def evaluate_particles(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores of the picks of runs on the annotated micrographs of a part.

    All runs with picks by default. `particle_<score>_pooled` counts the particles of all micrographs, `_image_mean`
    averages those of single ones, each with an `_interval` and, between runs, a paired `_difference`, as
    `scores_by_donor` gives them. They are over donors (data sets), or over micrographs where all of them are of one
    donor, and the attribute `resampled` says which. `particle_average_precision` (run) and `particle_curve_<score>`
    (run, level) look at all thresholds. Micrographs that a run has in quarantine are left out for all of them, and
    named in the attribute LEFT_OUT. `pixel_<score>_…` say the same of single pixels of discs, for runs that hold
    probabilities; `pixel_auc` (run) too, exact for the probabilities as they are stored: the attribute AUC_BINS says
    over how many bins, 4096 where it is missing. `particle_tp` and so on are the counts of each micrograph.

    Raises UnknownNameError for a run without picks, FintuneValueError where runs were picked for different distances,
    on annotations that have changed, or have not come to a micrograph yet.
    """
    names = list(request.runs) or picked_names(cohort)
    if not names:
        raise FintuneValueError(f"{cohort.url} has no picks to evaluate. Run: fintune-xr pick {cohort.url} --run R")
    require_once(names)
    picks = {run: open_picks(cohort, run) for run in names}
    distance = _one_distance(picks)
    part = part_to_score(cohort, request.split)
    _check_thresholds(cohort, picks, part.part)
    left_out = quarantined_of_runs(cohort, [run for run in names if run in cohort.run_names()], part.names)
    scored = part.without(left_out)
    evidence = _Evidence(
        scored,
        {run: _found(cohort, run, picks[run], scored) for run in names},
        {run: float(picks[run].attrs[n.THRESHOLD]) for run in names},
        _histograms(cohort, picks, scored),
        {run: float(one.attrs[n.PIXEL_THRESHOLD]) for run, one in picks.items() if n.PIXEL_THRESHOLD in one.attrs},
    )
    draws = _draws(evidence, request)
    parts = [_scores(evidence, draws), _curves(evidence.found)]
    parts += [_apart(cohort, evidence, request)] if part.part == ALL else []
    scores = xr.merge(parts, join="outer").assign_coords(scored.labels)
    return scores.assign_attrs(
        {
            n.DISTANCE_PX: distance,
            n.AUC_BINS: EXACT_BINS,
            RESAMPLED: draws.unit,
            n.INTERVAL_METHOD: STUDENT_T,
            n.LEFT_OUT: left_out,
            n.RESTS_ON: {**part_rests_on(cohort, part), n.PICKS: picks_digests(picks)},
            n.PROVENANCE: provenance(
                split=part.part, split_digest=part.digest, resamples=request.resamples, seed=request.seed
            ),
        }
    )


def picks_digests(picks: Mapping[str, xr.Dataset]) -> dict[str, str]:
    """A digest of each run's picks, by how they were made."""
    made = {run: {k: v for k, v in table.attrs.items() if k != n.PROVENANCE} for run, table in picks.items()}
    return {run: settings_digest(facts) for run, facts in made.items()}


def particle_doubt(cohort: Cohort, found: xr.Dataset, picks: Mapping[str, xr.Dataset], tiles: Sequence[str]) -> str:
    """Why scores `found` are not those of `picks` on `tiles` as they are now, empty where they are."""
    told = doubt(cohort, found, tiles)
    if told:
        return told
    now = picks_digests(picks)
    other = [run for run, digest in found.attrs[n.RESTS_ON][n.PICKS].items() if now.get(run) != digest]
    return f"{', '.join(other)} has other picks now, or none" if other else ""


def particle_table(scores: xr.Dataset) -> pd.DataFrame:
    """One row per run: particle-level scores with 95 % intervals (`interval_line`), then pixel-wise ones."""
    rows = []
    for run in scores[n.RUN].values:
        one = scores.sel({n.RUN: run})
        row: dict[str, Any] = {n.RUN: str(run)}
        for score in (n.PRECISION, n.RECALL, n.F1):
            row[f"particle {score}"] = score_line(one, f"{n.PARTICLE}_{score_name(score, n.POOLED)}")
        row["particle AP"] = f"{float(one[f'{n.PARTICLE}_{n.AVERAGE_PRECISION}']):.3f}"
        for score in (n.F1, n.IOU):
            name = f"{n.PIXEL}_{score_name(score, n.POOLED)}"
            row[f"pixel {score}"] = f"{float(one[name]):.3f}" if name in one else "nan"
        rows.append(row)
    return pd.DataFrame(rows)


def _one_distance(picks: Mapping[str, xr.Dataset]) -> float:
    distances = {run: float(table.attrs[n.DISTANCE_PX]) for run, table in picks.items()}
    if len(set(distances.values())) > 1:
        listed = ", ".join(f"{run} {distance:g}" for run, distance in distances.items())
        raise FintuneValueError(
            f"runs were picked for different distances in px ({listed}); scores would not compare. Pick them again "
            "with one --distance, or evaluate them one by one."
        )
    return next(iter(distances.values()))


def _check_thresholds(cohort: Cohort, picks: Mapping[str, xr.Dataset], split: str) -> None:
    """Refuses thresholds of another split, and says where one was chosen on the micrographs that are scored."""
    for run, table in picks.items():
        told = threshold_doubt(cohort, run, table)
        if told:
            raise FintuneValueError(f"{cohort.url}: {told}. Pick again: fintune-xr pick {cohort.url} --run {run}")
        chosen = chosen_part(table)
        if chosen in (ALL, split) or (split == ALL and chosen):
            say(f"evaluate: the threshold of {run} was chosen on micrographs that are scored here; that flatters it")


def _found(cohort: Cohort, run: str, picks: xr.Dataset, part: AnnotatedPart) -> list[Found]:
    facts, candidates = picks.attrs, open_candidates(cohort, run)
    require_searched(cohort, run, candidates, part, may_be_seen=part.part == ALL)
    return match_candidates(
        cohort, candidates, part, distance_px=float(facts[n.DISTANCE_PX]),
        border_px=float(facts[n.BORDER_PX]),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """What scores are made of: micrographs; by run what was `found` in each, `thresholds`, `histograms` (tile, …) of
    pixels for runs that hold probabilities, and `levels`, the thresholds of those."""

    part: AnnotatedPart
    found: Mapping[str, Sequence[Found]]
    thresholds: Mapping[str, float]
    histograms: Mapping[str, NDArray[Any]]
    levels: Mapping[str, float]

    def of_run(self, run: str, at: NDArray[np.intp]) -> _Evidence:
        """The same of one run, on the micrographs at these positions."""
        return _Evidence(
            self.part.at(at),
            {run: [self.found[run][i] for i in at]},
            {run: self.thresholds[run]},
            {run: self.histograms[run][at]} if run in self.histograms else {},
            self.levels,
        )


@dataclass(frozen=True, slots=True)
class _Draws:
    """What intervals are over: the `unit` (donor or tile, empty where there is one alone), and each tile's own."""

    unit: str
    of_tile: tuple[str, ...]
    n_flips: int
    seed: int


def _histograms(cohort: Cohort, picks: Mapping[str, xr.Dataset], part: AnnotatedPart) -> dict[str, NDArray[Any]]:
    with_levels = [run for run, one in picks.items() if n.PIXEL_THRESHOLD in one.attrs]
    found = {run: tile_histograms(cohort, run, part, n_bins=EXACT_BINS) for run in with_levels}
    return {run: np.array(list(one.values())) for run, one in found.items() if one is not None}


def _draws(evidence: _Evidence, request: EvaluateRequest) -> _Draws:
    """Donors where there are two: micrographs of one are alike, and resampled alone they make intervals too narrow."""
    donors, tiles = texts(evidence.part.tiles[n.DONOR]), evidence.part.names
    if len(set(donors)) > 1:
        return _Draws(n.DONOR, tuple(donors), request.resamples, request.seed)
    return _Draws(n.TILE if len(tiles) > 1 else "", tuple(tiles), request.resamples, request.seed)


def _apart(cohort: Cohort, evidence: _Evidence, request: EvaluateRequest) -> xr.Dataset:
    def scores(run: str, at: NDArray[np.intp]) -> xr.Dataset:
        chosen = evidence.of_run(run, at)
        return _scores(chosen, _draws(chosen, request))

    tiles = evidence.part.names
    return seen_apart(cohort, list(evidence.found), Scored(tiles, tiles), scores)


def _scores(evidence: _Evidence, draws: _Draws) -> xr.Dataset:
    """Scores of particles, and of pixels for the runs that hold probabilities."""
    found = _particle_scores(evidence, draws)
    if not evidence.histograms:
        return found
    pixels = _pixel_scores(evidence, draws).reindex({n.RUN: list(evidence.found)}).transpose(n.RUN, ...)
    return xr.merge([found, pixels], join="outer")


def _particle_scores(evidence: _Evidence, draws: _Draws) -> xr.Dataset:
    found, thresholds = evidence.found, evidence.thresholds
    counted = np.array([[one.counts(thresholds[run]) for one in of_run] for run, of_run in found.items()], np.int64)
    counts = _counts(np.moveaxis(counted, -1, 0), list(found), evidence.part.names)
    scores = _scored(counts, n.PARTICLE, draws)
    curves = [threshold_curve(of_run) for of_run in found.values()]
    scores[f"{n.PARTICLE}_{n.AVERAGE_PRECISION}"] = ((n.RUN,), [average_precision(curve) for curve in curves])
    scores["picked_threshold"] = ((n.RUN,), [thresholds[run] for run in found])
    return scores


def _pixel_scores(evidence: _Evidence, draws: _Draws) -> xr.Dataset:
    stacked, levels = evidence.histograms, [evidence.levels[run] for run in evidence.histograms]
    counted = np.array([histogram_counts(one, level) for one, level in zip(stacked.values(), levels, strict=True)])
    counts = _counts(np.moveaxis(counted, 1, 0), list(stacked), evidence.part.names)
    scores = _scored(counts, n.PIXEL, draws)
    scores[f"{n.PIXEL}_{n.AUC}"] = ((n.RUN,), [float(pixel_auc(one.sum(axis=0))) for one in stacked.values()])
    scores[n.PIXEL_THRESHOLD] = ((n.RUN,), levels)
    return scores


def _counts(values: np.ndarray[Any, Any], runs: Sequence[str], tiles: Sequence[str]) -> xr.Dataset:
    """tp, fp, fn (run, tile) of values (count, run, tile)."""
    arrays = {name: ((n.RUN, n.TILE), value) for name, value in zip(_COUNTS, values, strict=True)}
    return xr.Dataset(arrays, {n.RUN: list(runs), n.TILE: list(tiles)})


def _scored(counts: xr.Dataset, prefix: str, draws: _Draws) -> xr.Dataset:
    """Counts and scores under names that begin with `prefix`; without intervals for a single micrograph."""
    if draws.unit:
        unit = xr.DataArray(list(draws.of_tile), {n.TILE: counts[n.TILE]}, (n.TILE,), name=n.DONOR)
        scores = scores_by_donor(counts, unit, n_flips=draws.n_flips, seed=draws.seed)
    else:
        scores = instance_scores(counts, over=n.TILE)
    kept = {str(name): _named(str(name), prefix) for name in scores if _named(str(name), prefix)}
    of_tiles = {
        f"{prefix}_{_RENAMED.get(score, score)}": (
            (n.RUN, n.TILE), SCORES[score](*(counts[name].values for name in _COUNTS)),
        )
        for score in _KEPT[prefix]
    }  # fmt: skip
    renamed = counts.rename({name: f"{prefix}_{name}" for name in _COUNTS}).assign(of_tiles)
    return xr.merge([renamed, scores[list(kept)].rename(kept)], join="exact")


def _named(name: str, prefix: str) -> str:
    """What a score is called here, or nothing where it has no meaning for particles."""
    for score in _KEPT[prefix]:
        if name.startswith(score):
            return f"{prefix}_{_RENAMED.get(score, score)}{name.removeprefix(score)}"
    return ""


def _curves(found: Mapping[str, Sequence[Found]]) -> xr.Dataset:
    """Scores (run, level) at up to 200 thresholds of each run, evenly spaced among those that occur."""
    curves = {run: _thinned(threshold_curve(one)) for run, one in found.items()}
    names = (n.THRESHOLD, n.PRECISION, n.RECALL, n.F1)
    arrays = {
        f"{n.PARTICLE_CURVE}_{name}": (
            (n.RUN, n.LEVEL),
            np.array([_padded(getattr(curve, name)) for curve in curves.values()]),
        )
        for name in names
    }
    return xr.Dataset(arrays, {n.RUN: list(curves)})


def _thinned(curve: Curve) -> Curve:
    if curve.threshold.size <= N_LEVELS:
        return curve
    at = np.unique(np.linspace(0, curve.threshold.size - 1, N_LEVELS).round().astype(np.int64))
    return Curve(curve.threshold[at], curve.tp[at], curve.fp[at], curve.fn[at])


def _padded(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.pad(values.astype(np.float64), (0, N_LEVELS - values.size), constant_values=np.nan)
