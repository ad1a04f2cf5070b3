"""What a sweep of SAM's automatic mask generation found: a table, the best setting, and the section of the report."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.studies import grid_figure
from fintune_xr.analysis.reference_figures import PUBLISHED_CHOICES
from fintune_xr.analysis.report.contents import UNFINISHED_STUDY, Note, Study
from fintune_xr.analysis.report.numbers import with_interval
from fintune_xr.metrics.counts import AP50, IOU, score_name

GRID: Final = (n.POINTS_PER_SIDE, n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)
_SHOWN: Final = {
    "AP50": AP50,
    "AP50_pooled": score_name(n.AVERAGE_PRECISION, n.POOLED),
    "AP50_95": score_name(n.MEAN_AVERAGE_PRECISION, n.IMAGE_MEAN),
    n.PRECISION: score_name(n.PRECISION, n.POOLED),
    n.RECALL: score_name(n.RECALL, n.POOLED),
    n.F1: score_name(n.F1, n.POOLED),
}
_INTERVAL: Final = f"{AP50}_{n.INTERVAL}"
_ENDS: Final = ("low", "high")
_MIB: Final = 2**20


def sweep_table(stored: xr.Dataset) -> pd.DataFrame:
    """One row per setting, the best first: scores at IoU 0.5, instances and seconds per tile, peak memory in MiB.

    `AP50` and `AP50_95` are means over images; precision, recall, F1 are pooled, as `AP50_pooled` is. `AP50_low` and
    `AP50_high` are the ends of its 95 % interval over donors, where there is one. The seconds are what
    the setting takes by itself: embedding, decoding of its points, and its filters.
    """
    at = stored.sel({n.THRESHOLD: IOU}, method="nearest")
    columns = {label: at[name] for label, name in _SHOWN.items()}
    if _INTERVAL in at:
        columns |= {f"AP50_{end}": at[_INTERVAL].isel({n.QUANTILE: i}, drop=True) for i, end in enumerate(_ENDS)}
    columns["cells_per_tile"] = at[n.N_CELLS].mean(n.TILE)
    each = at[n.SECONDS_EMBEDDING] + at[n.SECONDS_DECODING] + at[n.SECONDS]
    columns["seconds_per_tile"] = each.mean(n.TILE)
    columns["peak_memory_mib"] = at[n.PEAK_MEMORY].max(n.TILE) / _MIB
    flat = xr.Dataset(columns).drop_vars(n.THRESHOLD).to_dataframe(dim_order=list(GRID)).reset_index()
    ordered: pd.DataFrame = flat.sort_values("AP50", ascending=False, kind="stable", ignore_index=True)
    return ordered[[*GRID, *columns]]


def best_setting(stored: xr.Dataset) -> dict[str, Any]:
    """The setting with the highest AP50 (mean over images) and its scores; of equals the first in the grid."""
    best = {str(name): value for name, value in sweep_table(stored).iloc[0].items()}
    return {**best, n.POINTS_PER_SIDE: int(best[n.POINTS_PER_SIDE])}


def best_line(stored: xr.Dataset) -> str:
    """One sentence that names the best setting and its score."""
    best = best_setting(stored)
    setting = ", ".join(f"{name} {best[name]:g}" for name in GRID)
    number = with_interval(best["AP50"], *(best.get(f"AP50_{end}", np.nan) for end in _ENDS), digits=3)
    return f"best of {_n_settings(stored)} settings by AP50 (image mean): {setting}; AP50 {number}"


def sweep_study(stored: xr.Dataset) -> Study:
    """The section of the report, from the stored SWEEP dataset with its attributes."""
    identity = stored.attrs[n.IDENTITY]
    unfinished = f" {UNFINISHED_STUDY}" if stored.attrs.get(n.UNFINISHED) else ""
    text = (
        f"SAM weights {identity['model']} on {stored.sizes[n.TILE]} of {len(identity['tiles'])} tiles drawn from part "
        f"{identity[n.SPLIT]!r}: {best_line(stored)}. A tile is embedded once and each grid of points decoded once for "
        "the whole sweep. The setting was chosen on the tiles that it is scored on, so its score flatters it. "
        f"The original study, on its own images, found {PUBLISHED_CHOICES['micro-SAM']} best.{unfinished}"
    )
    score = _by_points_and_filters(stored)
    figure = grid_figure(score) if score.notnull().any() else None
    told = f"{best_line(stored)}, chosen on the tiles that it is scored on.{unfinished}"
    finding = Note(told, tone="doubtful" if unfinished else "plain")
    return Study(n.SWEEP, text, sweep_table(stored), figure, finding=finding)


def _n_settings(stored: xr.Dataset) -> int:
    count = 1
    for name in GRID:
        count *= stored.sizes[name]
    return count


def _by_points_and_filters(stored: xr.Dataset) -> xr.DataArray:
    """AP50 (points per side, filters), each with its best `box_nms_thresh`."""
    score = stored[AP50].sel({n.THRESHOLD: IOU}, method="nearest").max(n.BOX_NMS_THRESH)
    flat = score.stack({"filters": (n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH)}).transpose(n.POINTS_PER_SIDE, ...)
    labels = [f"{iou:g} / {stability:g}" for iou, stability in flat["filters"].values.tolist()]
    axis = xr.Variable(("filters",), labels, {"long_name": "Least predicted IoU / stability score"})
    points = score[n.POINTS_PER_SIDE].variable.copy()
    points.attrs["long_name"] = "Points per side"
    return xr.DataArray(
        flat.values, dims=(n.POINTS_PER_SIDE, "filters"),
        coords={n.POINTS_PER_SIDE: points, "filters": axis}, attrs={"long_name": "AP50, image mean"},
    )  # fmt: skip
