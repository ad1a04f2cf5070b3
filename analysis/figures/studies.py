"""Figures of the studies that vary one or two settings: label budget, gating grid, sweep."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.style import COLOURS, FAINT, INK, colour_of, legend_above, mark_of, new_figure, style


def learning_curve_figure(
    score: xr.DataArray, *, over: str, curve: xr.DataArray | None = None, saturation: float | None = None
) -> Figure:
    """Score against a setting: a point per repeat, the mean as a line, the fitted `curve` dashed.

    `score` has the dim `over` with numbers as its coordinate, and one other dim, the repeats; `curve` has one
    dim, of any numbers on the same axis. `saturation` is the value of `over` marked as enough.
    """
    (repeat,) = (str(dim) for dim in score.dims if dim != over)
    places = score[over].values.astype(float)
    values = score.transpose(over, repeat).values
    with style():
        figure = new_figure(6.4, 3.4)
        axes = figure.subplots()
        axes.plot(places, values, "o", color=COLOURS[0], markersize=4.5, alpha=0.45, markeredgewidth=0)
        means = _row_means(values)
        axes.plot(places, means, "-o", color=COLOURS[0], linewidth=2, markersize=7, label="mean of repeats")
        if curve is not None:
            (dim,) = curve.dims
            axes.plot(curve[dim].values, curve.values, "--", color=COLOURS[1], label="fitted curve")
        if saturation is not None:
            label = f"saturates at {saturation:.0f}"
            axes.axvline(saturation, color=FAINT, linewidth=1.4, linestyle=":", label=label)
        axes.set_xlabel(_label(score[over], over))
        axes.set_ylabel(_label(score, "score"))
        # Whole points at the top, which the usual margin, a part of how far they lie apart, would cut.
        axes.set_ylim(0.0, 1.04 * axes.get_ylim()[1])
        axes.legend(loc="lower right")
    return figure


def precision_recall_figure(precision: xr.DataArray, recall: xr.DataArray) -> Figure:
    """Precision and recall (run, threshold) against the IoU that counts as a match, a panel each."""
    runs = [str(run) for run in precision[n.RUN].values]
    with style():
        figure = new_figure(7.6, 3.3)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, title, score in zip(panels, ("Precision", "Recall"), (precision, recall), strict=True):
            values = score.transpose(n.RUN, n.THRESHOLD).values
            for at, (run, colour) in enumerate(colour_of(runs).items()):
                marker = mark_of(runs)[run]
                axes.plot(score[n.THRESHOLD].values, values[at], color=colour, marker=marker, markersize=4.5, label=run)
            axes.set_title(title)
            axes.set_xlabel("IoU that counts as a match")
            axes.set_ylim(0.0, 1.02)
        panels[0].set_ylabel(f"{precision.attrs.get('long_name', 'score')}")
        legend_above(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def grid_figure(score: xr.DataArray) -> Figure:
    """Annotated heat map of a score over two settings (row, column); the best cell is framed."""
    rows, columns = ([str(value) for value in score[dim].values] for dim in score.dims)
    values = score.values
    with style():
        figure = new_figure(2.2 + 1.0 * len(columns), 1.3 + 0.5 * len(rows))
        axes = figure.subplots()
        shown = axes.imshow(values, cmap="cividis", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        best = int(np.nanargmax(values))
        for index, ((row, column), value) in enumerate(np.ndenumerate(values)):
            weight = "bold" if index == best else "normal"
            ink = INK if value > middle else "white"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink, fontweight=weight)
        axes.set_xticks(range(len(columns)), labels=columns)
        axes.set_yticks(range(len(rows)), labels=rows)
        axes.set_xlabel(_label(score[score.dims[1]], str(score.dims[1])))
        axes.set_ylabel(_label(score[score.dims[0]], str(score.dims[0])))
        axes.grid(visible=False)
        figure.colorbar(shown, ax=axes, shrink=0.9, label=_label(score, "score"))
    return figure


def _row_means(values: NDArray[np.float64]) -> list[float]:
    """Mean of the known values of every row, NaN where there is none."""
    return [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else float("nan") for row in values]


def _label(array: xr.DataArray, default: str) -> str:
    return str(array.attrs.get("long_name", default))
