"""Which encoder knows most about the classes: val and test side by side, with ranks that level runs share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.models.vjepa2.settings import VOLUME_CLASSIFIER
from fintune_xr.pipelines.classification.evaluate import MAJORITY, evaluate_classes, ranks_of, texts_of
from fintune_xr.pipelines.classification.pretraining import FLOORS, pretraining_lines
from fintune_xr.pipelines.classification.probing import PROBE
from fintune_xr.pipelines.classification.scans import labelled_scans, runs_with
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest, ExportRequest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import doubt, tiles_in
from fintune_xr.store.split import default_part

RESAMPLES: Final = 1000


def leaderboard(cohort: Cohort, runs: Sequence[str] = ()) -> pd.DataFrame:
    """A row per run with logits, and one for the majority class, best first by balanced accuracy of the judging part.

    Columns: rank (shared by runs whose interval of the difference to the first of the rank includes 0), encoder, mode,
    run, and for val and for test, where they are, balanced accuracy with its interval, its difference to the best of
    the floors (profile, random weights, majority), mean AUROC, macro-F1 and F1 of each class.
    """
    scores = part_scores(cohort, runs)
    judged = scores[judge(cohort, scores)]
    ranks = ranks_of(judged)
    rows = []
    for run in texts_of(judged, n.RUN):
        row: dict[str, Any] = {"rank": ranks[run], **what_of(cohort, run)}
        for part, found in scores.items():
            row |= {f"{part} {name}": value for name, value in _of_part(cohort, found, run).items()}
        rows.append(row)
    by = f"{judge(cohort, scores)} {n.BALANCED_ACCURACY}"
    return pd.DataFrame(rows).sort_values(["rank", by], ascending=[True, False], kind="stable", ignore_index=True)


def part_scores(cohort: Cohort, runs: Sequence[str] = ()) -> dict[str, xr.Dataset]:
    """Scores of val and of test, as stored where they are those of the same runs now and have intervals, which ranks
    are made of; else made and stored."""
    names = runs_with(cohort, n.LOGITS, runs)
    found = {}
    for part in scored_parts(cohort):
        stored = cohort.metrics(part) if cohort.has(f"{n.METRICS}/{part}") else None
        if stored is None or not _ranks(stored, [*names, MAJORITY]) or doubt(cohort, stored, tiles_in(cohort, part)):
            request = EvaluateRequest(runs=tuple(names), split=part, resamples=RESAMPLES, seed=0)
            stored = evaluate_classes(cohort, request).assign_attrs({n.TASK: cohort.task.name})
            cohort.write(f"{n.METRICS}/{part}", stored)
        found[part] = stored
    return found


def _ranks(scores: xr.Dataset, runs: Sequence[str]) -> bool:
    """Whether `scores` are of these `runs`, and tell how far their differences can be trusted."""
    return texts_of(scores, n.RUN) == list(runs) and (n.N_COMPLETE in scores or scores.sizes[n.DONOR] < 2)


def scored_parts(cohort: Cohort) -> list[str]:
    """Val and test, as far as they have labelled scans."""
    there = set(labelled_scans(cohort, n.VAL, n.TEST).part.tolist())
    return [part for part in (n.VAL, n.TEST) if part in there]


def judge(cohort: Cohort, parts: Iterable[str]) -> str:
    """The one of `parts` that ranks are by."""
    known = tuple(parts)
    part = default_part(cohort)
    return part if part in known else known[0]


def what_of(cohort: Cohort, run: str) -> dict[str, str]:
    """Encoder and mode of a run, and its name: a head on stored embeddings, or a classifier as a whole."""
    if run == MAJORITY:
        return {"encoder": "none", "mode": "majority class", n.RUN: run}
    identity = cohort.run_attrs(run)[n.IDENTITY]
    if PROBE in identity:
        return {"encoder": next(iter(identity[n.SOURCES])), "mode": str(identity[PROBE]["head"]), n.RUN: run}
    mode = "fine-tuned" if identity.get("checkpoint_kind") == VOLUME_CLASSIFIER else "classifier"
    return {"encoder": run, "mode": mode, n.RUN: run}


def is_floor(cohort: Cohort, run: str) -> bool:
    """Whether a run has no pretraining behind it: a profile, random weights, or the majority class."""
    if run == MAJORITY:
        return True
    sources = cohort.run_attrs(run)[n.IDENTITY].get(n.SOURCES, {})
    return any(one.get("checkpoint_kind") in FLOORS for one in sources.values())


def write_leaderboard(cohort: Cohort, request: ExportRequest) -> list[Path]:
    """`leaderboard.csv`, `.md` and `.png`, and `confusion_<run>.png` of the judging part, in the folder asked for."""
    from fintune_xr.analysis.figures.leaderboard import confusion_figure, leaderboard_figure
    from fintune_xr.analysis.figures.style import figure_bytes

    table = leaderboard(cohort, request.runs)
    scores = part_scores(cohort, request.runs)
    part = judge(cohort, scores)
    made: list[Path] = []
    for name, content in (
        ("leaderboard.csv", table.to_csv(index=False)),
        ("leaderboard.md", markdown(table, part, [*_left_out(scores), *pretraining_lines(cohort, n.TEST)])),
    ):
        with whole_file(request.out / name) as path:
            path.write_text(content, encoding="utf-8")
        made.append(request.out / name)
    figures = {"leaderboard.png": leaderboard_figure(scores, table[n.RUN].tolist(), part)}
    for run in texts_of(scores[part], n.RUN):
        figures[f"confusion_{run}.png"] = confusion_figure(scores[part].sel({n.RUN: run}), f"{run}, {part}")
    for name, figure in figures.items():
        with whole_file(request.out / name) as path:
            path.write_bytes(figure_bytes(figure, "png"))
        made.append(request.out / name)
    return made


def markdown(table: pd.DataFrame, part: str, remarks: Sequence[str] = ()) -> str:
    """The table for people, with what must be known to read it, `remarks` at last."""
    shown = table[[name for name in table.columns if not name.endswith((" low", " high"))]]
    lines = ["| " + " | ".join(map(str, shown.columns)) + " |", "|" + " --- |" * len(shown.columns)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in shown.itertuples(index=False)]
    notes = (
        f"Balanced accuracy of participants; ranks are by {part}, and shared by runs whose interval of the difference "
        "to the first of the rank includes 0. Heads and penalties were chosen inside train, epochs by val."
    )
    return "\n".join([*lines, "", " ".join([notes, *remarks]), ""])


def _left_out(scores: Mapping[str, xr.Dataset]) -> list[str]:
    """What each part is scored without."""
    return [f"Part {part}: {' '.join(lines)}" for part, found in scores.items() if (lines := left_out_lines(found))]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value).replace("|", "\\|")


def _of_part(cohort: Cohort, scores: xr.Dataset, run: str) -> dict[str, Any]:
    one = scores.sel({n.RUN: run})
    row: dict[str, Any] = {n.BALANCED_ACCURACY: float(one[n.BALANCED_ACCURACY])}
    floor = _best_floor(cohort, scores)
    row |= _ends(one, n.BALANCED_ACCURACY)
    difference = f"{n.BALANCED_ACCURACY}_{n.DIFFERENCE}"
    if difference in one:
        against = one.sel({n.REFERENCE: floor})
        row["difference to floor"] = float(against[difference])
        row |= {f"difference to floor {end}": value for end, value in _ends(against, difference, "").items()}
    row |= {name: float(one[name]) for name in (n.MEAN_AUROC, n.MACRO_F1)}
    return row | {f"F1 {name}": float(one[n.F1].sel({n.CLASS: name})) for name in texts_of(scores, n.CLASS)}


def _best_floor(cohort: Cohort, scores: xr.Dataset) -> str:
    floors = [run for run in texts_of(scores, n.RUN) if is_floor(cohort, run)]
    if not floors:
        raise FintuneValueError("scores without the majority class; evaluate again")
    return max(floors, key=lambda run: float(scores[n.BALANCED_ACCURACY].sel({n.RUN: run})))


def _ends(one: xr.Dataset, name: str, prefix: str | None = None) -> dict[str, float]:
    """Both ends of a score's interval, NaN where there is none."""
    interval = f"{name}_{n.INTERVAL}"
    values = one[interval].values if interval in one else (np.nan, np.nan)
    start = f"{name} " if prefix is None else prefix
    return {f"{start}{end}": float(value) for end, value in zip(("low", "high"), values, strict=True)}
