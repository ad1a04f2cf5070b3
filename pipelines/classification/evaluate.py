"""Scores of runs that sort participants into classes: of participants, of eyes and scans, and of groups of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.metrics.classification import kernels
from fintune_xr.metrics.classification.scores import (
    classification_scores,
    scores_by_participant_bootstrap,
    shared_ranks,
)
from fintune_xr.metrics.classification.units import Units, by_unit
from fintune_xr.metrics.intervals import score_line
from fintune_xr.pipelines.classification.scans import Scans, labelled_scans, require_scans, runs_with, with_vectors
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.task_parts.seen_apart import Scored, seen_apart
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import require_sources, rests_on
from fintune_xr.store.lineage.training_exposure import require_unseen
from fintune_xr.store.runs.run import quarantined_of_runs
from fintune_xr.store.split import ALL, require_split

# A row of the scores that is no run: the shares of the classes among the participants of train, for everybody.
MAJORITY: Final = "majority_class"
# So many participants are needed for percentiles of a bootstrap to hold what they promise, within a few per cent.
FEW: Final = 24
# What `majority_class` has seen is not told: it is in no part new to the participants that it knows the shares of.
_UNTOLD: Final = {n.HOW_SEEN: -1}
UNITS: Final = ("participant", "eye", "scan")


def evaluate_classes(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores of the logits of runs on the participants of a part, all runs with logits by default.

    Under the names of `scores_by_participant_bootstrap` those of participants, with intervals; `by_unit_<score>`
    (run, unit) and `by_unit_confusion` of participants, eyes and scans; `by_group_<score>` (run, group) of the
    participants by device, side and site, with `by_group_n_units` (group). `probability` (run, donor, class) and
    `label` (donor) are what is scored. All runs are scored on the scans that all of them have; the row
    `majority_class` gives everybody the shares of the classes in train.

    Raises FintuneValueError for a run without logits or with pending scans, SplitError for a run whose model has seen
    the participants of the part.
    """
    split, names = request.split, runs_with(cohort, n.LOGITS, request.runs)
    digest = require_split(cohort) if split != ALL else ""
    require_sources(cohort, names)
    known = labelled_scans(cohort, ALL)
    scans = require_scans(cohort, known.within(split), split)
    if split != ALL:
        require_unseen(cohort, names, scans.tile.tolist())
    done, logits = _common(cohort, names, scans)
    left_out = quarantined_of_runs(cohort, names, scans.tile.tolist())
    logits = np.concatenate([logits, _of_majority(known, scans, len(done.tile))[np.newaxis]])
    units, probability = by_unit(logits, done.label, done.participant)
    scores = _scored(probability, units, request)
    further = [_by_unit(logits, done), _by_group(cohort, logits, done)]
    apart = _apart(cohort, names, logits, done, request) if split == ALL else xr.Dataset()
    coords = {n.RUN: [*names, MAJORITY], n.CLASS: list(done.classes), n.DONOR: units.name}
    coords |= {name: list(done.classes) for name in (n.TRUTH, n.PREDICTED)}
    if n.REFERENCE in scores.dims:
        coords[n.REFERENCE] = coords[n.RUN]
    raw = {
        n.PROBABILITY: ((n.RUN, n.DONOR, n.CLASS), probability),
        n.LABEL: ((n.DONOR,), units.truth),
        "n_scans": ((n.DONOR,), units.n_scans),
    }
    tiles = scans.tile.tolist()
    apart = apart.reindex({name: coords[name] for name in (n.RUN, n.DONOR) if name in apart.dims}, fill_value=_UNTOLD)
    return xr.merge([xr.merge([scores.assign(raw), *further]).assign_coords(coords), apart]).assign_attrs(
        {
            n.LEFT_OUT: left_out,
            n.RESTS_ON: rests_on(cohort, tiles=tiles, split=digest, runs=names),
            n.PROVENANCE: provenance(
                split=split, split_digest=digest, resamples=request.resamples, seed=request.seed,
                n_left_out=len(tiles) - len(done.tile),
            ),
        }
    )  # fmt: skip


