"""What the summary says of associations: those with a small q in plain words, run by run, the baseline last."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis import outcomes
from fintune_xr.analysis.report.contents import Note
from fintune_xr.analysis.report.numbers import decimals, probability, whole
from fintune_xr.analysis.report.sections.first_rule import of_first_rule
from fintune_xr.analysis.report.sections.statistics import Statistics

ALPHA: Final = 0.05
MOST_TOLD: Final = 5


def findings(contents: Statistics, table: pd.DataFrame) -> list[Note]:
    """The rows of `table` with q < ALPHA, of each run on its own, or that there are none.

    `table` is that of all associations, smallest q first. The baseline stands last and in one line where there are
    other runs.
    """
    if contents.analysis is None:
        return []
    runs = sorted(map(str, contents.analysis[n.RUN].values), key=lambda run: run == contents.baseline)
    names = covariates_of(contents.analysis)
    adjusted = f", adjusted for {names}" if names else ""
    told: list[Note] = []
    for run in runs:
        in_short = len(runs) > 1 and run == contents.baseline
        told += of_first_rule(run, contents.analysis)
        told += _of_run(run, table[table[n.RUN] == run], adjusted, in_short=in_short)
    return told


def covariates_of(dataset: xr.Dataset) -> str:
    """Names of the covariates that every rho of `dataset` is adjusted for, empty where there are none."""
    return ", ".join(map(str, list(dataset.attrs.get("covariates", []))))


def _of_run(run: str, table: pd.DataFrame, adjusted: str, *, in_short: bool) -> list[Note]:
    hits = table[table[n.Q] < ALPHA]
    tested = whole(table[n.Q].notna().sum())
    if hits.empty:
        return [Note(f"{run}: none of {tested} associations has q < {ALPHA}{adjusted}.", "doubtful")]
    head = f"{run}: {whole(len(hits))} of {tested} associations have q < {ALPHA}{adjusted}"
    if in_short:
        return [Note(f"{head}: {_listed(hits)}.")]
    more = len(hits) - MOST_TOLD
    rest = [Note(f"{run}: {whole(more)} more are in the table of all associations.")] if more > 0 else []
    return [Note(f"{head}."), *(_finding(row) for row in hits.head(MOST_TOLD).to_dict("records")), *rest]


def _listed(hits: pd.DataFrame) -> str:
    rows = hits.head(MOST_TOLD).to_dict("records")
    told = ", ".join(f"{row[n.MARKER]} with {row[n.OUTCOME]} (rho {_signed(row[n.RHO])})" for row in rows)
    return told if len(hits) <= MOST_TOLD else f"{told} and {whole(len(hits) - MOST_TOLD)} more"


def _finding(row: Mapping[Hashable, Any]) -> Note:
    rho, direction = float(row[n.RHO]), str(row[n.DIRECTION])
    moves = "rises" if rho > 0 else "falls"
    worse = {outcomes.WORSE: rho > 0, outcomes.BETTER: rho < 0}.get(direction)
    pathology = "worse" if worse else "less"
    reading = "" if worse is None else f": more positive cells go with {pathology} pathology"
    numbers = f"rho {_signed(rho)}, {int(row[n.N])} donors, q {probability(row[n.Q])}"
    what = f"{row[n.RUN]}: the {row[n.MARKER]} ratio {moves} with {row[n.OUTCOME]} ({direction})"
    return Note(f"{what}{reading} ({numbers}).", "good")


def _signed(rho: float) -> str:
    return decimals(2, signed=True)(rho)
