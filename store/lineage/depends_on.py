"""What stored scores rest on, as digests that lie beside them, and what of it the store no longer has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.provenance import settings_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import ALL, AnnotatedPart, annotated_tiles, require_split
from fintune_xr.text import text_array, texts

_RUNS: Final = "runs"


def rests_on(cohort: Cohort, *, tiles: Iterable[str], split: str, runs: Iterable[str] = ()) -> dict[str, Any]:
    """Digests of `runs`, of the annotations of `tiles`, and of the split, `split` being empty where it plays no part.

    JSON, for the attribute RESTS_ON of the scores.
    """
    return {
        _RUNS: run_digests(cohort, runs),
        n.ANNOTATIONS_DIGEST: truth_digest(cohort, tiles),
        n.SPLIT_DIGEST: split,
    }


def part_rests_on(cohort: Cohort, part: AnnotatedPart, runs: Iterable[str] = ()) -> dict[str, Any]:
    """The same of scores of `runs` on a part."""
    return rests_on(cohort, runs=runs, tiles=part.names, split=part.digest)


def truth_digest(cohort: Cohort, tiles: Iterable[str]) -> str:
    """SHA-256 of what is annotated in `tiles`, as the task of the cohort tells it."""
    return cohort.task.digest(cohort.annotations(lazy=False), sorted(map(str, tiles)))


def run_digests(cohort: Cohort, runs: Iterable[str]) -> dict[str, str]:
    """A digest of each run's weights, settings and sources, by its name."""
    return {run: settings_digest(cohort.run_attrs(run)[n.IDENTITY]) for run in runs}


def tiles_in(cohort: Cohort, *parts: str) -> list[str]:
    """Ids of the annotated tiles in `parts` of the split; of all of them where a part is `all`."""
    tiles = annotated_tiles(cohort)
    chosen = np.isin(text_array(tiles[n.SPLIT]), parts) | (ALL in parts)
    return texts(tiles[n.TILE].isel({n.TILE: np.flatnonzero(chosen)}))


def doubt(cohort: Cohort, found: xr.Dataset, tiles: Iterable[str]) -> str:
    """Why scores `found` are not those of the store as it is now, empty where they are.

    `tiles` are the annotated tiles that they would be made on now.
    """
    known = found.attrs.get(n.RESTS_ON)
    if known is None:
        return "they were stored without a record of what they rest on"
    told = runs_doubt(cohort, known[_RUNS]) or truth_doubt(cohort, known, tiles)
    return told or quarantine_doubt(cohort, found.attrs.get(n.LEFT_OUT, {}))


def quarantine_doubt(cohort: Cohort, left_out: Mapping[str, Iterable[str]]) -> str:
    """Which run has another result now for a tile that scores left out because it was in quarantine."""
    there = cohort.run_names()
    for name, tiles in left_out.items():
        run = cohort.run(name, lazy=False) if name in there else None
        if (
            run is None
            or not (run[n.STATE].values[np.isin(text_array(run[n.TILE]), list(tiles))] == n.QUARANTINED).all()
        ):
            return f"tiles that run {name} had in quarantine are not there any more"
    return ""


def runs_doubt(cohort: Cohort, digests: Mapping[str, str]) -> str:
    """Which of the runs, by name and digest, is gone or another one now; empty where all are the same."""
    there = cohort.run_names()
    for run, digest in digests.items():
        if run not in there:
            return f"run {run} is gone"
        if run_digests(cohort, [run])[run] != digest:
            return f"run {run} has been made anew"
        told = source_doubt(cohort, run)
        if told:
            return told
    return ""


def source_doubt(cohort: Cohort, run: str) -> str:
    """Which run that `run` holds masks of is no longer the one that they were taken from; empty where none."""
    there = cohort.run_names()
    for source, identity in cohort.run_attrs(run)[n.IDENTITY].get(n.SOURCES, {}).items():
        if source not in there or cohort.run_attrs(source)[n.IDENTITY] != identity:
            return f"run {run} holds masks of run {source} as it was before"
        told = source_doubt(cohort, source)
        if told:
            return told
    return ""


def require_sources(cohort: Cohort, runs: Iterable[str]) -> None:
    """Raises FintuneValueError where a run holds masks of another one that has been made anew since."""
    for run in runs:
        told = source_doubt(cohort, run)
        if told:
            raise FintuneValueError(
                f"{told}. Make it anew: fintune-xr hybrid {cohort.url} --name {run} --restart --run … (as before), "
                "or leave it out: name the others with --run."
            )


def truth_doubt(cohort: Cohort, known: Mapping[str, Any], tiles: Iterable[str]) -> str:
    """Whether the split or the annotations of `tiles` are others than those of `known`; empty where they are not."""
    if known[n.SPLIT_DIGEST]:
        try:
            now = require_split(cohort)
        except SplitError:
            return "the store has no valid split any more"
        if now != known[n.SPLIT_DIGEST]:
            return "the store has another split now"
    if truth_digest(cohort, tiles) != known[n.ANNOTATIONS_DIGEST]:
        return "annotations have changed since"
    return ""
