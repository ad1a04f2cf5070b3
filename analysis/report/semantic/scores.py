"""Scores of maps of classes: means over classes, whether fine-tuning helped, the marks, and what misleads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.classes import class_dice_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.report.contents import Note, Part, Picture, Section, Table, fold
from fintune_xr.analysis.report.numbers import decimals, with_interval
from fintune_xr.analysis.report.score_intervals import ends, interval_of, level
from fintune_xr.analysis.report.semantic.marks import mark_notes
from fintune_xr.analysis.report.semantic.verdicts import difference_table, verdicts
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.intervals import STUDENT_T
from fintune_xr.metrics.omissions import doubt_lines
from fintune_xr.text import texts

EVALUATE: Final = "fintune-xr evaluate STORE --run RUN --split test"
PRIMARY: Final = score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN)
DICE: Final = score_name(n.DICE, n.IMAGE_MEAN)
FOREGROUND: Final = score_name(f"{n.FOREGROUND}_{n.DICE}", n.IMAGE_MEAN)
SHOWN: Final = {
    PRIMARY: "per-class Dice, image mean",
    score_name(f"{n.PERCLASS}_{n.DICE}", n.POOLED): "per-class Dice, pooled",
    score_name(f"{n.PERCLASS}_{n.IOU}", n.IMAGE_MEAN): "per-class IoU, image mean",
    score_name(f"{n.PERCLASS}_{n.IOU}", n.POOLED): "per-class IoU, pooled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Stored scores (run, class) of automatic runs on a `part`, and the run that others are compared to.

    `n_donors` says of how many donors, `clashes` what the legend says against the classes,
    `collapsed` by run how its training collapsed.
    """

    scores: xr.Dataset | None = None
    part: str = ""
    baseline: str = ""
    n_donors: int = 0
    clashes: tuple[str, ...] = ()
    collapsed: Mapping[str, str] = field(default_factory=dict)


def scores_section(contents: ClassScores) -> Section:
    """Means over classes, Dice of each class, differences to the baseline with a verdict, marks, the foreground."""
    scores = contents.scores
    if scores is None:
        return Section("scores", "Classes of pixels", command=EVALUATE)
    fallen = [Note(f"The training of {run} collapsed: {how}.", "bad") for run, how in contents.collapsed.items()]
    told = (*verdicts(contents.scores, contents.baseline, contents.n_donors), *fallen, *mark_notes(scores))
    doubts = (*contents.clashes, *doubt_lines(scores))
    parts: list[Part] = [*(Note(doubt, "doubtful") for doubt in doubts), *told, summary_table(contents, scores, SHOWN)]
    parts += [_points(scores), classes_table(scores)]
    hidden = [*difference_table(scores, contents.baseline, SHOWN), _foreground(scores)]
    parts += fold("Differences to the baseline, and any class against none", hidden)
    return Section("scores", "Classes of pixels", tuple(parts), findings=told, leads=True)


def summary_table(contents: ClassScores, scores: xr.Dataset, labels: Mapping[str, str]) -> Table:
    """A row for each run with the scores that `labels` name, and their intervals."""
    data, page = [], []
    for run in texts(scores[n.RUN]):
        one = scores.sel({n.RUN: run})
        raw: dict[str, object] = {n.RUN: run}
        text: dict[str, object] = {n.RUN: run}
        for name, label in labels.items():
            value, (low, high) = float(one[name]), ends(one, name)
            raw |= {name: value, f"{name}_low": low, f"{name}_high": high}
            text[label] = with_interval(value, low, high).replace(" [", "\n[")
        raw["images"] = text["images"] = int(scores.sizes[n.TILE])
        data.append(raw)
        page.append(text)
    doubt = f"in brackets the {level(scores)} interval over donors ({STUDENT_T})"
    if n.QUANTILE not in scores.coords:
        doubt = "one donor, so no interval"
    caption = (
        f"Automatic runs, without any ground truth, on part {contents.part}; {doubt}. Per class: mean over the classes "
        "that the annotations hold; an image mean averages over the images that hold a class, a pooled score counts "
        "the pixels of all images together"
    )
    return Table("scores", caption, pd.DataFrame(data), dict.fromkeys(labels.values(), str), page=pd.DataFrame(page))


def _foreground(scores: xr.Dataset) -> Table:
    frame = pd.DataFrame(
        {
            n.RUN: texts(scores[n.RUN]),
            "foreground Dice": scores[FOREGROUND].values,
            "per-class Dice": scores[PRIMARY].values,
        }
    )
    caption = (
        "Any class against none, beside the mean over classes. It tells whether tissue was found and not which: a map "
        "with one class everywhere may score high here. Nothing is chosen by it"
    )
    return Table("foreground", caption, frame, dict.fromkeys(frame.columns[1:], decimals(2)))


def classes_table(scores: xr.Dataset) -> Table:
    """Dice of each class and run with its interval, and how many images hold the class."""
    rows, page = [], []
    names = texts(scores[n.CLASS])
    for run in texts(scores[n.RUN]):
        text: dict[str, object] = {n.RUN: run}
        for name in names:
            one = scores.sel({n.RUN: run, n.CLASS: name})
            low, high = ends(one, DICE)
            pooled, overlap = (float(one[score_name(s, n.POOLED)]) for s in (n.DICE, n.IOU))
            rows.append({
                n.RUN: run, n.CLASS: name, "dice": float(one[DICE]), "low": low, "high": high, "dice_pooled": pooled,
                "iou": float(one[score_name(n.IOU, n.IMAGE_MEAN)]), "iou_pooled": overlap,
                "images": int(one[f"{n.DICE}_{n.N_IMAGES}"]),
            })  # fmt: skip
            text[name] = with_interval(float(one[DICE]), low, high).replace(" [", "\n[")
        page.append(text)
    counts = {name: int(scores[f"{n.DICE}_{n.N_IMAGES}"].sel({n.CLASS: name}).isel({n.RUN: 0})) for name in names}
    held = ", ".join(f"{name} in {count}" for name, count in counts.items())
    caption = f"Dice of each class, mean over the images that hold it ({held})"
    return Table("classes", caption, pd.DataFrame(rows), dict.fromkeys(names, str), page=pd.DataFrame(page))


def _points(scores: xr.Dataset) -> Picture:
    figure = class_dice_figure(scores[DICE], interval_of(scores, DICE))
    return Picture(data_uri(figure, "svg"), "Dice of each class and run", "Dice of each class; a line is the interval.")
