"""Scores of maps of classes under coarser classes, each set of them in a table of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Part, Section, fold
from fintune_xr.analysis.report.semantic.scores import ClassScores, summary_table
from fintune_xr.analysis.report.semantic.verdicts import difference_table, verdicts
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.omissions import doubt_lines
from fintune_xr.tasks.coarser import coarser_line
from fintune_xr.text import texts

COMMAND: Final = "fintune-xr evaluate STORE --coarser 'tumor=[1,19,20]' --coarser 'rest=[stroma, …]'"
TITLE: Final = "Coarser classes"
_LABELS: Final = {
    score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN): "Dice, image mean",
    score_name(f"{n.PERCLASS}_{n.DICE}", n.POOLED): "Dice, pooled",
    score_name(f"{n.PERCLASS}_{n.IOU}", n.IMAGE_MEAN): "IoU, image mean",
    score_name(f"{n.PERCLASS}_{n.IOU}", n.POOLED): "IoU, pooled",
}


def coarser_section(stored: Sequence[ClassScores]) -> Section:
    """A table of runs for each set of coarser classes, differences to the baseline, and what the classes are."""
    if not stored:
        return Section(n.COARSER, TITLE, command=COMMAND)
    return Section(n.COARSER, TITLE, tuple(part for one in stored for part in coarser_parts(one)))


def coarser_parts(contents: ClassScores, *, prefix: str = "") -> list[Part]:
    """What is said and shown of scores under one set of coarser classes; nothing where there are none.

    Keys of tables begin with `prefix`.
    """
    scores = contents.scores
    if scores is None:
        return []
    named = ", ".join(texts(scores[n.CLASS]))
    key = f"{prefix}{n.COARSER}_{'-'.join(texts(scores[n.CLASS]))}_{contents.part}"
    told = (
        f"{named}: an easier question than which class a pixel has. Labels of the finer classes were joined "
        f"({coarser_line(scores.attrs)}), in annotations and maps alike; no number here may stand beside one of them."
    )
    parts: list[Part] = [Note(told, "doubtful"), *(Note(line, "doubtful") for line in doubt_lines(scores))]
    parts += verdicts(scores, contents.baseline, contents.n_donors)
    parts.append(replace(summary_table(contents, scores, _LABELS), key=key))
    differences = difference_table(scores, contents.baseline, _LABELS)
    more = [replace(one, key=f"{key}_differences") for one in differences]
    return [*parts, *fold(f"{named}: differences to the baseline", more)]
