"""What a report of an EM cohort is made of: example micrographs, stored scores, stages of self-trainings."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.particle_figures import ShownPicks
from fintune_xr.analysis.report.particle_contents import ExampleMicrograph, ParticleContents
from fintune_xr.metrics.particle import match_points
from fintune_xr.pipelines.pick import DISTANCE_PX
from fintune_xr.points import tile_points
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest import stored_binning
from fintune_xr.store.picks import open_picks, picked_names, picks_of, stale_reason
from fintune_xr.store.tables import subgroups
from fintune_xr.text import texts

N_EXAMPLES: Final = 2
# More panels are too small to see circles in; the scores show all runs.
N_RUNS_SHOWN: Final = 3


def particle_contents(cohort: Cohort) -> ParticleContents:
    """All that the store holds about particles; there are no examples while nothing has been annotated.

    Picks that are not those of their run any more are left out.
    """
    if not cohort.has(n.ANNOTATIONS):
        return ParticleContents(diameter_px=float("nan"))
    points = cohort.points(lazy=False).load()
    diameters = points[n.DIAMETER_PX].values
    runs = [run for run in picked_names(cohort) if not _is_stale(cohort, run)]
    picks = {run: open_picks(cohort, run) for run in runs}
    split = next((part for part in (n.TEST, n.VAL, n.TRAIN, "all") if cohort.has(f"{n.METRICS}/{part}")), "")
    scores = cohort.metrics(split).load() if split else None
    return ParticleContents(
        diameter_px=float(np.median(diameters)) if diameters.size else float("nan"),
        binning=stored_binning(cohort),
        examples=_examples(cohort, points, picks, scores),
        scores=scores,
        split=split,
        facts={run: found.attrs for run, found in picks.items()},
        stages={name: cohort.read(f"{n.SELFTRAIN}/{name}").load() for name in subgroups(cohort.location, n.SELFTRAIN)},
    )


def _is_stale(cohort: Cohort, run: str) -> bool:
    return bool(stale_reason(cohort, run, cohort.read(f"{n.PICKS}/{run}").load()))


def _examples(
    cohort: Cohort, points: xr.Dataset, picks: dict[str, xr.Dataset], scores: xr.Dataset | None
) -> tuple[ExampleMicrograph, ...]:
    """Annotated micrographs of the test part first, then others, with the picks of the best runs."""
    images = cohort.images(lazy=False)
    annotated = set(texts(points[n.TILE]))
    splits = texts(images[n.SPLIT])
    names = texts(images[n.TILE])
    order = sorted(range(len(names)), key=lambda i: (names[i] not in annotated, splits[i] != n.TEST, i))
    shown = _best(picks, scores)
    found = []
    for at in order[:N_EXAMPLES]:
        tile = images.isel({n.TILE: at, n.CHANNEL: 0})
        valid = {n.Y: slice(int(tile[n.HEIGHT])), n.X: slice(int(tile[n.WIDTH]))}
        true = tile_points(points, names[at]).yx if names[at] in annotated else None
        of_runs = tuple(_shown(run, picks[run], at, true) for run in shown)
        image: Any = tile[n.IMAGE].isel(valid).values
        found.append(ExampleMicrograph(names[at], splits[at], image, true, of_runs))
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
    found = match_points(true, peaks.yx, peaks.score, distance_px=float(picks.attrs[DISTANCE_PX]))
    return ShownPicks(run, peaks.yx, found.is_hit, found.counts()[2])
