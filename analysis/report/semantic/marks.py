"""The marks that the published study of this data set gave itself, and whether a score reaches them."""

from __future__ import annotations

import math
from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note
from fintune_xr.analysis.report.numbers import with_interval
from fintune_xr.analysis.report.score_intervals import ends
from fintune_xr.metrics.counts import score_name
from fintune_xr.text import texts

PERCLASS_MARK: Final = 0.65
VESSEL_MARK: Final = 0.45
ACCURACY_MARK: Final = 0.60
VESSEL: Final = "blood_vessel"

_TONES: Final = {"reached": "good", "not reached": "bad", "open": "doubtful"}


def verdict(value: float, low: float, high: float, mark: float) -> str:
    """`reached` or `not reached` where the whole interval lies on one side of the mark, `open` where it holds it.

    Without an interval the score alone decides nothing, so that is open too.
    """
    if any(map(math.isnan, (value, low, high))) or low < mark <= high:
        return "open"
    return "reached" if low >= mark else "not reached"


def mark_note(what: str, value: float, interval: tuple[float, float], mark: float) -> Note:
    """One mark with the score and what came of it."""
    held = verdict(value, *interval, mark)
    meant = {"open": "open: the interval includes it, or there is none"}.get(held, held)
    return Note(f"Mark of {mark:.2f} for {what}: {with_interval(value, *interval)}, {meant}.", _TONES[held])


def mark_notes(scores: xr.Dataset) -> list[Note]:
    """The marks for the mean over classes and for blood vessels, of the run that has the higher mean.

    The marks were set for the BCSS data set; on any other cohort they are no more than numbers to hold scores against.
    """
    primary, dice = score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN), score_name(n.DICE, n.IMAGE_MEAN)
    if scores[primary].isnull().all():
        return []
    best = scores.isel({n.RUN: int(scores[primary].fillna(-1).values.argmax())})
    run = str(best[n.RUN].item())
    notes = [mark_note(f"per-class Dice (best run, {run})", float(best[primary]), ends(best, primary), PERCLASS_MARK)]
    if VESSEL in texts(scores[n.CLASS]):
        vessel = best.sel({n.CLASS: VESSEL})
        notes.append(mark_note(f"Dice of blood vessels ({run})", float(vessel[dice]), ends(vessel, dice), VESSEL_MARK))
    return notes
