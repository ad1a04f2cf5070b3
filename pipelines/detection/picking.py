"""Which candidates are particles: thresholds chosen on annotated micrographs, and how candidates are held to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.metrics.detection import Found, average_precision, best_threshold, match_points, threshold_curve
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.metrics.pixels import N_BINS, best_pixel_threshold, pixel_histogram
from fintune_xr.pipelines.detection.log_picker import LOG, write_log_candidates
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import quarantine_doubt, tiles_in, truth_digest, truth_doubt
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.picks import peaks_of
from fintune_xr.store.runs.run import quarantined_of_runs, require_done
from fintune_xr.store.split import ALL, AnnotatedPart, part_to_score
from fintune_xr.tasks.detection import tile_points

DISTANCE: Final = 0.5
"""How far from an annotated centre a pick still counts, as a part of the particle's diameter."""


@dataclass(frozen=True, slots=True)
class PickRules:
    """What counts as a pick and as found, all in px of the stored tiles."""

    diameter_px: float
    distance_px: float
    border_px: float


def chosen_part(picks: xr.Dataset) -> str:
    """The part of the split that a threshold of stored picks was chosen on, of candidates or of pixels; empty: none."""
    chosen = str(picks.attrs[n.CHOSEN_ON])
    return str(picks.attrs.get(n.PIXEL_CHOSEN_ON, "")) if chosen == n.GIVEN else chosen


def threshold_doubt(cohort: Cohort, run: str, picks: xr.Dataset) -> str:
    """Why a threshold of stored picks would be chosen anew now, or an empty string; a given one never is."""
    chosen = chosen_part(picks)
    if not chosen:
        return ""
    known = {
        n.SPLIT_DIGEST: picks.attrs.get(n.SPLIT_DIGEST, ""),
        n.ANNOTATIONS_DIGEST: picks.attrs.get(n.ANNOTATIONS_DIGEST, ""),
    }
    told = truth_doubt(cohort, known, tiles_in(cohort, chosen))
    told = told or quarantine_doubt(cohort, picks.attrs.get(n.LEFT_OUT, {}))
    return f"the threshold of {run!r} was chosen on part {chosen!r}, but {told}" if told else ""


def require_searched(
    cohort: Cohort, run: str, candidates: xr.Dataset, part: AnnotatedPart, *, may_be_seen: bool = False
) -> None:
    """Raises FintuneValueError where `run` has not looked at a tile of `part`: it would count as finding nothing.

    Raises SplitError for micrographs that its model has seen in training, unless they `may_be_seen`.
    """
    if run in cohort.run_names():
        require_done(cohort, run, cohort.run(run, lazy=False), part.tiles)
        if not may_be_seen:
            require_unseen(cohort, [run], part.names)
    places = zip(part.names, part.positions, strict=True)
    later = [tile for tile, at in places if at >= int(candidates.attrs.get(n.N_TILES, at + 1))]
    if later:
        raise FintuneValueError(
            f"{len(later)} of {len(part)} annotated micrographs ({', '.join(later[:5])}) were added after the "
            f"candidates {run!r} were made. Pick again with --model {LOG}."
        )


def match_candidates(
    cohort: Cohort, candidates: xr.Dataset, part: AnnotatedPart, *, distance_px: float, border_px: float = 0.0
) -> list[Found]:
    """Candidates of each tile of `part` held against its annotated particles; those near an edge are left out."""
    points = cohort.annotations(lazy=False).load()
    kept = candidates.isel({n.CELL: np.flatnonzero(away_from_edges(cohort, candidates, border_px))})
    found = []
    for tile, at in zip(part.names, part.positions, strict=True):
        peaks = peaks_of(kept, int(at))
        found.append(match_points(tile_points(points, tile).yx, peaks.yx, peaks.score, distance_px=distance_px))
    return found


