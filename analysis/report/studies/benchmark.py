"""The study of ways to train as the report shows it: all models side by side, and whether fine-tuning helped."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.overlays import plane_names, tile_figure
from fintune_xr.analysis.figures.studies import precision_recall_figure
from fintune_xr.analysis.figures.style import PICTURE_DPI, data_uri
from fintune_xr.analysis.reference_figures import METRIC, MODEL, published_segmentation
from fintune_xr.analysis.report.contents import Note, Part, Picture, Study, Table, fold
from fintune_xr.analysis.report.instance.scores import RunScores, score_parts, verdict_in_short
from fintune_xr.analysis.report.numbers import count_text, decimals
from fintune_xr.metrics.counts import IOU, SCORES, score_name

BASELINE: Final = "baseline"
GENERIC: Final = "generic"
MARKER_ONLY: Final = "marker-only"
UNDECIDED: Final = "hybrid_undecided"

_AP: Final = score_name(n.AVERAGE_PRECISION, n.IMAGE_MEAN)
_COUNTS: Final = (n.TP, n.FP, n.FN)
_PUBLISHED: Final = {
    "average_precision_50": ("AP50, image mean", _AP),
    n.PRECISION: ("Precision, pooled", score_name(n.PRECISION, n.POOLED)),
    n.RECALL: ("Recall, pooled", score_name(n.RECALL, n.POOLED)),
    n.F1: ("F1, pooled", score_name(n.F1, n.POOLED)),
}


def specific_name(marker: str) -> str:
    """What the model of one marker is called."""
    return f"{marker}-specific"


def benchmark_study(found: xr.Dataset, *, gallery: xr.Dataset | None, beside_published: bool) -> Study:
    """The study from its stored dataset, `metrics/benchmark`.

    `gallery` holds tiles with image, mask (run, tile, y, x) and annotated, as in `examples_section`; with
    `beside_published` the figures of the original study stand in the table beside ours.
    """
    table, contents, notes = benchmark_table(found), _contents(found), _notes(found)
    more: list[Part] = [_models_table(found), _curves(found)]
    if beside_published:
        more += fold("Beside the scores of the original study, on its own images", [_published_table(found)])
    parts = [*notes, *score_parts(contents, prefix="benchmark_")]
    parts += fold("The same tiles under every model", _gallery(gallery))
    finding = verdict_in_short(contents) or next((note for note in notes if note.tone != "plain"), None)
    return Study(
        "benchmark", _text(found), table, page=_page(table), parts=tuple(parts), more=tuple(more), finding=finding
    )


def benchmark_table(found: xr.Dataset) -> pd.DataFrame:
    """One row per group of tiles and model: tp, fp, fn at IoU 0.5 and every score both ways, unrounded.

    `map_image_mean` and `map_pooled` are average precision averaged over IoU 0.5 to 0.95.
    """
    at = found.sel({n.THRESHOLD: IOU}, method="nearest")
    rows = []
    for group in map(str, found[n.GROUP].values):
        counts = _counts(at, group)
        for run in map(str, found[n.RUN].values):
            one = at.sel({n.GROUP: group, n.RUN: run})
            row: dict[str, Any] = {n.GROUP: group, MODEL: run}
            row |= {name: int(counts[name].sel({n.RUN: run})) for name in _COUNTS}
            names = [score_name(score, way) for score in SCORES for way in (n.IMAGE_MEAN, n.POOLED)]
            row |= {name: float(one[name]) for name in names}
            row |= {f"map_{way}": float(one[score_name(n.MEAN_AVERAGE_PRECISION, way)]) for way in _WAYS}
            rows.append(row)
    return pd.DataFrame(rows)


_WAYS: Final = (n.IMAGE_MEAN, n.POOLED)


def _counts(at: xr.Dataset, group: str) -> xr.Dataset:
    """tp, fp, fn (run,) summed over the tiles of a group."""
    member = np.flatnonzero((at[n.MARKER].values == group) | (group == n.ALL_MARKERS))
    return at[list(_COUNTS)].isel({n.TILE: member}).sum(n.TILE)


def _contents(found: xr.Dataset) -> RunScores:
    """The scores in the form in which the report shows scores of runs."""
    by_tile = [str(name) for name, array in found.variables.items() if n.TILE in array.dims]
    scores = found.drop_vars(by_tile)
    markers = [group for group in map(str, scores[n.GROUP].values) if group != n.ALL_MARKERS]
    by_marker = scores.sel({n.GROUP: markers}).rename({n.GROUP: n.MARKER}) if markers else None
    return RunScores(
        scores=scores.sel({n.GROUP: n.ALL_MARKERS}, drop=True),
        scores_by_marker=by_marker,
        baseline=BASELINE,
        n_scored_donors=len(set(found[n.DONOR].values.tolist())),
        scored_part=n.TEST,
    )


def _text(found: xr.Dataset) -> str:
    facts = found.attrs[n.PROVENANCE]
    n_donors = len(set(found[n.DONOR].values.tolist()))
    tiles = f"{count_text(found.sizes[n.TILE], 'test tile', 'test tiles')} of {count_text(n_donors, 'donor', 'donors')}"
    unseen = ", ".join(facts["settings"]["marker_only"])
    blind = f"{MARKER_ONLY}: trained and run without {unseen}. " if MARKER_ONLY in found.attrs["runs"] else ""
    return (
        f"All models on the same {tiles}. {BASELINE}: {facts['baseline']['name']} as it is. {GENERIC}: "
        f"{facts['model']} trained on the train tiles of all markers; a specific model on those of its marker, and "
        f"judged on all test tiles. {blind}{n.HYBRID}: for each marker the model that is best by AP50 on the val tiles "
        f"({hybrid_choice(found)}).{_as_a_run(found)}"
    )


def _as_a_run(found: xr.Dataset) -> str:
    """How the hybrid, whose counts are put together here, becomes a run of the whole cohort."""
    chosen = [run for name, run in found.attrs["runs"].items() if name in found.attrs[n.HYBRID].values()]
    if len(chosen) < 2:
        return ""
    runs = " ".join(f"--run {run}" for run in chosen)
    return (
        f" As a run of all tiles, once `infer` has continued them: `fintune-xr hybrid STORE --name {n.HYBRID} {runs}`, "
        "which chooses the same."
    )


def hybrid_choice(found: xr.Dataset) -> str:
    """Which model the hybrid takes for each marker, and for which of them no val tile decided."""
    chosen = ", ".join(f"{marker}: {name}" for marker, name in found.attrs[n.HYBRID].items())
    guessed = ", ".join(found.attrs.get(UNDECIDED, []))
    return f"{chosen}; no val tiles of {guessed}: best over all markers" if guessed else chosen


def _notes(found: xr.Dataset) -> list[Note]:
    notes = [Note(f"No {name} model: {reason}.") for name, reason in found.attrs["left_out"].items()]
    if len(set(found[n.DONOR].values.tolist())) < 2:
        notes.append(Note("Did it help? Not known: all test tiles come from one donor.", "doubtful"))
    return notes


def _page(table: pd.DataFrame) -> pd.DataFrame:
    """Counts, and the scores of single images averaged, which the table of pooled scores does not show."""
    ways = {score_name(score, n.IMAGE_MEAN): score for score in (n.PRECISION, n.RECALL, n.F1)}
    shown = table[[n.GROUP, MODEL, *_COUNTS, *ways]]
    return shown.rename(
        columns={
            **{name: name.upper() for name in _COUNTS},
            **{name: f"{score}, image mean" for name, score in ways.items()},
        }
    )


def _models_table(found: xr.Dataset) -> Table:
    """How each model was trained: tiles, best epoch and its AP50 on val."""
    rows = []
    for name, run in found.attrs["runs"].items():
        record = found.attrs["trainings"].get(name, {})
        best, scored, n_epochs = (record.get(key) for key in ("best_epoch", "best_ap50", "n_epochs"))
        row = {MODEL: name, "run in the store": run, "best epoch": None if best is None else best + 1 or None}
        rows.append({**row, "AP50 on val": scored, "epochs": n_epochs})
    frame = pd.DataFrame(rows).replace({None: np.nan})
    caption = "What was trained; the run of each model covers val and test tiles until infer continues it"
    return Table("benchmark_models", caption, frame, {"best epoch": decimals(0), "epochs": decimals(0)})


def _curves(found: xr.Dataset) -> Picture:
    """Precision and recall of all cells together over the IoU thresholds."""
    overall = found.sel({n.GROUP: n.ALL_MARKERS})
    figure = precision_recall_figure(
        *(
            overall[score_name(score, n.POOLED)].assign_attrs(long_name="of all cells together")
            for score in (n.PRECISION, n.RECALL)
        )
    )
    alt = "Precision and recall of each model against the required overlap"
    return Picture(data_uri(figure, "svg"), alt, "Precision and recall, pooled, by IoU.")


def _published_table(found: xr.Dataset) -> Table:
    """Scores here beside those of the original study, for every model that either has."""
    at = found.sel({n.GROUP: n.ALL_MARKERS}).sel({n.THRESHOLD: IOU}, method="nearest")
    study = published_segmentation()
    here, there = ([str(name) for name in names] for names in (found[n.RUN].values, study[MODEL].values))
    rows = []
    for name in [*here, *(one for one in there if one not in here)]:
        row: dict[str, Any] = {MODEL: name}
        for metric, (label, score) in _PUBLISHED.items():
            row[f"{label}: here"] = float(at[score].sel({n.RUN: name})) if name in here else np.nan
            known = study.sel({MODEL: name, METRIC: metric}) if name in there else np.nan
            row[f"{label}: study"] = float(known)
        rows.append(row)
    caption = "Published scores of another data set, with other weights, beside ours: no row should be equal"
    return Table("benchmark_published", caption, pd.DataFrame(rows))


def _gallery(gallery: xr.Dataset | None) -> list[Part]:
    if gallery is None:
        return []
    pictures: list[Part] = []
    for at in range(gallery.sizes[n.TILE]):
        tile = gallery.isel({n.TILE: at})
        label = f"Test tile {tile[n.TILE].item()}, {tile[n.MARKER].item()}"
        planes = " and ".join(plane_names(tile))
        caption = f"{label}: the part with most annotated cells. {planes}; outlines of every model and the annotation."
        uri = data_uri(tile_figure(tile), "jpeg", dpi=PICTURE_DPI)
        pictures.append(Picture(uri, f"{label}, outlines of each model", caption))
    return pictures
