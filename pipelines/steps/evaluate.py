"""Metrics of runs against the annotations, in the form of the cohort's task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.metrics.omissions import doubt_lines
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.task_parts.seen_apart import of_exposures, seen_lines
from fintune_xr.pipelines.tasks import STEPS, TaskSteps, steps_of
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.unfinished_annotations import unfinished_lines
from fintune_xr.store.split import allowed_facts, allowed_pairs, part_asked
from fintune_xr.tasks.coarser import Stated
from fintune_xr.tasks.task import DETECTION, INSTANCE, SEMANTIC

_ALL_TILES: Final = "all of them"
# What a score of a run may be by; those of single tiles and between runs are no scores of a run.
_BY: Final = (n.GROUP, n.RUN, n.EXPOSURE, n.THRESHOLD, n.CLASS)


@gives_named_labels
def evaluate(
    store: str | Path, *, runs: Sequence[str] = (), split: str = "", resamples: int = 1000, seed: int = 0,
    coarser: Stated | None = None,
) -> xr.Dataset:  # fmt: skip
    """Scores of `runs` on the annotated tiles of `split`, stored under `metrics/<split>`, all runs by default.

    `split` is train, val, test, or all, by default test, or val where the split has no test part. On all tiles, those
    that the model of a run has seen in training are named in the attribute SEEN, and scored apart from those that are
    new to it (`apart_<score>`, as `seen_apart` gives them).
    Of cells they are scores (group, run, threshold): a group is one marker; the group `all`
    holds all of them. Scores, their intervals and differences between runs are those of `scores_by_donor`;
    the counts of each tile are stored beside them. Of particles they are those of `evaluate_particles`.

    Maps of classes are scored under their own classes, or with `coarser` under classes that those are parts of: codes
    or names of finer classes by the coarser one, those that are none of them under `rest`. Such scores lie apart, under
    `metrics/coarser_<classes>_<split>`.

    Raises UnknownNameError for a run that is not there, FintuneValueError where a run has not come to a tile yet, or
    coarser classes are asked for of anything else than maps of classes.
    Tiles that one of the runs has in quarantine are left out for all of them, and named in the attribute LEFT_OUT.
    """
    cohort = open_cohort(store).opened_once()
    unfinished = unfinished_lines(cohort)
    split, lines = part_asked(cohort, split)
    for line in [*unfinished, *lines]:
        say(f"evaluate: {line}")
    if coarser:
        cohort.require("evaluate --coarser", tasks=(SEMANTIC,))
    request = EvaluateRequest(runs=tuple(runs), split=split, resamples=resamples, seed=seed, coarser=coarser or {})
    scores = steps_of(cohort).evaluate(cohort, request).assign_attrs({n.TASK: cohort.task.name})
    scores = scores.assign_attrs(allowed_facts(allowed_pairs(cohort)))
    scores = scores.assign_attrs({n.SEEN: seen_lines(scores)} if n.HOW_SEEN in scores else {})
    name = n.COARSER_PREFIX + "-".join(name for name in coarser if name != n.REST) + f"_{split}" if coarser else split
    cohort.write(f"{n.METRICS}/{name}", scores)
    return scores


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """Stored scores for people, with 95 % intervals: of cells a row per group and run, of particles per run.

    Where the models of some runs have seen some of the tiles, a first column `tiles` tells the rows of all tiles from
    those of the seen ones and of the new ones.
    """
    table = _steps_behind(scores).score_table
    apart = {exposure: table(part) for exposure, part in of_exposures(scores).items()}
    if not apart:
        return table(scores)
    rows = {_ALL_TILES: table(scores), **apart}
    return pd.concat([one.assign(tiles=name) for name, one in rows.items()], ignore_index=True).pipe(_first, "tiles")


def score_numbers(scores: xr.Dataset) -> pd.DataFrame:
    """Stored scores for programs: a row for each score of a run, and of a group, threshold, class or exposure where it
    is by one, with the ends of its interval where it has one.
    """
    parts = [_numbers(scores, str(name)) for name, score in scores.data_vars.items() if _is_of_runs(score)]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found[[name for name in ("score", *_BY, "value", "low", "high") if name in found]]


def _is_of_runs(score: xr.DataArray) -> bool:
    return score.dtype.kind == "f" and n.RUN in score.dims and set(score.dims) <= set(_BY)


def _numbers(scores: xr.Dataset, name: str) -> pd.DataFrame:
    columns = {"value": scores[name]}
    interval = f"{name}_{n.INTERVAL}"
    if interval in scores:
        ends = scores[interval]
        columns |= {"low": ends.isel({n.QUANTILE: 0}, drop=True), "high": ends.isel({n.QUANTILE: -1}, drop=True)}
    frame = xr.Dataset(columns).reset_coords(drop=True).to_dataframe().reset_index()
    return frame.assign(score=name)


def score_lines(scores: xr.Dataset) -> list[str]:
    """What must be known to read the table of scores."""
    return [*doubt_lines(scores), *_steps_behind(scores).score_lines(scores)]


def _first(table: pd.DataFrame, column: str) -> pd.DataFrame:
    return table[[column, *table.columns.drop(column)]]


def _steps_behind(scores: xr.Dataset) -> TaskSteps:
    """The task whose steps made the scores; older ones do not say it, and only those of masks are by threshold."""
    older = INSTANCE if n.THRESHOLD in scores.dims else DETECTION
    return STEPS[scores.attrs.get(n.TASK, older)]