def tile_histograms(
    cohort: Cohort, run: str, part: AnnotatedPart, *, n_bins: int = N_BINS
) -> dict[str, np.ndarray[Any, Any]] | None:
    """Known pixels (2, n_bins) uint32 by target and probability of each tile of `part`; None where the run holds no
    probabilities.
    """
    if run not in cohort.run_names():
        return None
    stored, points = cohort.run(run, lazy=False), cohort.annotations(lazy=False).load()
    scale = float(stored[n.PROBABILITY].attrs.get("scale_factor", 1.0))
    found = {}
    for tile, at in zip(part.names, part.positions, strict=True):
        probability = tile_pixels(stored, int(at), n.PROBABILITY) * scale
        known = tile_points(points, tile)
        target = disc_target(known.yx, known.diameter_px, probability.shape)
        counted = pixel_histogram(target, np.clip(probability, 0, 1).astype(np.float64), n_bins=n_bins)
        found[tile] = counted.astype(np.uint32)
    return found


def pick_rules(cohort: Cohort, distance: float | None, border: float) -> PickRules:
    """Rules for particles of the median annotated diameter, with `distance` and `border` in px of stored micrographs.

    `distance` None is the usual part of the diameter, DISTANCE.

    Raises FintuneValueError where no particle is annotated, and for lengths that are negative or not finite.
    """
    diameters = cohort.annotations(lazy=False)[n.DIAMETER_PX].values
    if not diameters.size:
        raise FintuneValueError(f"{cohort.url}: no annotated particle tells how large particles are. Annotate some.")
    diameter = float(np.median(diameters))
    found = PickRules(diameter, DISTANCE * diameter if distance is None else distance, border)
    if not (0 <= found.distance_px < np.inf and 0 <= found.border_px < np.inf):
        raise FintuneValueError(f"--distance and --border: expected 0 px or more, got {distance} and {border}")
    return found


def make_candidates(cohort: Cohort, run: str, model: str, diameter_px: float) -> None:
    """Writes candidates of `model`, which needs no inference, under the name `run`; particles are `diameter_px` wide.

    Raises UnknownNameError for another model than LOG, FintuneValueError for a name that a run has.
    """
    if model != LOG:
        raise unknown_name("model that picks without inference", model, [LOG])
    if run in cohort.run_names():
        raise FintuneValueError(f"{run!r} is a run of {cohort.url}; give the picks of {model} a name of their own")
    write_log_candidates(cohort, run, diameter_px=diameter_px)


def chosen_threshold(cohort: Cohort, run: str, candidates: xr.Dataset, rules: PickRules, part: str) -> dict[str, Any]:
    """The threshold of the highest F1 on `part`, what it gives there, and the same for single pixels.

    Micrographs that the run has in quarantine are left out, and named in LEFT_OUT.
    """
    judged = part_to_score(cohort, part)
    left_out = quarantined_of_runs(cohort, [run] if run in cohort.run_names() else [], judged.names)
    scored = judged.without(left_out)
    require_searched(cohort, run, candidates, scored)
    found = match_candidates(cohort, candidates, scored, distance_px=rules.distance_px, border_px=rules.border_px)
    curve = threshold_curve(found)
    threshold = best_threshold(curve)
    at = int(np.flatnonzero(curve.threshold == np.float32(threshold))[0])
    facts: dict[str, Any] = {
        n.THRESHOLD: threshold, n.CHOSEN_ON: part, "n_micrographs": len(scored),
        n.F1: float(curve.f1[at]), n.PRECISION: float(curve.precision[at]), n.RECALL: float(curve.recall[at]),
        n.AVERAGE_PRECISION: average_precision(curve),
    }  # fmt: skip
    facts |= {n.LEFT_OUT: left_out} if left_out else {}
    return facts | _rests_on(cohort, judged) | _pixel_facts(cohort, run, scored)


