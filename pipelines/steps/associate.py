"""Donor ratios, and their correlation with the clinical outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.association import associate as correlate
from fintune_xr.analysis.association import rank_correlation
from fintune_xr.analysis.clinical import clinical_outcomes, join_lines, outcome_lines, source_column
from fintune_xr.analysis.count_model import count_association
from fintune_xr.analysis.outcomes import DEFAULT_OUTCOMES
from fintune_xr.analysis.prediction_powered import correct_ratios
from fintune_xr.analysis.ratio import marker_ratio, ratio_bounds
from fintune_xr.errors import AnswerError, FintuneValueError, SettingsError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.validation import validate_rules
from fintune_xr.pipelines.steps.clinical_table import ClinicalTable, clinical_doubt, open_clinical
from fintune_xr.pipelines.steps.missing_ratios import with_missing_ratios
from fintune_xr.pipelines.steps.positivity import require_marker
from fintune_xr.pipelines.steps.rule_history import by_first_rule, rule_history
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import require_sources, source_doubt
from fintune_xr.store.lineage.exclusion import drifting_tiles, excluded_tiles, exclusion_rule
from fintune_xr.store.lineage.tile_counts import (
    active_rule,
    inputs_digest,
    quarantined_tiles,
    require_finished,
    tile_counts,
    without_tiles,
)
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.text import text_array, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRequest:
    """What donors are correlated with: outcomes and covariates of a clinical table, and the runs; empty: all known."""

    clinical: str | Path
    donor_column: str = "projid"
    outcomes: Sequence[str] = ()
    covariates: Sequence[str] = ()
    runs: Sequence[str] = ()
    replace: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What is correlated: `runs`, their `counts` of tiles, and the `outcomes` of their donors, from the `table`.

    `facts` are attributes of the result: what of the table it rests on, and how it was asked for. `refuse` raises where
    stored associations would be lost.
    """

    runs: list[str]
    counts: xr.Dataset
    outcomes: xr.Dataset
    table: ClinicalTable
    facts: Mapping[str, Any]
    refuse: Callable[[], None]


def join_outcomes(
    cohort: Cohort, asked: AssociationRequest, path: str, *, counting: Callable[[Cohort, Sequence[str]], xr.Dataset]
) -> Joined:
    """The runs asked for, their counts of tiles as `counting` takes them, and the outcomes of those donors.

    What joining found, and which columns are an outcome in another spelling, is said.

    Raises UnknownNameError for a column or run that is not there, FintuneValueError for unfinished runs, and where
    associations that are stored under `path` would be lost.
    """
    table = open_clinical(cohort, asked.clinical, asked.donor_column)
    names = list(asked.runs) or finished_runs(cohort)
    require_sources(cohort, names)
    counts = counting(cohort, names)
    chosen = list(asked.outcomes) or known_outcomes(table.rows, asked.donor_column)
    facts = clinical_outcomes(
        table.rows, sorted(set(text_array(counts[n.DONOR]))), donor_column=asked.donor_column,
        outcomes=chosen, covariates=asked.covariates,
    )  # fmt: skip
    wanted = texts(facts[n.OUTCOME])

    def refuse() -> None:
        if not asked.replace:
            refuse_narrower(cohort, path, names, outcomes=wanted, covariates=asked.covariates)

    refuse()
    facts = facts.assign_attrs({n.OTHERWISE_SPELT: [] if asked.outcomes else outcome_lines(table.rows, chosen)})
    for line in [*join_lines(facts), *facts.attrs[n.OTHERWISE_SPELT]]:
        say(f"associate: {line}")
    rests_on = [*map(source_column, chosen), *asked.covariates]
    made = table.facts(rests_on, outcomes=list(asked.outcomes), covariates=list(asked.covariates))
    return Joined(names, counts, facts, table, made, refuse)


