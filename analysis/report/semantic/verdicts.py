"""Whether a run is better than the baseline, by the per-class Dice of the same donors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Table
from fintune_xr.analysis.report.numbers import decimals, probability, value_text, with_interval
from fintune_xr.analysis.report.score_intervals import ends, level
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.donor_tests import MIN_DONORS, holm
from fintune_xr.text import texts

_PRIMARY: Final = score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN)
_P: Final = f"{_PRIMARY}_{n.DIFFERENCE}_{n.P}"
ALPHA: Final = 0.05


def verdicts(scores: xr.Dataset | None, baseline: str, n_donors: int) -> list[Note]:
    """A sentence for each run other than the baseline; of a single run its score."""
    if scores is None:
        return []
    others = [run for run in texts(scores[n.RUN]) if run != baseline]
    if not others or f"{_PRIMARY}_{n.DIFFERENCE}" not in scores or baseline not in texts(scores[n.RUN]):
        return [_alone(scores.sel({n.RUN: run})) for run in texts(scores[n.RUN])]
    versus = scores.sel({n.REFERENCE: baseline, n.RUN: others})
    stored = versus[_P].values if _P in versus else np.full(len(others), np.nan)
    return [
        _verdict(run, versus.sel({n.RUN: run}), baseline, float(p), _chance(float(p), len(others), n_donors))
        for run, p in zip(others, holm(stored), strict=True)
    ]


def difference_table(scores: xr.Dataset, baseline: str, labels: Mapping[str, str]) -> list[Table]:
    """Paired differences of every run to the baseline; nothing where there is none to compare."""
    names = [name for name in labels if f"{name}_{n.DIFFERENCE}" in scores]
    others = [run for run in texts(scores[n.RUN]) if run != baseline]
    if not names or not others or baseline not in texts(scores[n.RUN]):
        return []
    rows, page = [], []
    for run in others:
        one = scores.sel({n.RUN: run, n.REFERENCE: baseline})
        text = {n.RUN: run}
        for name in names:
            value, (low, high) = float(one[f"{name}_{n.DIFFERENCE}"]), ends(one, f"{name}_{n.DIFFERENCE}")
            rows.append({n.RUN: run, "score": name, "difference": value, "low": low, "high": high})
            text[labels[name]] = with_interval(value, low, high, signed=True).replace(" [", "\n[")
        page.append(text)
    caption = (
        f"Difference to {baseline}, paired: both runs on the same images, by donor. "
        "Only the first is judged above; the others are exploratory"
    )
    formats = dict.fromkeys([labels[name] for name in names], str)
    return [Table("differences", caption, pd.DataFrame(rows), formats, page=pd.DataFrame(page))]


def _alone(scores: xr.Dataset) -> Note:
    number = with_interval(float(scores[_PRIMARY]), *ends(scores, _PRIMARY))
    return Note(f"Per-class Dice of {scores[n.RUN].item()} is {number}, mean over images and classes.")


def _verdict(run: str, scores: xr.Dataset, baseline: str, p: float, chance: str) -> Note:
    gain, (low, high) = float(scores[f"{_PRIMARY}_{n.DIFFERENCE}"]), ends(scores, f"{_PRIMARY}_{n.DIFFERENCE}")
    if math.isnan(low) or math.isnan(high):
        text = f"per-class Dice {decimals(2, signed=True)(gain)} against {baseline}, without an interval"
        return Note(f"Did it help? Not known for {run}: {text}. It takes {MIN_DONORS} annotated donors.", "doubtful")
    number = with_interval(gain, low, high, signed=True)
    change = f"Per-class Dice {number} against {baseline} ({level(scores)} interval over donors; {chance})"
    way = "better" if gain > 0 else "worse"
    if low <= 0 <= high:
        return Note(f"Did it help? Not shown: for {run} the interval contains zero. {change}.", "doubtful")
    if not p <= ALPHA:
        text = f"{run} is {way} than {baseline}, but too few donors or too many runs were looked at to be sure"
        return Note(f"Did it help? Open: {text}. {change}.", "doubtful")
    answer, tone = ("Yes", "good") if gain > 0 else ("No", "bad")
    return Note(f"Did it help? {answer}: {run} is {way} than {baseline}. {change}.", tone)


def _chance(p: float, n_runs: int, n_donors: int) -> str:
    corrected = f", corrected for {n_runs} runs" if n_runs > 1 else ""
    return f"p {value_text(p, probability)} from flipping the signs of {n_donors or ''} donors{corrected}".replace(
        "  ", " "
    )
