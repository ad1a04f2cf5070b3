"""Verification of a store, and of its split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import SchemaError, SplitError, StoreDamagedError, UnreadableFileError
from fintune_xr.pipelines.console import progress
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.store.check.problem import Problem, explain_faults, problem_of
from fintune_xr.store.check.store import check_store, open_nodes
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.measurement_writer import set_back_damaged
from fintune_xr.store.runs.writer import mark_pending
from fintune_xr.store.split import require_split


def check(store: str | Path, *, repair: bool = False) -> list[Problem]:
    """All problems of `store`; empty when it is sound.

    `repair` sets the damaged tiles of runs back to pending, so that `infer` makes just these again, and damaged blocks
    of measured columns, which `measure` then makes again; it removes what killed writers left unfinished, unless
    another process is writing. Of a file that its disk cannot give nothing is set back: it is named, and stays.

    Raises StoreUnreachableError where the store does not answer.
    """
    cohort = open_cohort(store).opened_once()
    if repair:
        cohort.remove_leftovers()
    nodes = open_nodes(cohort)
    with progress("check", nodes.n_tiles_to_read) as advance:
        problems = list(check_store(cohort, nodes, advance=advance))
    problems += _split_problems(cohort)
    if repair:
        _mark_damaged(cohort, problems)
    return problems


def problem_table(problems: Sequence[Problem]) -> pd.DataFrame:
    """One row per fault: where, what, remedy, and the positions of the tiles that are hit."""
    rows = [(one.where, one.what, one.remedy, list(one.tiles)) for one in problems]
    return pd.DataFrame(rows, columns=["where", "what", "remedy", "tiles"])


def _split_problems(cohort: Cohort) -> list[Problem]:
    try:
        with explain_faults(cohort, cohort.url):
            if not cohort.has(n.ANNOTATIONS) or not (cohort.images(lazy=False)[n.SPLIT].values != n.UNASSIGNED).any():
                return []
            require_split(cohort)
            refuse_leaks(cohort)
    except UnreadableFileError as error:
        return [problem_of(error, f"{n.IMAGES}/{n.SPLIT}", n.IMAGES, "cannot be checked")]
    except SplitError as error:
        return [Problem(f"{n.IMAGES}/{n.SPLIT}", str(error), "Split again with --restart")]
    except (StoreDamagedError, SchemaError):
        # Which labels that are is among the problems of the store.
        return []
    return []


def _mark_damaged(cohort: Cohort, problems: list[Problem]) -> None:
    for run in cohort.run_names():
        damaged = {t for p in problems if p.where.startswith(f"{n.RUNS}/{run}/") for t in p.tiles}
        if damaged:
            mark_pending(cohort, run, sorted(damaged))
    for run in cohort.names_under(n.MEASUREMENTS):
        if any(problem.where.startswith(f"{n.MEASUREMENTS}/{run}/") for problem in problems):
            set_back_damaged(cohort.location, run)
