"""What a report of micrographs is made of: example micrographs, stored scores, stages of self-trainings."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.detection import ShownPicks
from fintune_xr.analysis.report.contents import Section, Stale
from fintune_xr.analysis.report.detection.contents import ExampleMicrograph, PickScores
from fintune_xr.analysis.report.detection.sections import picks_section, picture_section, stages_section
from fintune_xr.metrics.detection import match_points
from fintune_xr.pipelines.detection.evaluate import particle_doubt
from fintune_xr.pipelines.detection.picking import threshold_doubt
from fintune_xr.pipelines.report.stale import evaluated_part, stale_scores
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import doubt, tiles_in
from fintune_xr.store.runs.picks import open_picks, picked_names, picks_of, stale_reason
from fintune_xr.tasks.detection import tile_points
from fintune_xr.text import texts

N_EXAMPLES: Final = 2
# More panels are too small to see circles in; the scores show all runs.
N_RUNS_SHOWN: Final = 3


def particle_sections(cohort: Cohort, baseline: str) -> tuple[Section, ...]:  # noqa: ARG001
    """Examples, scores of the picks and stages of self-trainings; nothing is compared to a baseline.

    All name their commands while nothing has been annotated.
    """
    if not cohort.has(n.ANNOTATIONS):
        nothing = PickScores(diameter_px=float("nan"))
        return picture_section((), diameter_px=nothing.diameter_px), picks_section(nothing), stages_section({})
    points = cohort.annotations(lazy=False).load()
    diameters = points[n.DIAMETER_PX].values
    diameter = float(np.median(diameters)) if diameters.size else float("nan")
    picks, old_picks = _picks(cohort)
    scores = pick_scores(cohort, picks, diameter)
    stages, old_stages = _stages(cohort)
    return (
        picture_section(_examples(cohort, points, picks, scores.scores), diameter_px=diameter, stale=old_picks),
        picks_section(scores),
        stages_section(stages, stale=old_stages),
    )


def pick_scores(cohort: Cohort, picks: dict[str, xr.Dataset], diameter_px: float) -> PickScores:
    """The scores of the evaluated part, unless they are those of other picks or annotations."""
    split = evaluated_part(cohort)
    scores, stale = _scores(cohort, split, picks) if split else (None, ())
    facts = {run: found.attrs for run, found in picks.items()}
    return PickScores(diameter_px=diameter_px, scores=scores, split=split, facts=facts, stale=stale)


def _picks(cohort: Cohort) -> tuple[dict[str, xr.Dataset], tuple[Stale, ...]]:
    """Picks of each run, and those that would be others now."""
    current, stale = {}, []
    for run in picked_names(cohort):
        picks = cohort.read(f"{n.PICKS}/{run}").load()
        reason = stale_reason(cohort, run, picks) or threshold_doubt(cohort, run, picks)
        if reason:
            stale.append(Stale(f"picks of {run}", reason, f"fintune-xr pick STORE --run {run}"))
        else:
            current[run] = open_picks(cohort, run)
    return current, tuple(stale)


def _scores(cohort: Cohort, part: str, picks: dict[str, xr.Dataset]) -> tuple[xr.Dataset | None, tuple[Stale, ...]]:
    found = cohort.metrics(part).load()
    reason = particle_doubt(cohort, found, picks, tiles_in(cohort, part))
    return (None, (stale_scores(cohort, part, found, reason),)) if reason else (found, ())


def _stages(cohort: Cohort) -> tuple[dict[str, xr.Dataset], tuple[Stale, ...]]:
    """Stages of each self-training, and those that were taught or judged by other annotations or another split."""
    current, stale = {}, []
    for name in cohort.names_under(n.SELFTRAIN):
        found = cohort.read(f"{n.SELFTRAIN}/{name}").load()
        labelled = set(found.attrs[n.PROVENANCE]["labelled"]) & set(cohort.annotated_tiles())
        reason = doubt(cohort, found, {*labelled, *tiles_in(cohort, n.VAL, n.TEST)})
        if reason:
            command = "fintune-xr selftrain STORE --name NEW"
            stale.append(Stale(f"stages of the self-training {name}", reason, command))
        else:
            current[name] = found
    return current, tuple(stale)


def _examples(
    cohort: Cohort, points: xr.Dataset, picks: dict[str, xr.Dataset], scores: xr.Dataset | None
) -> tuple[ExampleMicrograph, ...]:
    """Annotated micrographs of the test part first, then others, with the picks of the best runs."""
    images = cohort.images(lazy=False)
    annotated = set(texts(points[n.TILE]))
    splits = texts(images[n.SPLIT])
    names = texts(images[n.TILE])
    order = sorted(range(len(names)), key=lambda i: (names[i] not in annotated, splits[i] != n.TEST, i))
    shown, sides = _best(picks, scores), sides_um(images)
    found = []
    for at in order[:N_EXAMPLES]:
        true = tile_points(points, names[at]).yx if names[at] in annotated else None
        of_runs = tuple(_shown(run, picks[run], at, true) for run in shown)
        image: Any = tile_pixels(images, at)[0]
        found.append(ExampleMicrograph(names[at], splits[at], image, true, of_runs, float(sides[at])))
    return tuple(found)


def _best(picks: dict[str, xr.Dataset], scores: xr.Dataset | None) -> list[str]:
    """Up to three runs: the best on the evaluated part, and the worst, which is what they are held against."""
    runs = list(picks)
    if scores is not None:
        score = dict(zip(texts(scores[n.RUN]), scores["particle_f1_pooled"].values.tolist(), strict=True))
        runs = sorted((run for run in runs if run in score), key=lambda run: -score[run]) or runs
    if len(runs) <= N_RUNS_SHOWN:
        return runs
    return [*runs[: N_RUNS_SHOWN - 1], runs[-1]]


def _shown(run: str, picks: xr.Dataset, at: int, true: np.ndarray[Any, Any] | None) -> ShownPicks:
    peaks = picks_of(picks, at)
    if true is None:
        return ShownPicks(run, peaks.yx, np.zeros(len(peaks), np.bool_), 0)
    found = match_points(true, peaks.yx, peaks.score, distance_px=float(picks.attrs[n.DISTANCE_PX]))
    return ShownPicks(run, peaks.yx, found.is_hit, found.counts()[2])
