"""Sections about segmentation: scores of the runs, whether fine-tuning helped, studies of its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.statistics import difference_figure, score_bars_figure, threshold_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.report.contents import Note, Part, Picture, Section, Stale, Study, Table, fold
from fintune_xr.analysis.report.numbers import count_text, decimals, probability, with_interval
from fintune_xr.analysis.report.score_intervals import ends, interval_of, level
from fintune_xr.metrics.counts import AP50, IOU, score_name
from fintune_xr.metrics.donor_tests import MIN_DONORS, holm
from fintune_xr.metrics.intervals import STUDENT_T
from fintune_xr.metrics.omissions import doubt_lines

_BOOTSTRAP: Final = "percentiles of a bootstrap over donors, too narrow where they are few"
EVALUATE: Final = "fintune-xr evaluate STORE --run RUN --split test"
ALPHA: Final = 0.05
_NUMBER: Final = r"(?:[+−]?\d[\d.\u202f]*%?(?: \[.*\])?|–)$"
_ONE_TRAINING: Final = (
    "Intervals and p are over donors. Each run is one training: what another seed would have given is in none of them, "
    "and a small difference may be that. `budget` with one budget and several seeds tells how far seeds lie apart."
)

_P_AP50: Final = f"{AP50}_{n.DIFFERENCE}_{n.P}"
SHOWN_SCORES: Final = {
    AP50: "AP50, image mean",
    score_name(n.AVERAGE_PRECISION, n.POOLED): "AP50, pooled",
    score_name(n.MEAN_AVERAGE_PRECISION, n.IMAGE_MEAN): "AP50:95, image mean",
    score_name(n.PRECISION, n.POOLED): "Precision, pooled",
    score_name(n.RECALL, n.POOLED): "Recall, pooled",
    score_name(n.F1, n.POOLED): "F1, pooled",
}
STUDIES: Final = {
    "benchmark": ("Ways to train", "fintune-xr benchmark STORE --model WEIGHTS"),
    "budget": ("Label budget", "fintune-xr budget STORE"),
    "gate": ("Post-processing", "fintune-xr gate STORE --run RUN"),
    "sweep": ("SAM sweep", "fintune-xr sweep STORE --model WEIGHTS"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    """Scores of the masks of runs.

    `scores` comes from `scores_by_donor` with dims run and threshold, `scores_by_marker` has the dim marker
    as well, `n_scored_donors` says of how many donors both are, 0 unknown, `scored_part` of which part of the split;
    `baseline` is the run that others are compared to; `published` is (model, metric).
    """

    scores: xr.Dataset | None = None
    scores_by_marker: xr.Dataset | None = None
    n_scored_donors: int = 0
    scored_part: str = ""
    baseline: str = ""
    published: xr.DataArray | None = None


def segmentation_section(contents: RunScores) -> Section:
    """Scores per run, overall and per marker, with intervals, differences to the baseline and a verdict."""
    if contents.scores is None:
        return Section("segmentation", "Segmentation", command=EVALUATE)
    parts = score_parts(contents)
    if contents.published is not None:
        caption = (
            "Published scores of another data set, with other weights: no row can be compared with the scores above. "
            "AP50 is an image mean, the others are pooled"
        )
        frame = contents.published.to_pandas().rename_axis("model").reset_index()
        parts += fold("Scores of the original study, on its own images", [Table("published", caption, frame)])
    findings = (*score_notes(contents), *verdicts(contents))
    return Section("segmentation", "Segmentation", tuple(parts), findings=findings)


def score_parts(contents: RunScores, *, prefix: str = "") -> list[Part]:
    """Verdicts, tables and pictures of `contents.scores`, which is there; keys of tables begin with `prefix`."""
    scores = contents.scores
    if scores is None:
        return []
    overall = scores.sel({n.THRESHOLD: IOU})
    caption = _scores_caption(contents, scores)
    hidden: list[Part] = []
    if contents.scores_by_marker is not None:
        by_marker = contents.scores_by_marker.sel({n.THRESHOLD: IOU})
        hidden.append(_scores_table(f"{prefix}scores_by_marker", "The same scores for each marker", by_marker))
    hidden += [*_difference_parts(contents, overall, key=f"{prefix}differences"), _bars(overall)]
    curve = threshold_figure(scores[AP50], interval_of(scores, AP50))
    alt = "Average precision of each run against the required overlap"
    hidden.append(Picture(data_uri(curve, "svg"), alt, "Average precision (mean over images) by IoU."))
    table = _scores_table(f"{prefix}scores", caption, overall)
    return [
        *(Note(line, "doubtful") for line in doubt_lines(scores)),
        *verdicts(contents),
        *_of_single_trainings(contents),
        table,
        *fold("Scores by marker, differences, and stricter overlaps", hidden),
    ]


def _of_single_trainings(contents: RunScores) -> list[Note]:
    """What intervals and p do not hold, where runs are compared."""
    return [Note(_ONE_TRAINING)] if _has_differences(contents) else []


def study_sections(studies: Mapping[str, Sequence[Study | Stale]]) -> list[Section]:
    """A section for each kind of study, done or not; several of one kind follow one another."""
    sections = []
    for key, (title, command) in STUDIES.items():
        stored = studies.get(key, ())
        shown = [study for study in stored if isinstance(study, Study)]
        stale = tuple(study for study in stored if isinstance(study, Stale))
        parts = [part for study in shown for part in _study_parts(study, title)]
        findings = tuple(note for study in shown for note in study_finding(study))
        sections.append(Section(key, title, tuple(parts), "" if parts else command, findings, stale))
    return sections


def _study_parts(study: Study, title: str) -> list[Part]:
    named = f"{title}, {study.name}" if study.name else title
    parts: list[Part] = [Note(study.text), *study.parts]
    if study.figure is not None:
        uri = data_uri(study.figure, "svg")
        parts.append(Picture(uri, f"{named}: scores by setting", f"{named}: scores by setting."))
    key = f"{study.key}_{study.name}" if study.name else study.key
    what = "all models" if study.key == "benchmark" else "all settings"
    page = study.table if study.page is None else study.page
    # A number as text is a number, with its interval too: it stays on its line.
    formats = {str(name): str for name in page if _is_number_as_text(page[name])}
    table = Table(key, f"{named}: {what}", study.table, formats, page=study.page)
    return [*parts, *fold(f"{named} in numbers", [table, *study.more])]


def _is_number_as_text(column: pd.Series[Any]) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and bool(column.astype(str).str.match(_NUMBER).all())


def score_notes(contents: RunScores) -> list[Note]:
    """AP50 of each run where there is nothing to compare it to."""
    if contents.scores is None or contents.scores.sizes[n.RUN] > 1:
        return []
    at = contents.scores.sel({n.THRESHOLD: IOU}).squeeze(n.RUN)
    number = with_interval(float(at[AP50]), *ends(at, AP50))
    return [Note(f"AP50 of {at[n.RUN].item()} is {number}, the mean over annotated images.")]


def verdicts(contents: RunScores) -> list[Note]:
    """Whether each run is better than the baseline, by AP50: the interval of its difference, and p over all runs."""
    if contents.scores is None or not _has_differences(contents):
        return []
    versus = contents.scores.sel({n.THRESHOLD: IOU, n.REFERENCE: contents.baseline})
    others = [run for run in map(str, versus[n.RUN].values) if run != contents.baseline]
    versus = versus.sel({n.RUN: others})
    if _P_AP50 not in versus:
        return [_of_older_kind(run, versus.sel({n.RUN: run}), contents.baseline) for run in others]
    corrected = holm(versus[_P_AP50].values)
    return [
        _verdict(
            run, versus.sel({n.RUN: run}), contents.baseline, _Chance(float(p), len(others), contents.n_scored_donors)
        )
        for run, p in zip(others, corrected, strict=True)
    ]


def study_finding(study: Study) -> list[Note]:
    """The one line that a study has in the summary, beginning with its title."""
    if study.finding is None:
        return []
    title = STUDIES[study.key][0]
    named = f"{title}, {study.name}" if study.name else title
    return [replace(study.finding, text=f"{named}: {study.finding.text}")]


def verdict_in_short(contents: RunScores) -> Note | None:
    """One line for all runs that are compared with the baseline: how many are better, and the largest difference."""
    notes = verdicts(contents)
    if contents.scores is None or not notes:
        return None
    versus = contents.scores.sel({n.THRESHOLD: IOU, n.REFERENCE: contents.baseline})
    others = [run for run in map(str, versus[n.RUN].values) if run != contents.baseline]
    gains = versus[f"{AP50}_{n.DIFFERENCE}"].sel({n.RUN: others}).values
    tones = [note.tone for note in notes]
    better, worse = tones.count("good"), tones.count("bad")
    counts = f"{better} better than {contents.baseline}, {worse} worse, {len(notes) - better - worse} not decided"
    if not np.isfinite(gains).any():
        return Note(f"of {count_text(len(notes), 'model', 'models')}, {counts}.", "doubtful")
    best = int(np.nanargmax(gains))
    gained = ends(versus.sel({n.RUN: others[best]}), f"{AP50}_{n.DIFFERENCE}")
    number = with_interval(float(gains[best]), *gained, signed=True)
    text = f"of {count_text(len(notes), 'model', 'models')}, {counts}; largest gain: {others[best]}, AP50 {number}."
    return Note(text, "good" if better else "bad" if worse else "doubtful")


def _has_differences(contents: RunScores) -> bool:
    scores = contents.scores
    if scores is None or f"{AP50}_{n.DIFFERENCE}" not in scores:
        return False
    return contents.baseline in map(str, scores[n.REFERENCE].values)


@dataclass(frozen=True, slots=True)
class _Chance:
    """P of a difference that is none, corrected for the number of runs that are compared with the baseline."""

    p: float
    n_runs: int
    n_donors: int

    def __str__(self) -> str:
        corrected = f", corrected for {self.n_runs} runs" if self.n_runs > 1 else ""
        donors = f"{self.n_donors} donors" if self.n_donors else "donors"
        return f"p {probability(self.p)} from flipping the signs of {donors}{corrected}"


def _verdict(run: str, scores: xr.Dataset, baseline: str, chance: _Chance) -> Note:
    gain = float(scores[f"{AP50}_{n.DIFFERENCE}"])
    low, high = ends(scores, f"{AP50}_{n.DIFFERENCE}")
    if math.isnan(low) or math.isnan(high):
        text = f"AP50 {decimals(2, signed=True)(gain)} against {baseline}, without an interval"
        return Note(f"Did it help? Not known for {run}: {text}. It takes {MIN_DONORS} annotated donors.", "doubtful")
    number = with_interval(gain, low, high, signed=True)
    change = f"AP50 {number} against {baseline} ({level(scores)} interval over donors; {chance})"
    way = "better" if gain > 0 else "worse"
    if low <= 0 <= high:
        return Note(f"Did it help? Not shown: for {run} the interval contains zero. {change}.", "doubtful")
    if not chance.p <= ALPHA:
        text = f"{run} segments {way} than {baseline}, but too few donors or too many runs were looked at to be sure"
        return Note(f"Did it help? Open: {text}. {change}.", "doubtful")
    answer = "Yes" if gain > 0 else "No"
    tone = "good" if gain > 0 else "bad"
    return Note(f"Did it help? {answer}: {run} segments {way} than {baseline}. {change}.", tone)


def _of_older_kind(run: str, scores: xr.Dataset, baseline: str) -> Note:
    gain = decimals(2, signed=True)(float(scores[f"{AP50}_{n.DIFFERENCE}"]))
    text = (
        f"AP50 {gain} against {baseline}. The stored intervals are of an older kind that is too narrow with few donors"
    )
    return Note(f"Did it help? Open for {run}: {text}. Run evaluate again.", "doubtful")


def _scores_caption(contents: RunScores, scores: xr.Dataset) -> str:
    part = f" on the annotated tiles of part {contents.scored_part}" if contents.scored_part else ""
    method = STUDENT_T if _P_AP50 in scores or scores.attrs.get(n.INTERVAL_METHOD) == STUDENT_T else _BOOTSTRAP
    doubt = f"in brackets the {level(scores)} interval: {method}"
    if n.QUANTILE not in scores.coords:
        doubt = "one donor, so no interval"
    return (
        f"Scores at IoU {IOU}{part}; {doubt}. An image mean averages the scores of single images, a pooled score "
        "is that of all cells together"
    )


def _scores_table(key: str, caption: str, scores: xr.Dataset) -> Table:
    dims = [dim for dim in (n.MARKER, n.RUN) if dim in scores.dims]
    present = {name: label for name, label in SHOWN_SCORES.items() if name in scores}
    data, page = [], []
    for labels, at in _positions(scores, dims):
        one = scores.isel(at)
        raw: dict[str, object] = dict(labels)
        text: dict[str, object] = dict(labels)
        for name, label in present.items():
            value, (low, high) = float(one[name]), ends(one, name)
            raw |= {name: value, f"{name}_low": low, f"{name}_high": high}
            text[label] = with_interval(value, low, high).replace(" [", "\n[")
        text["images"] = raw["images"] = int(one[f"{n.AVERAGE_PRECISION}_{n.N_IMAGES}"])
        data.append(raw)
        page.append(text)
    formats = dict.fromkeys(present.values(), str)
    return Table(key, caption, pd.DataFrame(data), formats, page=pd.DataFrame(page))


def _positions(scores: xr.Dataset, dims: list[str]) -> list[tuple[dict[str, str], dict[str, int]]]:
    """Labels and positions of every combination along `dims`."""
    found = []
    for place in np.ndindex(*(scores.sizes[dim] for dim in dims)):
        at = dict(zip(dims, map(int, place), strict=True))
        found.append(({dim: str(scores[dim].values[at[dim]]) for dim in dims}, at))
    return found


def _difference_parts(contents: RunScores, overall: xr.Dataset, *, key: str) -> list[Part]:
    if not _has_differences(contents) or overall.sizes[n.RUN] < 2:
        return []
    versus = overall.sel({n.REFERENCE: contents.baseline})
    names = [name for name in SHOWN_SCORES if f"{name}_{n.DIFFERENCE}" in versus]
    labels = [SHOWN_SCORES[name] for name in names]
    difference = xr.concat([versus[f"{name}_{n.DIFFERENCE}"] for name in names], n.ITEM)
    interval = xr.concat([interval_of(versus, f"{name}_{n.DIFFERENCE}") for name in names], n.ITEM)
    figure = difference_figure(difference, interval, labels=labels, unit=f"difference to {contents.baseline}")
    caption = f"Paired differences to {contents.baseline}; a line is the interval over donors."
    return [
        _difference_table(key, versus, names, contents.baseline),
        Picture(data_uri(figure, "svg"), f"Differences of scores to {contents.baseline}", caption),
    ]


def _difference_table(key: str, versus: xr.Dataset, names: list[str], baseline: str) -> Table:
    rows, page = [], []
    for run in (str(run) for run in versus[n.RUN].values if str(run) != baseline):
        one = versus.sel({n.RUN: run})
        text = {n.RUN: run}
        for name in names:
            value = float(one[f"{name}_{n.DIFFERENCE}"])
            low, high = ends(one, f"{name}_{n.DIFFERENCE}")
            rows.append({n.RUN: run, "score": name, "difference": value, "low": low, "high": high})
            text[SHOWN_SCORES[name]] = with_interval(value, low, high, signed=True).replace(" [", "\n[")
        page.append(text)
    formats = dict.fromkeys([SHOWN_SCORES[name] for name in names], str)
    caption = (
        f"Difference to {baseline}, paired by donor, with its interval. Only AP50 is judged above; the others are not "
        "corrected for their number: exploratory"
    )
    return Table(key, caption, pd.DataFrame(rows), formats, page=pd.DataFrame(page))


def _bars(overall: xr.Dataset) -> Picture:
    names = [name for name in SHOWN_SCORES if name in overall]
    scores = xr.concat([overall[name] for name in names], n.ITEM)
    interval = xr.concat([interval_of(overall, name) for name in names], n.ITEM)
    labels = [SHOWN_SCORES[name].replace(", ", "\n") for name in names]
    figure = score_bars_figure(scores, interval, labels=labels)
    caption = "Scores of each run with their intervals."
    return Picture(data_uri(figure, "svg"), "Scores of each run as bars", caption)
