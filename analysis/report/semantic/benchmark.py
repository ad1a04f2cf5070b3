"""The comparison of models of classes as the report shows it: all of them on the same patches, held against one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Part, Study, Table, fold
from fintune_xr.analysis.report.numbers import count_text, decimals, with_interval
from fintune_xr.analysis.report.score_intervals import ends
from fintune_xr.analysis.report.semantic.coarser import coarser_parts
from fintune_xr.analysis.report.semantic.scores import PRIMARY, SHOWN, ClassScores, classes_table, summary_table
from fintune_xr.analysis.report.semantic.verdicts import difference_table, verdicts
from fintune_xr.metrics.counts import score_name
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.text import texts

BASELINE: Final = "baseline"
ZERO_SHOT: Final = "zero-shot"
MODEL: Final = "model"

_ONE_TRAINING: Final = (
    "Each model is one training: intervals and p are over donors, and do not hold what another seed would change."
)


def class_benchmark_table(found: xr.Dataset) -> pd.DataFrame:
    """One row per model: means over classes with the ends of their intervals, Dice of each class, unrounded."""
    rows = []
    for run in texts(found[n.RUN]):
        one = found.sel({n.RUN: run})
        row: dict[str, Any] = {MODEL: run}
        for name in SHOWN:
            low, high = ends(one, name)
            row |= {name: float(one[name]), f"{name}_low": low, f"{name}_high": high}
        for label in texts(found[n.CLASS]):
            for way in (n.IMAGE_MEAN, n.POOLED):
                row[f"{n.DICE}_{way}_{label}"] = float(one.sel({n.CLASS: label})[score_name(n.DICE, way)])
        rows.append(row)
    return pd.DataFrame(rows)


def class_benchmark_study(found: xr.Dataset, coarser: xr.Dataset | None) -> Study:
    """The study from what is stored under `metrics/benchmark` and, where it has them, `metrics/benchmark_coarser`."""
    contents = _contents(found)
    parts: list[Part] = [*(Note(line, "doubtful") for line in left_out_lines(found))]
    parts += verdicts(found, contents.baseline, contents.n_donors)
    parts += [Note(_ONE_TRAINING), _under(summary_table(contents, found, SHOWN), "scores")]
    parts.append(_under(classes_table(found), "classes"))
    differences = [_under(one, "differences") for one in difference_table(found, contents.baseline, SHOWN)]
    parts += fold(f"Differences to {contents.baseline}", differences)
    if coarser is not None:
        parts += coarser_parts(_contents(coarser), prefix="benchmark_")
    return Study(
        "benchmark", _text(found), class_benchmark_table(found), parts=tuple(parts), more=(_models_table(found),),
        page=_page(found), finding=_finding(contents, found),
    )  # fmt: skip


def _contents(found: xr.Dataset) -> ClassScores:
    return ClassScores(
        scores=found, part=n.TEST, baseline=found.attrs[BASELINE], n_donors=len(set(texts(found[n.DONOR])))
    )


def _under(table: Table, key: str) -> Table:
    """The table under a name that no other table of the report has."""
    return replace(table, key=f"benchmark_{key}")


def _text(found: xr.Dataset) -> str:
    settings = found.attrs[n.PROVENANCE]["settings"]
    n_donors = len(set(texts(found[n.DONOR])))
    tiles = (
        f"{count_text(found.sizes[n.TILE], 'test patch', 'test patches')} of {count_text(n_donors, 'donor', 'donors')}"
    )
    zero = settings["zero_shot"]
    shown = (
        "" if zero is None else f" {ZERO_SHOT}: regions of {zero['model']}, named by sentences; it was shown no label."
    )
    return (
        f"All models on the same {tiles}, which none of them has seen, trained on the same train patches, with the "
        f"best epoch chosen on the same val patches. Held against {found.attrs[BASELINE]}.{shown}"
    )


def _finding(contents: ClassScores, found: xr.Dataset) -> Note | None:
    """Which model is highest, and how many are better or worse than the one that they are held against."""
    values = found[PRIMARY].values
    if not np.isfinite(values).any():
        return None
    best = found.isel({n.RUN: int(np.nanargmax(values))})
    number = with_interval(float(best[PRIMARY]), *ends(best, PRIMARY))
    tones = [note.tone for note in verdicts(found, contents.baseline, contents.n_donors)]
    better, worse = tones.count("good"), tones.count("bad")
    others = found.sizes[n.RUN] - 1
    text = (
        f"of {count_text(others + 1, 'model', 'models')}, highest {best[n.RUN].item()}, per-class Dice {number}; "
        f"{better} better than {contents.baseline}, {worse} worse, {others - better - worse} not decided."
    )
    return Note(text, "good" if better else "bad" if worse else "doubtful")


def _page(found: xr.Dataset) -> pd.DataFrame:
    """Pooled Dice of each class, which the tables above do not show."""
    pooled = found[score_name(n.DICE, n.POOLED)]
    frame = pd.DataFrame({MODEL: texts(found[n.RUN])})
    for label in texts(found[n.CLASS]):
        frame[f"{label}, pooled Dice"] = pooled.sel({n.CLASS: label}).values
    return frame


def _models_table(found: xr.Dataset) -> Table:
    """How each model was trained: its best epoch and the score that chose it."""
    rows = []
    for name, run in found.attrs["runs"].items():
        record = found.attrs["trainings"].get(name, {})
        best = record.get("best_epoch")
        rows.append(
            {MODEL: name, "run in the store": run, "best epoch": None if best is None else best + 1,
             "per-class Dice on val": record.get(f"best_{PRIMARY}"), "epochs": record.get("n_epochs")}
        )  # fmt: skip
    frame = pd.DataFrame(rows).replace({None: np.nan})
    caption = "What was trained; the run of each covers the test patches until infer continues it"
    return Table("benchmark_models", caption, frame, {"best epoch": decimals(0), "epochs": decimals(0)})