def _apart(
    cohort: Cohort, runs: Sequence[str], logits: NDArray[np.float64], scans: Scans, request: EvaluateRequest
) -> xr.Dataset:
    def scores(run: str, at: NDArray[np.intp]) -> xr.Dataset:
        units, probability = by_unit(logits[[runs.index(run)]][:, at], scans.label[at], scans.participant[at])
        return _scored(probability, units, request)

    scored = Scored(scans.tile.tolist(), [str(who) for who in scans.participant], n.DONOR)
    return seen_apart(cohort, runs, scored, scores)


def class_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per run, best first: rank, balanced accuracy of participants with its interval, and further scores.

    Runs have no rank where each is scored on participants of its own, seen or new ones.
    """
    ranks = ranks_of(scores) if n.EXPOSURE not in scores.coords else {}
    rows: list[dict[str, Any]] = []
    for run in scores[n.RUN].values[np.argsort(-scores[n.BALANCED_ACCURACY].values, kind="stable")]:
        one = scores.sel({n.RUN: run})
        row: dict[str, Any] = {"rank": ranks.get(str(run), ""), n.RUN: str(run)}
        for score in (n.BALANCED_ACCURACY, n.MACRO_F1, n.MEAN_AUROC, n.ACCURACY):
            row[score] = score_line(one, score)
        row |= {f"F1 {name}": f"{float(one[n.F1].sel({n.CLASS: name})):.3f}" for name in texts_of(scores, n.CLASS)}
        rows.append(row)
    return pd.DataFrame(rows)


def class_lines(scores: xr.Dataset) -> list[str]:
    """What must be known to read that table."""
    counts = scores[n.CONFUSION].isel({n.RUN: 0}).sum(n.PREDICTED)
    there = ", ".join(f"{name} {int(number)}" for name, number in zip(texts_of(scores, n.TRUTH), counts, strict=True))
    ranked = "Runs share a rank where the interval of their difference includes 0."
    if n.N_COMPLETE not in scores:
        ranked = "There are no intervals, so ranks say which score is higher, and not whether runs can be told apart."
    lines = [f"Participants: {there}. {ranked}"]
    if n.N_COMPLETE in scores:
        lines.append(
            f"Intervals are over participants: {int(scores[n.N_COMPLETE])} resamples that hold every class there is."
        )  # fmt: skip
    if n.N_COMPLETE in scores and int(counts.sum()) < FEW:
        lines.append(
            f"Of fewer than {FEW} participants such intervals are too narrow (docs/explanation/statistics.md): read "
            "differences with care."
        )
    # Newer scores name them, and `left_out_lines` says it.
    left_out = int(scores.attrs[n.PROVENANCE].get("n_left_out", 0)) if n.LEFT_OUT not in scores.attrs else 0
    return [*lines, *([f"{left_out} scans are left out, which some run could not do."] if left_out else [])]


def ranks_of(scores: xr.Dataset) -> dict[str, int]:
    """Shared ranks of the runs by balanced accuracy; without intervals every run has its own."""
    values, name = scores[n.BALANCED_ACCURACY].values, f"{n.BALANCED_ACCURACY}_{n.DIFFERENCE}_{n.INTERVAL}"
    if name in scores:
        intervals = scores[name].transpose(n.RUN, n.REFERENCE, n.QUANTILE).values
    else:
        single = values[:, np.newaxis] - values
        intervals = np.stack([single, single], -1)
    return dict(zip(texts_of(scores, n.RUN), shared_ranks(values.tolist(), intervals).tolist(), strict=True))


def texts_of(scores: xr.Dataset, name: str) -> list[str]:
    """A coordinate as texts."""
    return [str(value) for value in scores[name].values]


def _common(cohort: Cohort, runs: Sequence[str], scans: Scans) -> tuple[Scans, NDArray[np.float64]]:
    """The scans that all runs have done, and their logits (run, scan, class)."""
    done = {run: with_vectors(cohort, run, n.LOGITS, scans) for run in runs}
    everywhere = np.logical_and.reduce([np.isin(scans.tile, one.tile) for one, _ in done.values()])
    missing = int((~everywhere).sum())
    if missing:
        say(f"evaluate: {missing} scans are left out, which not all of {', '.join(runs)} could do")
    chosen = scans.only(everywhere)
    rows = [logits[np.isin(one.tile, chosen.tile)] for one, logits in done.values()]
    return chosen, np.array(rows, np.float64)


def _of_majority(known: Scans, scans: Scans, n_scans: int) -> NDArray[np.float64]:
    """Log of the shares of the classes among the participants of train, or of `scans` where there is no train."""
    train = known.within(n.TRAIN)
    counted = train if train.tile.size else scans
    _, first = np.unique(counted.participant, return_index=True)
    share = np.bincount(counted.label[first], minlength=len(counted.classes)) / first.size
    return np.tile(np.log(np.maximum(share, kernels.SMALLEST)), (n_scans, 1))


def _scored(probability: NDArray[np.float64], units: Units, request: EvaluateRequest) -> xr.Dataset:
    if units.truth.size < 2 or not request.resamples:
        return classification_scores(probability, units.truth)
    return scores_by_participant_bootstrap(
        probability, units.truth, n_resamples=request.resamples, seed=request.seed
    )  # fmt: skip


def _by_unit(logits: NDArray[np.float64], scans: Scans) -> xr.Dataset:
    """Scores of participants, eyes and scans beside each other."""
    unit_of = dict(zip(UNITS, (scans.participant, scans.eye, scans.tile), strict=True))
    made = []
    for of_scan in unit_of.values():
        units, probability = by_unit(logits, scans.label, of_scan)
        made.append(classification_scores(probability, units.truth))
    kept = [n.BALANCED_ACCURACY, n.ACCURACY, n.MACRO_F1, n.MEAN_AUROC, n.CONFUSION]
    stacked = xr.concat([one[kept] for one in made], dim="unit").transpose(n.RUN, "unit", ...)
    renamed = stacked.rename({name: f"by_unit_{name}" for name in kept})
    return renamed.assign_coords(unit=list(UNITS))


def _by_group(cohort: Cohort, logits: NDArray[np.float64], scans: Scans) -> xr.Dataset:
    """Balanced accuracy and accuracy of participants by device, side and site; a participant may be in several."""
    made, sizes, named = [], [], []
    for name, column in _groups(cohort, scans).items():
        for value in sorted(set(column.tolist())):
            mine = column == value
            units, probability = by_unit(logits[:, mine], scans.label[mine], scans.participant[mine])
            made.append(classification_scores(probability, units.truth)[[n.BALANCED_ACCURACY, n.ACCURACY]])
            sizes.append(units.truth.size)
            named.append(f"{name} {value or 'unknown'}")
    stacked = xr.concat(made, dim="group").transpose(n.RUN, "group")
    found = stacked.rename({str(name): f"by_group_{name}" for name in stacked})
    return found.assign({"by_group_n_units": ("group", sizes)}).assign_coords(group=named)


def _groups(cohort: Cohort, scans: Scans) -> Mapping[str, NDArray[Any]]:
    groups = {"device": scans.device, "eye": scans.laterality}
    if cohort.has(n.PARTICIPANTS):
        people = cohort.read(n.PARTICIPANTS)
        if n.CLINICAL_SITE in people:
            site = dict(zip(map(str, people[n.DONOR].values), map(str, people[n.CLINICAL_SITE].values), strict=True))
            groups["site"] = np.array([site.get(str(who), "") for who in scans.participant])
    return groups
