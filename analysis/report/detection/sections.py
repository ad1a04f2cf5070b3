"""Sections of a report about micrographs: pictures with circles, scores of the picks, stages of a self-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.detection import micrograph_figure, precision_recall_curves, stages_figure
from fintune_xr.analysis.figures.style import PICTURE_DPI, data_uri
from fintune_xr.analysis.report.contents import UNFINISHED_STUDY, Note, Part, Picture, Section, Stale, Table, fold
from fintune_xr.analysis.report.detection.contents import ExampleMicrograph, PickScores
from fintune_xr.analysis.report.detection.intervals import RESAMPLED, interval_line
from fintune_xr.analysis.report.numbers import count_text, decimals, with_interval
from fintune_xr.analysis.report.score_intervals import ends
from fintune_xr.metrics.omissions import doubt_lines
from fintune_xr.text import texts

PICK: Final = "fintune-xr pick STORE --run RUN"
EVALUATE: Final = "fintune-xr evaluate STORE --run RUN"
SELFTRAIN: Final = "fintune-xr selftrain STORE --name NAME"

ENOUGH_UNITS: Final = 10

_PARTICLE: Final = {"precision": "precision", "recall": "recall", "f1": "F1"}
_PIXEL: Final = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
_STAGE_COLUMNS: Final = ("particle_precision", "particle_recall", "particle_f1", "pixel_f1", "pixel_iou")
_F1: Final = "particle_f1_pooled"


def particle_notes(particles: PickScores) -> list[Note]:
    """The best run on the evaluated part, in a sentence."""
    scores = particles.scores
    if scores is None:
        return []
    best = str(scores[n.RUN].values[int(np.nanargmax(scores[_F1].values))])
    number = with_interval(float(scores[_F1].sel({n.RUN: best})), *ends(scores.sel({n.RUN: best}), _F1), digits=3)
    found = count_text(scores.sizes[n.TILE], "micrograph", "micrographs")
    return [Note(f"Particle-level F1 of {best} is {number} on {found} of part {particles.split}.")]


def picture_section(
    examples: Sequence[ExampleMicrograph], *, diameter_px: float, stale: tuple[Stale, ...] = ()
) -> Section:
    """Micrographs with circles of `diameter_px` around annotated and picked particles."""
    pictures = tuple(_picture(one, diameter_px) for one in examples)
    return Section("examples", "Example micrographs", pictures, command="" if pictures else PICK, stale=stale)


def picks_section(particles: PickScores) -> Section:
    """Particle-level scores of every run, with intervals, then pixel-wise ones, and all thresholds."""
    scores = particles.scores
    if scores is None:
        return Section("picks", "Particles found", command=EVALUATE, stale=particles.stale)
    parts = tuple(_score_parts(particles, scores))
    told = tuple(particle_notes(particles))
    return Section("picks", "Particles found", parts, findings=told, stale=particles.stale, leads=True)


def stages_section(stages: Mapping[str, xr.Dataset], *, stale: tuple[Stale, ...] = ()) -> Section:
    """Scores (stage, part) of the self-trainings in the store, by name."""
    parts: list[Part] = []
    for name, study in stages.items():
        parts += _stage_parts(name, study)
    return Section("selftrain", "Self-training", tuple(parts), command="" if parts else SELFTRAIN, stale=stale)


def _picture(one: ExampleMicrograph, diameter_px: float) -> Picture:
    figure = micrograph_figure(one.image, one.true, one.picks, diameter_px=diameter_px, side_um=one.side_um)
    part = one.split if one.split == n.UNASSIGNED else f"part {one.split} of the split"
    label = f"Micrograph {one.tile}, {part}"
    return Picture(data_uri(figure, "jpeg", dpi=PICTURE_DPI), f"{label}: annotated and picked particles", f"{label}.")


def _score_parts(particles: PickScores, scores: xr.Dataset) -> list[Part]:
    distance, diameter = float(scores.attrs["distance_px"]), particles.diameter_px
    found = count_text(scores.sizes[n.TILE], "micrograph", "micrographs")
    about = (
        f"A pick counts as found within {distance:.2f} px of an annotated centre ({distance / diameter:.2f} of the "
        f"diameter of {diameter:.2f} px, stored pixels), one to one. Part {particles.split}, {found}; the table of "
        f"picks says where the threshold of each run was chosen. {interval_line(scores)}"
    )
    parts: list[Part] = [Note(about)]
    parts += _doubts(particles, scores)
    parts += [_table("particle_scores", "Particles, counted together", scores, "particle")]
    if any(str(name).startswith("pixel_") for name in scores):
        parts.append(
            Note(
                "The same maps pixel by pixel, on discs drawn at the annotated centres. These are not the scores "
                "above, and not comparable with them.",
                "doubtful",
            )
        )
        parts.append(_table("pixel_scores", "Pixels of discs", scores, "pixel"))
    parts.append(_curves(scores))
    hidden = [_per_micrograph(scores), *([_facts(particles)] if particles.facts else [])]
    return [*parts, *fold("Every micrograph, and where thresholds come from", hidden)]


def _doubts(particles: PickScores, scores: xr.Dataset) -> list[Part]:
    """What makes the scores look better, or surer, than they are."""
    doubts: list[Part] = [Note(line, "doubtful") for line in doubt_lines(scores)]
    few = _few(scores)
    if few:
        about = f"The intervals rest on {few}: no resample goes beyond the best and the worst of them, so they say "
        doubts.append(Note(f"{about}little about others.", "doubtful"))
    flattered = [run for run, facts in particles.facts.items() if facts.get("chosen_on") in (particles.split, "all")]
    if flattered:
        about = f"The threshold of {', '.join(flattered)} was chosen on micrographs that are scored here: that "
        doubts.append(Note(f"{about}flatters.", "doubtful"))
    return doubts


def _few(scores: xr.Dataset) -> str:
    """How many donors or micrographs were resampled, where these are too few to say much; empty otherwise."""
    if scores.attrs.get(RESAMPLED, n.TILE) == n.DONOR:
        n_units, words = len(set(texts(scores[n.DONOR]))), ("donor", "donors")
    else:
        n_units, words = scores.sizes[n.TILE], ("micrograph", "micrographs")
    return count_text(n_units, *words) if n_units < ENOUGH_UNITS else ""


def _table(key: str, caption: str, scores: xr.Dataset, prefix: str) -> Table:
    data, page = [], []
    for run in map(str, scores[n.RUN].values):
        one = scores.sel({n.RUN: run})
        raw: dict[str, object] = {n.RUN: run}
        text: dict[str, object] = {n.RUN: run}
        for score, label in (_PARTICLE if prefix == "particle" else _PIXEL).items():
            name = f"{prefix}_{score}_pooled"
            value, (low, high) = float(one[name]), ends(one, name)
            raw |= {name: value, f"{name}_low": low, f"{name}_high": high}
            text[label] = with_interval(value, low, high, digits=3).replace(" [", "\n[")
        extra = "particle_average_precision" if prefix == "particle" else "pixel_auc"
        raw[extra] = float(one[extra])
        text["average precision" if prefix == "particle" else "AUC"] = decimals(3)(raw[extra])
        data.append(raw)
        page.append(text)
    frame = pd.DataFrame(page)
    known = [not np.isnan(row[f"{prefix}_f1_pooled"]) for row in data]  # type: ignore[call-overload]
    frame = frame[known].reset_index(drop=True)
    formats = dict.fromkeys([str(name) for name in frame.columns[1:]], str)
    return Table(key, caption, pd.DataFrame(data), formats, page=frame)


def _curves(scores: xr.Dataset) -> Picture:
    chosen = xr.Dataset({name: scores[f"particle_{name}_pooled"] for name in (n.PRECISION, n.RECALL)})
    figure = precision_recall_curves(scores["particle_curve_precision"], scores["particle_curve_recall"], chosen)
    caption = "All thresholds of each run; the mark is the stored one. Right: F1 by how much is picked."
    return Picture(data_uri(figure, "svg"), "Precision against recall, and F1, over all thresholds", caption)


def _per_micrograph(scores: xr.Dataset) -> Table:
    rows = []
    for run in map(str, scores[n.RUN].values):
        one = scores.sel({n.RUN: run})
        for at, tile in enumerate(map(str, scores[n.TILE].values)):
            row: dict[str, object] = {n.RUN: run, "micrograph": tile}
            row |= {name: int(one[f"particle_{name}"].values[at]) for name in (n.TP, n.FP, n.FN)}
            row |= {label: float(one[f"particle_{score}"].values[at]) for score, label in _PARTICLE.items()}
            rows.append(row)
    frame = pd.DataFrame(rows)
    return Table("particle_scores_by_micrograph", "Particles of each micrograph", frame, code=("micrograph",))


def _facts(particles: PickScores) -> Table:
    rows = []
    for run, facts in particles.facts.items():
        rows.append({
            n.RUN: run, "threshold": facts.get(n.THRESHOLD), "chosen on": facts.get("chosen_on"),
            "F1 there": facts.get(n.F1), "distance px": facts.get("distance_px"), "border px": facts.get("border_px"),
        })  # fmt: skip
    caption = "The threshold of each run's picks, and the part of the split that it is best on"
    return Table("picks", caption, pd.DataFrame(rows))


def _stage_parts(name: str, study: xr.Dataset) -> list[Part]:
    scores = [str(one) for one in study.data_vars if study[one].dims == (n.STAGE, n.PART)]
    rows = []
    for at, stage in enumerate(map(str, study[n.STAGE].values)):
        for part in map(str, study[n.PART].values):
            row: dict[str, object] = {"stage": stage, "part": part}
            row |= {one: float(study[one].sel({n.PART: part}).values[at]) for one in scores}
            rows.append(row)
    parts: list[Part] = [Note(f"{name}: {UNFINISHED_STUDY}", tone="doubtful")] if study.attrs.get(n.UNFINISHED) else []
    shown = {"Particle-level F1": "particle_f1", "Pixel-wise F1": "pixel_f1"}
    drawn = {title: study[one] for title, one in shown.items() if one in study}
    if drawn:
        uri = data_uri(stages_figure(drawn), "svg")
        caption = f"{name}: scores of each stage, against the annotation only."
        parts.append(Picture(uri, f"Scores of the stages of {name}", caption))
    wanted = [one for one in _STAGE_COLUMNS if one in scores]
    frame = pd.DataFrame(rows)
    parts.append(Table(f"selftrain_{name}", f"{name}: all stages", frame, page=frame[["stage", "part", *wanted]]))
    return parts
