"""What the words of the summary mean, said where they first stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fintune_xr.analysis.report.contents import Note

TERM: Final = "term"

MEANINGS: Final = {
    "AP50": (
        "AP50 is average precision as the field of cell segmentation counts it, TP / (TP + FP + FN): a cell counts as "
        "found (TP) where it overlaps an annotated one by an intersection over union (IoU) of 0.5 or more, FP are "
        "predicted cells without such a partner, FN annotated ones. AP50:95 is its mean over IoU 0.5 to 0.95."
    ),
    "q < ": (
        "Rho is Spearman's rank correlation of the donors' ratios with the outcome; q is its p after the "
        "Benjamini–Hochberg correction: of the findings with q < 0.05 at most one in twenty is false, on average."
    ),
    "er-class Dice": (
        "Dice is 2 TP / (2 TP + FP + FN) of pixels; per class: the mean over the classes that the annotations hold."
    ),
    "balanced accuracy": "Balanced accuracy is the mean of the recalls of the classes.",
    "article-level F1": (
        "F1 is 2 TP / (2 TP + FP + FN): a pick is found (TP) within a stated distance of an annotated centre."
    ),
}
"""By the words that stand in a sentence: what they mean."""


def explain(notes: Iterable[Note]) -> list[Note]:
    """`notes`, each that is the first to use a word followed by what the word means."""
    found: list[Note] = []
    unsaid = dict(MEANINGS)
    for note in notes:
        found.append(note)
        new = [word for word in unsaid if word in note.text]
        found += [Note(unsaid.pop(word), TERM) for word in new]
    return found