@gives_named_labels
def associate(
    store: str | Path,
    *,
    clinical: str | Path,
    donor_column: str = "projid",
    outcomes: Sequence[str] = (),
    covariates: Sequence[str] = (),
    runs: Sequence[str] = (),
    replace: bool = False,
) -> xr.Dataset:
    """Ratio (run, donor, marker) and rho, p, q, n (run, marker, outcome), stored under `analysis`.

    `clinical` is a CSV or TSV with one row per donor; all known outcomes that it holds by default. With
    `covariates`, every rho is the partial Spearman correlation, also under other rules and of lost tiles. q is
    adjusted over markers and outcomes of a run. Without `runs` all that are finished are taken, and the others named.
    Beside rho stand the log odds of an overdispersed binomial regression of the counts (`count_association`).
    The ratio under every positivity rule that was applied, and rho had the quarantined tiles been all
    positive or all negative, are stored beside it.

    Stored associations of more runs or outcomes, or adjusted for other covariates, are replaced with `replace` only.

    Raises UnknownNameError for a column or run that is not there, FintuneValueError for `runs` that are
    unfinished, or where none is finished, and where stored associations would be lost.
    """
    cohort = open_cohort(store).opened_once(runs=True)
    require_marker(cohort)
    asked = AssociationRequest(
        clinical=clinical, donor_column=donor_column, outcomes=outcomes, covariates=covariates, runs=runs,
        replace=replace,
    )  # fmt: skip
    joined = join_outcomes(cohort, asked, n.ANALYSIS, counting=tile_counts)
    names, counts, facts = joined.runs, joined.counts, joined.outcomes
    adjusting = facts[n.COVARIATE_VALUE] if covariates else None
    told = rule_history(cohort, names)
    first = {run: told[n.FIRST_RULES][run] for run in names}
    found = with_missing_ratios(cohort, _associations(cohort, names, counts, facts, adjusting))
    by_first = by_first_rule(cohort, first, facts[n.OUTCOME_VALUE], adjusting).compute()
    found = found.merge(by_first.reset_coords(drop=True), join="left", compat="override")
    # Older analyses with covariates adjusted the main table alone; here every rho is adjusted.
    throughout = {n.ADJUSTED_THROUGHOUT: True} if covariates else {}
    result = found.assign_attrs(
        **throughout,
        inputs_sha256=association_inputs(counts, facts, covariates),
        lost_sha256=inputs_digest(quarantined_tiles(cohort, names)),
        rules={name: active_rule(cohort, name) for name in names},
        excluded=exclusion_rule(cohort),
        **told,
        **joined.facts,
    )
    with joined.table.noted(cohort, refuse=joined.refuse):
        cohort.write(n.CLINICAL, facts, datasets.CLINICAL)
        cohort.write(n.ANALYSIS, result, datasets.ANALYSIS)
    return result


def known_outcomes(table: pd.DataFrame, donor_column: str) -> list[str]:
    """Columns that are outcomes by their name. Raises FintuneValueError where there is none."""
    found = [name for name in DEFAULT_OUTCOMES if name in table.columns]
    if not found and donor_column in table.columns:
        others = [str(column) for column in table.columns if column != donor_column]
        raise FintuneValueError(
            "no column of the clinical table is an outcome that is known by its name "
            f"({', '.join(DEFAULT_OUTCOMES)}). Name yours with --outcome; there are: {', '.join(others) or 'none'}."
        )
    return found


def refuse_narrower(
    cohort: Cohort, path: str, runs: Sequence[str], *, outcomes: Sequence[str], covariates: Sequence[str] = ()
) -> None:
    """Raises FintuneValueError where what is stored under `path` holds more than `runs` and `outcomes` will.

    So it does where it was adjusted for other `covariates`. Runs that are gone are no loss.
    """
    if not cohort.has(path):
        return
    stored = cohort.read(path)
    kept = set(cohort.run_names()) - set(runs)
    lost_runs = [name for name in texts(stored[n.RUN]) if name in kept]
    lost_outcomes = [name for name in texts(stored[n.OUTCOME]) if name not in outcomes]
    lost = [f"{what} {', '.join(names)}" for what, names in (("runs", lost_runs), ("outcomes", lost_outcomes)) if names]
    before, now = covariates_of(stored), list(covariates)
    if before != now:
        lost.append(f"adjusted for {', '.join(before) or 'nothing'}, now for {', '.join(now) or 'nothing'}")
    if lost:
        raise FintuneValueError(
            f"{cohort.url} holds associations that this call would throw away: {'; '.join(lost)}. "
            "Ask for these too (--run, --outcome, --covariate, --group), or let them go with --replace."
        )


def refuse_mixed(*, groups: Sequence[str], subject: str, outcomes: Sequence[str], covariates: Sequence[str]) -> None:
    """Raises SettingsError for options that say nothing together: tests of groups have no covariates, and donors of one
    subject are not independent, so that no correlation is taken over them."""
    if covariates and groups and not outcomes:
        raise SettingsError("--covariate adjusts correlations with --outcome; rank tests of --group are not adjusted.")
    if subject and not groups:
        raise SettingsError(
            "--subject says whose the donors of groups are; name the column of the groups with --group."
        )
    if subject and outcomes:
        raise SettingsError(
            "--outcome correlates over independent donors, and --subject says that several donors are of one subject. "
            "Ask for --group with --subject alone."
        )


