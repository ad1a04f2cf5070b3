"""The studies that a store holds, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterator

from fintune_xr import names as n
from fintune_xr.analysis.report.budget_study import GROUP_PATH, budget_study
from fintune_xr.analysis.report.contents import Study
from fintune_xr.analysis.report.gate_study import gate_study
from fintune_xr.analysis.report.sweep_study import sweep_study
from fintune_xr.pipelines.gate import GATE_PREFIX
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.tables import subgroups


def stored_studies(cohort: Cohort) -> tuple[Study, ...]:
    """Every study of the store, by kind and name."""
    return (*_budget(cohort), *_gates(cohort), *_sweeps(cohort))


def _gates(cohort: Cohort) -> Iterator[Study]:
    for name in subgroups(cohort.location, n.METRICS):
        if name.startswith(GATE_PREFIX):
            yield gate_study(cohort.metrics(name))


def _sweeps(cohort: Cohort) -> Iterator[Study]:
    if n.SWEEP in subgroups(cohort.location, n.METRICS):
        yield sweep_study(cohort.metrics(n.SWEEP))


def _budget(cohort: Cohort) -> Iterator[Study]:
    if cohort.has(GROUP_PATH):
        yield budget_study(cohort.read(GROUP_PATH))
