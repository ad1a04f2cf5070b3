"""The studies that a store holds, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.published import STUDY_MARKERS
from fintune_xr.analysis.report.benchmark_study import GROUP_PATH as BENCHMARK_PATH
from fintune_xr.analysis.report.benchmark_study import benchmark_study
from fintune_xr.analysis.report.budget_study import GROUP_PATH, budget_study
from fintune_xr.analysis.report.contents import Study
from fintune_xr.analysis.report.gate_study import gate_study
from fintune_xr.analysis.report.sweep_study import sweep_study
from fintune_xr.pipelines.gallery import benchmark_gallery
from fintune_xr.pipelines.gate import GATE_PREFIX
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs import IDENTITY, run_attrs
from fintune_xr.store.tables import subgroups
from fintune_xr.text import texts

STALE_BENCHMARK: Final = "Out of date: a run has been made anew or removed since; run the benchmark again."
STALE: Final = "Out of date: the run has been made anew or removed since; gate it again."


def stored_studies(cohort: Cohort) -> tuple[Study, ...]:
    """Every study of the store, by kind and name."""
    return (*_benchmark(cohort), *_budget(cohort), *_gates(cohort), *_sweeps(cohort))


def _benchmark(cohort: Cohort) -> Iterator[Study]:
    if not cohort.has(BENCHMARK_PATH):
        return
    found = cohort.read(BENCHMARK_PATH).load()
    runs = found.attrs["runs"]
    there = set(cohort.run_names())
    is_current = all(
        run in there and run_attrs(cohort, run)[IDENTITY] == found.attrs[IDENTITY][name] for name, run in runs.items()
    )
    published = bool(STUDY_MARKERS & set(texts(found[n.MARKER])))
    gallery = benchmark_gallery(cohort, found) if is_current else None
    study = benchmark_study(found, gallery=gallery, beside_published=published)
    yield study if is_current else replace(study, text=f"{STALE_BENCHMARK} {study.text}")


def _gates(cohort: Cohort) -> Iterator[Study]:
    for name in subgroups(cohort.location, n.METRICS):
        if name.startswith(GATE_PREFIX):
            found = cohort.metrics(name)
            study = gate_study(found)
            yield study if _is_current(cohort, found) else replace(study, text=f"{STALE} {study.text}")


def _is_current(cohort: Cohort, found: xr.Dataset) -> bool:
    """Whether the run is still the one that was gated."""
    run = str(found.attrs[n.RUN])
    return run in cohort.run_names() and run_attrs(cohort, run)[IDENTITY] == found.attrs[IDENTITY]


def _sweeps(cohort: Cohort) -> Iterator[Study]:
    if n.SWEEP in subgroups(cohort.location, n.METRICS):
        yield sweep_study(cohort.metrics(n.SWEEP))


def _budget(cohort: Cohort) -> Iterator[Study]:
    if cohort.has(GROUP_PATH):
        yield budget_study(cohort.read(GROUP_PATH))