def finished_runs(cohort: Cohort) -> list[str]:
    """The finished runs of a cohort; of the others it is said why they are left out.

    Raises FintuneValueError where there is none.
    """
    left_out: dict[str, FintuneValueError] = {}
    for name in cohort.run_names():
        try:
            require_finished(cohort, name)
        except FintuneValueError as unfinished:
            left_out[name] = unfinished
    finished = [name for name in cohort.run_names() if name not in left_out]
    if not finished and left_out:
        raise next(iter(left_out.values()))
    if not finished:
        raise FintuneValueError(f"{cohort.url} has no run. Run: fintune-xr infer {cohort.url} --run R --model M")
    for reason in left_out.values():
        say(f"associate: left out: {reason}")
    return finished


def _associations(
    cohort: Cohort, runs: Sequence[str], counts: xr.Dataset, facts: xr.Dataset, adjusting: xr.DataArray | None
) -> xr.Dataset:
    """Ratios of the counts, their associations, and both under other rules and with lost tiles counted either way."""
    ratio = marker_ratio(counts[n.N_POSITIVE], counts[n.N_ALL])
    parts = [
        ratio,
        correlate(ratio[n.RATIO], facts[n.OUTCOME_VALUE], covariates=adjusting),
        count_association(ratio[n.N_POSITIVE], ratio[n.N_ALL], facts[n.OUTCOME_VALUE], covariates=adjusting),
        _bounds(cohort, runs, ratio, facts, adjusting),
        _by_rule(cohort, runs, facts, adjusting),
        _without_drift(cohort, runs, facts, adjusting),
        _corrected(cohort, runs, ratio[n.RATIO], facts, adjusting),
    ]
    return xr.merge(parts, combine_attrs="drop_conflicts", compat="no_conflicts", join="outer").compute()


def association_doubt(cohort: Cohort, found: xr.Dataset) -> str:
    """Why stored ratios and correlations are not those of the store as it is now, empty where they are.

    Clinical values are those of the tables that were given to the store; what lies in their files by now is not known.
    """
    runs = texts(found[n.RUN])
    try:
        counts = tile_counts(cohort, runs)
    except AnswerError as error:
        return str(error)
    facts = cohort.read(n.CLINICAL, datasets.CLINICAL).load()
    adjusted = covariates_of(found)
    if adjusted and not found.attrs.get(n.ADJUSTED_THROUGHOUT):
        return f"rho of lost tiles and of other rules was not adjusted for {', '.join(adjusted)}, as it is now"
    if found.attrs["rules"] != {run: active_rule(cohort, run) for run in runs}:
        return "positive cells are counted with another rule now"
    if found.attrs[n.INPUTS_SHA256] != association_inputs(counts, facts, adjusted):
        return "cells, donors or outcomes are others now"
    if found.attrs.get("lost_sha256") != inputs_digest(quarantined_tiles(cohort, runs)):
        return "other tiles are in quarantine now"
    told = clinical_doubt(cohort, found)
    return told or next(filter(None, (source_doubt(cohort, run) for run in runs)), "")


def association_inputs(counts: xr.Dataset, facts: xr.Dataset, covariates: Sequence[str]) -> str:
    """Digest of what correlations rest on: counts, outcomes and, where they were adjusted for, covariates."""
    adjusting = [facts[n.COVARIATE_VALUE]] if covariates else []
    return inputs_digest(counts, facts[n.OUTCOME_VALUE], *adjusting)


def covariates_of(analysis: xr.Dataset) -> list[str]:
    """Names of the covariates that stored associations were adjusted for."""
    return [str(name) for name in list(analysis.attrs.get("covariates", []))]


def association_table(found: xr.Dataset) -> pd.DataFrame:
    """One row per run, marker and outcome, smallest q first."""
    names = [n.RHO, n.P, n.Q, n.N, n.REASON]
    frame = found[names].to_dataframe().reset_index()[[n.RUN, n.MARKER, n.OUTCOME, *names]]
    return frame.sort_values([n.Q, n.P, n.RUN, n.MARKER, n.OUTCOME]).reset_index(drop=True)


