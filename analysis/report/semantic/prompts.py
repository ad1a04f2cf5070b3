"""What was asked with the truth in hand, apart from automatic runs: masks for prompts, and classes of whole regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.classes import confusion_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.report.contents import Note, Picture, Section, Table
from fintune_xr.analysis.report.numbers import decimals, with_interval
from fintune_xr.analysis.report.score_intervals import ends
from fintune_xr.analysis.report.semantic.marks import ACCURACY_MARK, mark_note
from fintune_xr.metrics.counts import score_name
from fintune_xr.text import texts

_PROMPTED: Final = {
    score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN): "per-class Dice, image mean",
    score_name(f"{n.PERCLASS}_{n.DICE}", n.PAIR_MEAN): "mean over images and classes",
}
_TRUTH_IN_HAND: Final = (
    "Prompted: the places were drawn from the annotations, so no number here may stand beside an automatic one."
)


def prompted_section(study: xr.Dataset | None) -> Section:
    """Dice of masks for prompts that were drawn from the truth, by kind of prompt."""
    title = "Prompted masks"
    if study is None:
        return Section("prompted", title, command="fintune-xr sweep STORE --model sam2.1_hiera_large")
    rows, page = [], []
    for prompt in texts(study[n.PROMPT]):
        for tta in study[n.TTA].values.tolist():
            for processing in texts(study[n.PROCESSING]):
                one = study.sel({n.PROMPT: prompt, n.TTA: tta, n.PROCESSING: processing})
                labels = {"prompt": prompt, "eight orientations": bool(tta), "masks": processing}
                text: dict[str, object] = dict(labels)
                raw: dict[str, object] = dict(labels)
                for name, label in _PROMPTED.items():
                    low, high = ends(one, name)
                    raw |= {name: float(one[name]), f"{name}_low": low, f"{name}_high": high}
                    text[label] = with_interval(float(one[name]), low, high)
                rows.append(raw)
                page.append(text)
    formats = dict.fromkeys(_PROMPTED.values(), str)
    table = Table("prompted", "Dice of masks by prompt", pd.DataFrame(rows), formats, page=pd.DataFrame(page))
    return Section("prompted", title, (Note(_TRUTH_IN_HAND, "doubtful"), table))


def regions_section(found: Mapping[str, xr.Dataset]) -> Section:
    """Accuracy of classes that sentences gave to regions, a row for each study, with the mark."""
    title = "Classes of regions by sentences"
    if not found:
        return Section("regions", title, command="fintune-xr classify STORE --regions truth --model FOLDER")
    rows, page, notes = [], [], []
    for name, study in found.items():
        protocol = str(study.attrs[n.PROTOCOL])
        interval = ends(study, n.ACCURACY)
        value, balanced = float(study[n.ACCURACY]), float(study[n.BALANCED_ACCURACY])
        counted = {"regions": study.sizes[n.REGION]}
        if n.CONFUSION in study:
            counted["judged"] = int(study[n.CONFUSION].sum())
        rows.append({"study": name, "protocol": protocol, "accuracy": value, "low": interval[0], "high": interval[1],
                     "balanced_accuracy": balanced, **counted})  # fmt: skip
        page.append(
            {
                "study": name,
                "protocol": protocol,
                "accuracy": with_interval(value, *interval),
                "balanced accuracy": with_interval(balanced, *ends(study, n.BALANCED_ACCURACY)),
                **counted,
            }
        )
        notes.append(mark_note(f"accuracy of {name} ({protocol})", value, interval, ACCURACY_MARK))
    caption = (
        "Prompted studies classify pieces of the annotations, automatic ones what a run has found. Judged are regions "
        "of which the annotations say the class (sentences have no word for none of the classes), on tiles that did "
        "not teach what drew or named them"
    )
    formats = dict.fromkeys(("accuracy", "balanced accuracy"), str)
    table = Table("regions", caption, pd.DataFrame(rows), formats, page=pd.DataFrame(page))
    pictures = [_confused(name, study) for name, study in found.items() if n.CONFUSION in study]
    return Section("regions", title, (*notes, table, _of_classes(found), *pictures), findings=tuple(notes))


def _of_classes(found: Mapping[str, xr.Dataset]) -> Table:
    """Precision, recall and F1 of each class and study, and how many regions that are judged have the class."""
    rows = []
    for name, study in found.items():
        for label in texts(study[n.CLASS]) if n.CONFUSION in study else ():
            one = study.sel({n.CLASS: label})
            scores = {what: float(one[what]) for what in (n.PRECISION, n.RECALL, n.F1)}
            rows.append({"study": name, "class": label, **scores,
                         "regions": int(study[n.CONFUSION].sel({n.TRUTH: label}).sum())})  # fmt: skip
    columns = ["study", "class", n.PRECISION, n.RECALL, n.F1, "regions"]
    formats = dict.fromkeys((n.PRECISION, n.RECALL, n.F1), decimals(2))
    return Table("region_classes", "Regions of each class", pd.DataFrame(rows, columns=columns), formats)


def _confused(name: str, study: xr.Dataset) -> Picture:
    figure = confusion_figure(study[n.CONFUSION].expand_dims({n.RUN: [name]}))
    caption = f"{name}: of the regions of a row's class, per cent that were given the column's."
    return Picture(data_uri(figure, "svg"), f"Confusion of classes of regions, {name}", caption)
