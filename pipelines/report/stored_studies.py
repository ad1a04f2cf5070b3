"""The studies that a store holds, as the report shows them, or why it leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.reference_figures import STUDY_MARKERS
from fintune_xr.analysis.report.contents import Stale, Study
from fintune_xr.analysis.report.studies.benchmark import benchmark_study
from fintune_xr.analysis.report.studies.budget import budget_study
from fintune_xr.analysis.report.studies.gate import gate_study
from fintune_xr.analysis.report.studies.sweep import sweep_study
from fintune_xr.errors import AnswerError
from fintune_xr.pipelines.report.gallery import benchmark_gallery
from fintune_xr.pipelines.studies.gate import counts_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import doubt, tiles_in, truth_doubt
from fintune_xr.store.lineage.tile_counts import tile_counts
from fintune_xr.text import texts


def stored_studies(cohort: Cohort) -> dict[str, tuple[Study | Stale, ...]]:
    """Every study of the store, by its section and name; those that are out of date are named and not shown."""
    readers = {"benchmark": _benchmark, n.BUDGET: budget_studies, "gate": _gates, n.SWEEP: _sweeps}
    return {key: tuple(read(cohort)) for key, read in readers.items()}


def _benchmark(cohort: Cohort) -> Iterator[Study | Stale]:
    if not cohort.has(n.BENCHMARK_PATH):
        return
    found = cohort.read(n.BENCHMARK_PATH).load()
    reason = doubt(cohort, found, tiles_in(cohort, n.VAL, n.TEST))
    if reason:
        command = f"fintune-xr benchmark STORE --model {found.attrs[n.PROVENANCE]['model']} prefix=NEW-"
        yield Stale(f"the ways to train, {n.BENCHMARK_PATH}", reason, command)
        return
    published = bool(STUDY_MARKERS & set(texts(found[n.MARKER])))
    yield benchmark_study(found, gallery=benchmark_gallery(cohort, found), beside_published=published)


def _gates(cohort: Cohort) -> Iterator[Study | Stale]:
    for name in cohort.names_under(n.METRICS):
        if name.startswith(n.GATE_PREFIX):
            found = cohort.metrics(name)
            run, part = found.attrs[n.RUN], found.attrs[n.PROVENANCE]["split"]
            reason = _gate_doubt(cohort, found, run, part)
            command = f"fintune-xr gate STORE --run {run} --split {part}"
            yield Stale(f"the gates of run {run}", reason, command) if reason else gate_study(found)


def _gate_doubt(cohort: Cohort, found: xr.Dataset, run: str, part: str) -> str:
    told = doubt(cohort, found, tiles_in(cohort, part))
    if told:
        return told
    try:
        now = counts_digest(cohort, tile_counts(cohort, [run]))
    except AnswerError as error:
        return str(error)
    return "cells, donors or outcomes are others now" if found.attrs[n.RESTS_ON][n.COUNTED] != now else ""


def _sweeps(cohort: Cohort) -> Iterator[Study | Stale]:
    if n.SWEEP not in cohort.names_under(n.METRICS):
        return
    found = cohort.metrics(n.SWEEP)
    reason = _sweep_doubt(cohort, found.attrs[n.IDENTITY])
    command = "fintune-xr sweep STORE --model WEIGHTS --restart"
    yield Stale("the SAM sweep", reason, command) if reason else sweep_study(found)


def _sweep_doubt(cohort: Cohort, identity: Mapping[str, Any]) -> str:
    """A sweep rests on the very tiles that were drawn for it, and on no run."""
    drawn, digests = identity["tiles"], identity[n.ANNOTATIONS]
    truth = cohort.annotations(lazy=False)
    now = dict(zip(texts(truth[n.TILE]), texts(truth[n.SHA256]), strict=True))
    if [now.get(tile) for tile in drawn] != digests:
        return "annotations have changed since"
    left = set(drawn) - set(tiles_in(cohort, str(identity[n.SPLIT])))
    return "the store has another split now" if left else ""


def budget_studies(cohort: Cohort) -> Iterator[Study | Stale]:
    """The label budget, where the store holds one."""
    if not cohort.has(n.BUDGET_PATH):
        return
    found = cohort.read(n.BUDGET_PATH)
    reason = truth_doubt(cohort, found.attrs[n.IDENTITY], tiles_in(cohort, *n.SPLITS))
    command = f"fintune-xr budget STORE --model {found.attrs[n.PROVENANCE]['model']} --restart"
    yield Stale("the label budget", reason, command) if reason else budget_study(found)
