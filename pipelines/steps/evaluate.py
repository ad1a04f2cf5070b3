"""Metrics of runs against the annotations, in the form of the cohort's task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.metrics.left_out import left_out_lines
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.tasks import STEPS, TaskSteps, steps_of
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.training_exposure import LEARNED, seen_tiles
from fintune_xr.store.split import ALL, allowed_facts, allowed_pairs, annotated_tiles, judging_part
from fintune_xr.tasks.task import DETECTION, INSTANCE
from fintune_xr.text import texts


def evaluate(
    store: str | Path, *, runs: Sequence[str] = (), split: str = "", resamples: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Scores of `runs` on the annotated tiles of `split`, stored under `metrics/<split>`, all runs by default.

    `split` is train, val, test, or all, by default test, or val where the split has no test part.
    Of cells they are scores (group, run, threshold): a group is one marker; the group `all`
    holds all of them. Scores, their intervals and differences between runs are those of `scores_by_donor`;
    the counts of each tile are stored beside them. Of particles they are those of `evaluate_particles`.

    Raises UnknownNameError for a run that is not there, FintuneValueError where a run has not come to a tile yet.
    Tiles that one of the runs has in quarantine are left out for all of them, and named in the attribute LEFT_OUT.
    """
    cohort = open_cohort(store).with_images()
    split = split or _said(judging_part(cohort))
    request = EvaluateRequest(runs=tuple(runs), split=split, resamples=resamples, seed=seed)
    scores = steps_of(cohort).evaluate(cohort, request).assign_attrs({n.TASK: cohort.task.name})
    scores = scores.assign_attrs(allowed_facts(allowed_pairs(cohort)))
    if split == ALL and n.RUN in scores.dims:
        scores = scores.assign_attrs({n.SEEN: _seen_lines(cohort, texts(scores[n.RUN]))})
    cohort.write(f"{n.METRICS}/{split}", scores)
    return scores


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """Stored scores for people, with 95 % intervals: of cells a row per group and run, of particles per run."""
    return _steps_behind(scores).score_table(scores)


def score_lines(scores: xr.Dataset) -> list[str]:
    """What must be known to read the table of scores."""
    return [*left_out_lines(scores), *scores.attrs.get(n.SEEN, []), *_steps_behind(scores).score_lines(scores)]


def _steps_behind(scores: xr.Dataset) -> TaskSteps:
    """The task whose steps made the scores; older ones do not say it, and only those of masks are by threshold."""
    older = INSTANCE if n.THRESHOLD in scores.dims else DETECTION
    return STEPS[scores.attrs.get(n.TASK, older)]


def _seen_lines(cohort: Cohort, runs: Sequence[str]) -> list[str]:
    """A line for each run whose model has seen some of the annotated tiles, with a few of them."""
    tiles = texts(annotated_tiles(cohort)[n.TILE])
    lines = []
    for run in (run for run in runs if run in cohort.run_names()):
        seen = seen_tiles(cohort, run, tiles)
        learned = [tile for tile, how in seen.items() if how == LEARNED]
        if seen:
            some = ", ".join([*learned, *seen][:3])
            lines.append(
                f"run {run}: its model learned from {len(learned)} of these {len(tiles)} tiles and was chosen on "
                f"{len(seen) - len(learned)} more ({some}, …): scores of all tiles flatter it"
            )
    return lines


def _said(part: str) -> str:
    """`part` itself, once it is said why it is not test."""
    if part != n.TEST:
        say(f"evaluate: on part {part}, because the split has no test part; what was chosen on {part} is flattered")
    return part
