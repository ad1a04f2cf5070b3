"""Which candidates are particles: thresholds chosen on annotated micrographs, and how candidates are held to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.metrics.detection import Found, average_precision, best_threshold, match_points, threshold_curve
from fintune_xr.metrics.pixels import best_pixel_threshold, pixel_histogram
from fintune_xr.pipelines.detection.log_picker import LOG, write_log_candidates
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotations_digest import truth_digest
from fintune_xr.store.lineage.depends_on import tiles_in, truth_doubt
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.picks import peaks_of
from fintune_xr.store.runs.run import require_done
from fintune_xr.store.split import ALL, require_split
from fintune_xr.tasks.detection import tile_points
from fintune_xr.text import text_array, texts

DISTANCE: Final = 0.5
"""How far from an annotated centre a pick still counts, as a part of the particle's diameter."""


@dataclass(frozen=True, slots=True)
class PickRules:
    """What counts as a pick and as found, all in px of the stored tiles."""

    diameter_px: float
    distance_px: float
    border_px: float


def annotated_positions(cohort: Cohort, part: str) -> dict[str, int]:
    """Annotated micrographs of `part` of the split, or of `all`, with their positions along `images.tile`.

    Raises FintuneValueError where there is none, SplitError without a valid split.
    """
    if part != ALL:
        require_split(cohort)
    images = cohort.images(lazy=False)
    annotated = set(cohort.annotated_tiles())
    splits = text_array(images[n.SPLIT])
    found = {tile: i for i, tile in enumerate(texts(images[n.TILE])) if tile in annotated and part in (ALL, splits[i])}
    if not found:
        raise FintuneValueError(
            f"{cohort.url} has no annotated micrograph in part {part!r}. Annotate some and split again, or name "
            "another part."
        )
    return found