def _bounds(
    cohort: Cohort, names: Sequence[str], ratio: xr.Dataset, facts: xr.Dataset, adjusting: xr.DataArray | None
) -> xr.Dataset:
    bounds = ratio_bounds(ratio, quarantined_tiles(cohort, names))
    outcomes = facts[n.OUTCOME_VALUE]
    correlations = {
        n.RHO_IF_LOST_NEGATIVE: (n.RATIO_LOW, "rho if no cell of the quarantined tiles were positive."),
        n.RHO_IF_LOST_POSITIVE: (n.RATIO_HIGH, "rho if every cell of the quarantined tiles were positive."),
    }
    return bounds.assign(
        {
            name: rank_correlation(bounds[bound], outcomes, covariates=adjusting).assign_attrs(long_name=meaning)
            for name, (bound, meaning) in correlations.items()
        }
    )


def _corrected(
    cohort: Cohort, runs: Sequence[str], ratio: xr.DataArray, facts: xr.Dataset, adjusting: xr.DataArray | None
) -> xr.Dataset:
    """Ratios and rho corrected by annotated tiles, of the runs that have any that are new to their model."""
    known = {run: validate_rules(cohort, run) for run in runs}
    parts = [
        correct_ratios(
            ratio.sel({n.RUN: run}, drop=True).compute(),
            facts[n.OUTCOME_VALUE],
            found.sel({n.RULE: active_rule(cohort, run)}, drop=True),
            covariates=adjusting,
        ).expand_dims({n.RUN: [run]})
        for run, found in known.items()
        if found is not None and found.sizes[n.TILE]
    ]
    if not parts:
        return xr.Dataset()
    return xr.concat(parts, n.RUN, join="outer").drop_attrs(deep=False)


def _without_drift(
    cohort: Cohort, runs: Sequence[str], facts: xr.Dataset, adjusting: xr.DataArray | None
) -> xr.Dataset:
    """Rho (run, marker, outcome) of all tiles and of those that are not unusual; nothing where none was measured.

    Both stand beside the main table whatever rule leaves tiles out of that.
    """
    drifting = drifting_tiles(cohort)
    if drifting is None:
        return xr.Dataset()
    counts = tile_counts(cohort, runs, exclude=False)
    parts = {n.RHO_OF_ALL_TILES: counts, n.RHO_WITHOUT_DRIFT: without_tiles(counts, drifting)}
    found = {
        name: rank_correlation(
            marker_ratio(one[n.N_POSITIVE], one[n.N_ALL])[n.RATIO], facts[n.OUTCOME_VALUE], covariates=adjusting
        )
        for name, one in parts.items()
    }
    return xr.Dataset(found).assign_attrs({n.N_DRIFTING: int(drifting.sum())})


def _by_rule(cohort: Cohort, names: Sequence[str], facts: xr.Dataset, adjusting: xr.DataArray | None) -> xr.Dataset:
    """Ratio (run, rule, donor, marker) and rho (run, rule, marker, outcome) under each rule that was applied."""
    images = cohort.images(lazy=False)
    labels = {c: (n.TILE, images[c].values) for c in (n.DONOR, n.MARKER)}
    left_out = excluded_tiles(cohort)
    stored = {name: cohort.read(f"{n.POSITIVITY}/{name}", POSITIVITY)[[n.N_POSITIVE, n.N_ALL]] for name in names}
    judged = {name: without_tiles(one.load(), left_out).assign_coords(labels) for name, one in stored.items()}
    rules = sorted({rule for counts in judged.values() for rule in texts(counts[n.RULE])})
    ratios = []
    for rule in rules:
        having = [name for name in names if rule in texts(judged[name][n.RULE])]
        counts = [judged[name].sel({n.RULE: rule}, drop=True)[[n.N_POSITIVE, n.N_ALL]] for name in having]
        joined = xr.concat(counts, n.RUN, join="exact").assign_coords({n.RUN: having})
        ratios.append(marker_ratio(joined[n.N_POSITIVE], joined[n.N_ALL])[n.RATIO])
    ratio = xr.concat(ratios, n.RULE, join="outer").assign_coords({n.RULE: rules})
    return xr.Dataset(
        {
            n.RATIO_BY_RULE: ratio,
            n.RHO_BY_RULE: rank_correlation(ratio, facts[n.OUTCOME_VALUE], covariates=adjusting),
        }
    )