def given_threshold(cohort: Cohort, run: str, threshold: float, part: str) -> dict[str, Any]:
    """A threshold that was named, and that of single pixels where micrographs of `part` can tell it."""
    if not np.isfinite(threshold):
        raise FintuneValueError(f"--threshold: expected a number, got {threshold}")
    facts: dict[str, Any] = {n.THRESHOLD: float(np.float32(threshold)), n.CHOSEN_ON: n.GIVEN}
    judged, left_out = _annotated_and_searched(cohort, run, part)
    if judged is None:
        return facts
    of_pixels = _pixel_facts(cohort, run, judged.without(left_out))
    if not of_pixels:
        return facts
    facts |= {n.LEFT_OUT: left_out} if left_out else {}
    return facts | of_pixels | _rests_on(cohort, judged)


def _rests_on(cohort: Cohort, part: AnnotatedPart) -> dict[str, Any]:
    """The split and the annotations that a threshold was chosen by."""
    return {n.SPLIT_DIGEST: part.digest, n.ANNOTATIONS_DIGEST: truth_digest(cohort, part.names)}


def _pixel_facts(cohort: Cohort, run: str, part: AnnotatedPart) -> dict[str, Any]:
    """The best pixel threshold on `part`; nothing for a picker without probabilities, or where no particle is."""
    histograms = tile_histograms(cohort, run, part)
    if histograms is None:
        return {}
    total = np.sum(list(histograms.values()), axis=0)
    if not total[1].any():
        return {}
    return {n.PIXEL_THRESHOLD: best_pixel_threshold(total), n.PIXEL_CHOSEN_ON: part.part}


def _annotated_and_searched(cohort: Cohort, run: str, part: str) -> tuple[AnnotatedPart | None, dict[str, list[str]]]:
    """Annotated micrographs of `part`, and those in quarantine by run.

    None without a split, where the run has not come to one, or has all of them in quarantine.
    """
    images = cohort.images(lazy=False)
    if run not in cohort.run_names() or (part != ALL and not (images[n.SPLIT].values == part).any()):
        return None, {}
    found = part_to_score(cohort, part)
    states = cohort.run(run, lazy=False)[n.STATE].values
    here = [states[at] if at < states.size else n.PENDING for at in found.positions]
    if n.PENDING in here or n.DONE not in here:
        return None, {}
    return found, quarantined_of_runs(cohort, [run], found.names)


def away_from_edges(cohort: Cohort, candidates: xr.Dataset, border_px: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which candidates lie `border_px` or more from the edges of their micrographs."""
    images = cohort.images(lazy=False)
    at = candidates[n.TILE_INDEX].values
    distances = []
    for side, name in ((n.HEIGHT, n.CENTROID_Y), (n.WIDTH, n.CENTROID_X)):
        last, where = images[side].values[at] - 1, candidates[name].values
        distances += [where, last - where]
    return np.asarray(np.min(distances, axis=0) >= border_px) if at.size else np.ones(0, np.bool_)


def pick_summary(picks: xr.Dataset, n_tiles: int) -> Sequence[str]:
    """Lines that say what was picked and how the threshold was chosen."""
    facts = picks.attrs
    lines = [f"{picks.sizes[n.PICK]} particles in {n_tiles} micrographs at threshold {facts[n.THRESHOLD]:.4g}"]
    if facts[n.CHOSEN_ON] == n.GIVEN:
        told = (
            f"chosen on part {facts[n.PIXEL_CHOSEN_ON]}" if n.PIXEL_THRESHOLD in facts else "none, so no pixel scores"
        )
        lines.append(f"threshold given; that of single pixels: {told}")
    else:
        lines.append(
            f"chosen on {facts['n_micrographs']} micrographs of part {facts[n.CHOSEN_ON]}: F1 {facts[n.F1]:.3f}, "
            f"precision {facts[n.PRECISION]:.3f}, recall {facts[n.RECALL]:.3f} within {facts[n.DISTANCE_PX]:.2f} px"
        )
    return [*lines, *left_out_lines(picks)]