def without_left_out(tiles: Mapping[str, int], left_out: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Those of `tiles` that no run has `left_out`."""
    gone = {tile for of_run in left_out.values() for tile in of_run}
    return {tile: at for tile, at in tiles.items() if tile not in gone}


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
    return f"the threshold of {run!r} was chosen on part {chosen!r}, but {told}" if told else ""


def require_searched(cohort: Cohort, run: str, candidates: xr.Dataset, tiles: dict[str, int]) -> None:
    """Raises FintuneValueError where `run` has not looked at one of `tiles`: it would count as finding nothing."""
    if run in cohort.run_names():
        require_done(run, cohort.run(run, lazy=False), cohort.images(lazy=False).isel({n.TILE: list(tiles.values())}))
        require_unseen(cohort, run, tiles)
    later = [tile for tile, at in tiles.items() if at >= int(candidates.attrs.get(n.N_TILES, at + 1))]
    if later:
        raise FintuneValueError(
            f"{len(later)} of {len(tiles)} annotated micrographs ({', '.join(later[:5])}) were added after the "
            f"candidates {run!r} were made. Pick again with --model {LOG}."
        )


def found_in(
    cohort: Cohort, candidates: xr.Dataset, tiles: dict[str, int], *, distance_px: float, border_px: float = 0.0
) -> list[Found]:
    """Candidates of each of `tiles` held against its annotated particles; those near an edge are left out."""
    points = cohort.annotations(lazy=False).load()
    kept = candidates.isel({n.CELL: np.flatnonzero(away_from_edges(cohort, candidates, border_px))})
    found = []
    for tile, at in tiles.items():
        peaks = peaks_of(kept, at)
        found.append(match_points(tile_points(points, tile).yx, peaks.yx, peaks.score, distance_px=distance_px))
    return found


def tile_histograms(cohort: Cohort, run: str, tiles: dict[str, int]) -> dict[str, np.ndarray[Any, Any]] | None:
    """Known pixels by target and probability of each of `tiles`; None where the run holds no probabilities."""
    if run not in cohort.run_names():
        return None
    stored, points = cohort.run(run, lazy=False), cohort.annotations(lazy=False).load()
    scale = float(stored[n.PROBABILITY].attrs.get("scale_factor", 1.0))
    found = {}
    for tile, at in tiles.items():
        probability = tile_pixels(stored, at, n.PROBABILITY) * scale
        known = tile_points(points, tile)
        target = disc_target(known.yx, known.diameter_px, probability.shape)
        found[tile] = pixel_histogram(target, np.clip(probability, 0, 1).astype(np.float64))
    return found


def pick_rules(cohort: Cohort, distance: float | None, border: float) -> PickRules:
    diameters = cohort.annotations(lazy=False)[n.DIAMETER_PX].values
    if not diameters.size:
        raise FintuneValueError(f"{cohort.url}: no annotated particle tells how large particles are. Annotate some.")
    diameter = float(np.median(diameters))
    found = PickRules(diameter, DISTANCE * diameter if distance is None else distance, border)
    if not (0 <= found.distance_px < np.inf and 0 <= found.border_px < np.inf):
        raise FintuneValueError(f"--distance and --border: expected 0 px or more, got {distance} and {border}")
    return found


def make_candidates(cohort: Cohort, run: str, model: str, diameter_px: float) -> None:
    if model != LOG:
        raise unknown_name("model that picks without inference", model, [LOG])
    if run in cohort.run_names():
        raise FintuneValueError(f"{run!r} is a run of {cohort.url}; give the picks of {model} a name of their own")
    write_log_candidates(cohort, run, diameter_px=diameter_px)


def chosen_threshold(cohort: Cohort, run: str, candidates: xr.Dataset, rules: PickRules, part: str) -> dict[str, Any]:
    """The threshold of the highest F1 on `part`, what it gives there, and the same for single pixels."""
    tiles = annotated_positions(cohort, part)
    require_searched(cohort, run, candidates, tiles)
    found = found_in(cohort, candidates, tiles, distance_px=rules.distance_px, border_px=rules.border_px)
    curve = threshold_curve(found)
    threshold = best_threshold(curve)
    at = int(np.flatnonzero(curve.threshold == np.float32(threshold))[0])
    facts: dict[str, Any] = {
        n.THRESHOLD: threshold, n.CHOSEN_ON: part, "n_micrographs": len(tiles),
        n.F1: float(curve.f1[at]), n.PRECISION: float(curve.precision[at]), n.RECALL: float(curve.recall[at]),
        n.AVERAGE_PRECISION: average_precision(curve),
    }  # fmt: skip
    return facts | _rests_on(cohort, tiles, part) | _pixel_facts(cohort, run, tiles, part)


def given_threshold(cohort: Cohort, run: str, threshold: float, part: str) -> dict[str, Any]:
    """A threshold that was named, and that of single pixels where micrographs of `part` can tell it."""
    if not np.isfinite(threshold):
        raise FintuneValueError(f"--threshold: expected a number, got {threshold}")
    facts: dict[str, Any] = {n.THRESHOLD: float(np.float32(threshold)), n.CHOSEN_ON: n.GIVEN}
    tiles = _annotated_and_done(cohort, run, part)
    if not tiles:
        return facts
    of_pixels = _pixel_facts(cohort, run, tiles, part)
    return facts | of_pixels | (_rests_on(cohort, tiles, part) if of_pixels else {})


def _rests_on(cohort: Cohort, tiles: dict[str, int], part: str) -> dict[str, Any]:
    """The split and the annotations that a threshold was chosen by."""
    return {
        n.SPLIT_DIGEST: require_split(cohort) if part != ALL else "",
        n.ANNOTATIONS_DIGEST: truth_digest(cohort, tiles),
    }


def _pixel_facts(cohort: Cohort, run: str, tiles: dict[str, int], part: str) -> dict[str, Any]:
    """The best pixel threshold on `tiles`; nothing for a picker without probabilities, or where no particle is."""
    histograms = tile_histograms(cohort, run, tiles)
    if histograms is None:
        return {}
    total = np.sum(list(histograms.values()), axis=0)
    if not total[1].any():
        return {}
    return {n.PIXEL_THRESHOLD: best_pixel_threshold(total), n.PIXEL_CHOSEN_ON: part}


def _annotated_and_done(cohort: Cohort, run: str, part: str) -> dict[str, int]:
    """Annotated micrographs of `part` with their positions; none without a split, or where the run lacks one."""
    images = cohort.images(lazy=False)
    if run not in cohort.run_names() or (part != ALL and not (images[n.SPLIT].values == part).any()):
        return {}
    tiles = annotated_positions(cohort, part)
    states = cohort.run(run, lazy=False)[n.STATE].values
    return tiles if all(at < states.size and states[at] == n.DONE for at in tiles.values()) else {}


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
    return lines
