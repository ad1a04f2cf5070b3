"""Groups of donors held against each other: the ratio, or another readout, by rank tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.clinical import join_lines
from fintune_xr.analysis.group_labels import clinical_groups, group_lines, parse_groups
from fintune_xr.analysis.group_tests import group_tests
from fintune_xr.analysis.ratio import marker_ratio
from fintune_xr.analysis.readouts import RATIO, Readout, parse_readout
from fintune_xr.errors import AnswerError, FintuneValueError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.steps.associate import finished_runs, refuse_narrower
from fintune_xr.pipelines.steps.clinical_table import clinical_doubt, open_clinical
from fintune_xr.pipelines.steps.positivity import require_marker
from fintune_xr.pipelines.steps.readout import readout_basis, readout_doubt, readout_in_cohort, readout_values
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import require_sources, run_digests, runs_doubt
from fintune_xr.store.lineage.tile_counts import active_rule, inputs_digest, tile_counts
from fintune_xr.text import texts

_COUNTS = "counts"


def compare_groups(
    store: str | Path,
    *,
    groups: Sequence[str],
    clinical: str | Path,
    donor_column: str = "projid",
    subject: str = "",
    readout: str = RATIO,
    runs: Sequence[str] = (),
    replace: bool = False,
) -> xr.Dataset:
    """Tests (run, marker, outcome) of the donors' `readout` between groups, stored under `group_tests/<readout>`.

    `groups` are columns of the clinical table with text or numbers, each `COLUMN` or `COLUMN=a,b` for these groups in
    this order. With `subject`, the column of those whom several donors are of, the groups are times of one subject.
    Which test that is and how q is adjusted: `analysis.group_tests`. Tests of more runs or columns are replaced with
    `replace` only.

    Raises UnknownNameError for a column, group or run that is not there, SettingsError for a readout that is not known,
    FintuneValueError for runs that are unfinished, and a subject with two donors in one group.
    """
    cohort = open_cohort(store).opened_once(runs=True)
    table = open_clinical(cohort, clinical, donor_column)
    asked = None if readout == RATIO else readout_in_cohort(cohort, readout)
    if asked is None:
        require_marker(cohort)
    names = list(runs) or finished_runs(cohort)
    require_sources(cohort, names)
    values = _ratio(cohort, names) if asked is None else readout_values(cohort, names, asked)
    labels = clinical_groups(
        table.rows, texts(values[n.DONOR]), donor_column=donor_column, groups=groups, subject=subject
    )
    path = f"{n.GROUP_TESTS}/{RATIO if asked is None else asked.name}"

    def refuse() -> None:
        if not replace:
            refuse_narrower(cohort, path, names, outcomes=texts(labels[n.OUTCOME]))
            _refuse_other_subjects(cohort, path, subject)

    refuse()
    for line in [*join_lines(labels), *group_lines(labels)]:
        say(f"associate: {line}")
    rests_on = [*(parse_groups(one)[0] for one in groups), *([subject] if subject else [])]
    found = group_tests(values, labels)
    result = found.assign_attrs(
        {
            n.READOUT: readout if asked is None or parse_readout(readout) == asked else asked.text,
            n.SUBJECT: subject,
            n.RESTS_ON: _basis(cohort, names, asked),
            **table.facts(rests_on, groups=list(groups)),
        }
    )
    with table.noted(cohort, refuse=refuse):
        cohort.write(path, result, datasets.GROUP_TESTS)
    return result


def group_table(found: xr.Dataset) -> pd.DataFrame:
    """One row per run, marker and column of groups, smallest q first."""
    names = [n.RANK_TEST, n.EFFECT, n.EFFECT_LOW, n.EFFECT_HIGH, n.N, n.P, n.Q, n.REASON]
    frame = found[names].reset_coords(drop=True).to_dataframe().reset_index()[[n.RUN, n.MARKER, n.OUTCOME, *names]]
    return frame.sort_values([n.Q, n.P, n.RUN, n.MARKER, n.OUTCOME]).reset_index(drop=True)


def group_doubt(cohort: Cohort, found: xr.Dataset) -> str:
    """Why stored tests are not those of the store as it is now, empty where they are.

    Clinical values are those of the tables that were given to the store; what lies in their files by now is not known.
    """
    if found.attrs[n.READOUT] != RATIO:
        return readout_doubt(cohort, found)
    known = found.attrs[n.RESTS_ON]
    told = runs_doubt(cohort, known["runs"])
    if told:
        return told
    try:
        now = _basis(cohort, texts(found[n.RUN]), None)
    except AnswerError as error:
        return str(error)
    if now["rules"] != known["rules"]:
        return "positive cells are counted with another rule now"
    if now != known:
        return "cells, donors or the tiles that are left out are others now"
    return clinical_doubt(cohort, found)


def _refuse_other_subjects(cohort: Cohort, path: str, subject: str) -> None:
    before = str(cohort.read(path).attrs[n.SUBJECT]) if cohort.has(path) else subject
    if before != subject:
        kept, now = (f"subjects by {one!r}" if one else "independent donors" for one in (before, subject))
        raise FintuneValueError(
            f"{cohort.url} holds tests of {kept} that this call would throw away, for {now}. Let them go with "
            "--replace, or ask as before (--subject)."
        )


def _ratio(cohort: Cohort, runs: Sequence[str]) -> xr.DataArray:
    counts = tile_counts(cohort, runs)
    ratio = marker_ratio(counts[n.N_POSITIVE], counts[n.N_ALL])[n.RATIO].compute()
    return ratio.assign_attrs(datasets.ANALYSIS[n.RATIO].attrs)


def _basis(cohort: Cohort, runs: Sequence[str], readout: Readout | None) -> dict[str, Any]:
    if readout is not None:
        return readout_basis(cohort, runs, readout)
    return {
        "runs": run_digests(cohort, runs),
        "rules": {run: active_rule(cohort, run) for run in runs},
        _COUNTS: inputs_digest(tile_counts(cohort, runs)),
    }
