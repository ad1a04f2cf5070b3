"""Figures of labelled results: each takes arrays and gives a figure; nothing is computed but positions."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.comparison import HIGH, LOW
from fintune_xr.analysis.figures.style import (
    FAINT,
    INK,
    RULE_COLOUR,
    colour_of,
    legend_above,
    line_below,
    mark_of,
    new_figure,
    style,
)

SIGNIFICANT: Final = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_STARS_KEY: Final = "* q < 0.05   ** q < 0.01   *** q < 0.001"
_SHOWN_REASONS: Final = 6


def ratio_figure(ratio: xr.DataArray, *, over: str = n.RUN) -> Figure:
    """Positive ratio of every donor, a panel per marker.

    `ratio` has the dims `over` (run or rule), donor and marker. The points of a donor are
    joined; the wide line is the median over donors.
    """
    markers = [str(marker) for marker in ratio[n.MARKER].values]
    columns = [str(one) for one in ratio[over].values]
    ratio = ratio.transpose(over, n.DONOR, n.MARKER)
    with style():
        width = max(1.2 + len(markers) * (0.8 + 0.7 * len(columns)), 5.0)
        figure = new_figure(width, 3.6)
        panels = figure.subplots(1, len(markers), sharey=True, squeeze=False)[0]
        for index, (axes, marker) in enumerate(zip(panels, markers, strict=True)):
            _strips(axes, ratio.values[:, :, index], columns)
            axes.set_title(marker)
        panels[0].set_ylabel("marker-positive share of cells, per donor")
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels[0].set_ylim(bottom=0.0)
    return figure


def association_figure(association: xr.Dataset) -> Figure:
    """Heat map of rho, a row per run and marker, a column per outcome, with marks of the q-value.

    `association` holds rho, q and reason (run, marker, outcome). A missing rho is hatched; the letter in the
    cell refers to the reason under the picture.
    """
    rho, q, reason = (_as_table(association[name]) for name in (n.RHO, n.Q, n.REASON))
    markers = _names(association, n.MARKER)
    rows = [f"{marker} · {run}" for run in _names(association, n.RUN) for marker in markers]
    columns = _names(association, n.OUTCOME)
    letters = _letters(reason, rho)
    with style():
        figure = new_figure(2.6 + 0.82 * len(columns), 1.5 + 0.42 * len(rows) + 0.2 * len(letters))
        axes = figure.subplots()
        shown = axes.imshow(rho, cmap="RdBu_r", vmin=-1.0, vmax=1.0, aspect="auto")
        for at in np.ndindex(rho.shape):
            _fill_cell(axes, at, (float(rho[at]), float(q[at])), letters.get(str(reason[at]), ""))
        _grid_ticks(axes, rows, columns)
        _between_runs(axes, len(rows), len(markers))
        bar = figure.colorbar(shown, ax=axes, shrink=0.9, aspect=16, pad=0.02)
        bar.set_label("Spearman rho")
        bar.outline.set_visible(False)
        notes = [_STARS_KEY, *(f"{letter}  {text}" for text, letter in letters.items())]
        line_below(figure, *notes)
    return figure


def bootstrap_figure(rho_resampled: xr.DataArray, rho: xr.DataArray, summary: xr.Dataset) -> Figure:
    """Distribution of rho over resamples, a panel per marker, a row per outcome, a colour per run.

    `rho_resampled` (resample, run, marker, outcome), `rho` (run, marker, outcome) of all tiles, drawn as a
    mark, and `summary` with low and high (run, marker, outcome) of `comparison.summarise`, drawn as a line.
    """
    markers, runs, outcomes = (_names(rho, dim) for dim in (n.MARKER, n.RUN, n.OUTCOME))
    order = (n.RUN, n.MARKER, n.OUTCOME)
    samples = rho_resampled.transpose(n.RESAMPLE, *order).values
    point = rho.transpose(*order).values
    ends = np.stack([summary[name].transpose(*order).values for name in (LOW, HIGH)], axis=-1)
    with style():
        figure = new_figure(1.6 + 2.9 * len(markers), 1.5 + len(outcomes) * (0.22 + 0.2 * len(runs)))
        panels = figure.subplots(1, len(markers), sharex=True, sharey=True, squeeze=False)[0]
        for column, (axes, marker) in enumerate(zip(panels, markers, strict=True)):
            for at, colour in enumerate(colour_of(runs).values()):
                offset = _offsets(len(runs))[at]
                for row in range(len(outcomes)):
                    place = row + offset
                    _half_violin(axes, samples[:, at, column, row], place, 0.75 / len(runs), colour)
                    _estimate(axes, point[at, column, row], ends[at, column, row], place, (colour, "o"))
            _rho_axis(axes, marker, outcomes)
        panels[0].invert_yaxis()
        _run_legend(figure, runs)
    return figure


def difference_figure(difference: xr.DataArray, interval: xr.DataArray, *, labels: Sequence[str], unit: str) -> Figure:
    """Differences to a reference with their intervals, a row per item, a colour per run.

    `difference` (run, item) and `interval` (run, item, quantile); `labels` name the items, `unit` the axis.
    Colours follow the order of all runs; the run that the scalar coordinate `reference` names is not drawn.
    """
    (over,) = (str(dim) for dim in difference.dims if dim != n.RUN)
    runs = _names(difference, n.RUN)
    reference = str(difference[n.REFERENCE].item()) if n.REFERENCE in difference.coords else ""
    others = [run for run in runs if run != reference]
    values = difference.sel({n.RUN: others}).transpose(n.RUN, over).values
    ends = interval.sel({n.RUN: others}).transpose(n.RUN, over, n.QUANTILE).values
    with style():
        figure = new_figure(6.8, 1.2 + len(labels) * (0.2 + 0.14 * len(others)))
        axes = figure.subplots()
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for at, run in enumerate(others):
            kind = (colour_of(runs)[run], mark_of(runs)[run])
            for row in range(len(labels)):
                place = row + 0.7 * _offsets(len(others))[at]
                _estimate(axes, values[at, row], ends[at, row], place, kind)
        _name_rows(axes, labels)
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        _run_legend(figure, runs, without=reference)
    return figure


def score_bars_figure(scores: xr.DataArray, interval: xr.DataArray, *, labels: Sequence[str]) -> Figure:
    """Grouped bars of scores (run, item) in 0..1 with their `interval` (run, item, quantile)."""
    (over,) = (str(dim) for dim in scores.dims if dim != n.RUN)
    runs = _names(scores, n.RUN)
    values = scores.transpose(n.RUN, over).values
    ends = interval.transpose(n.RUN, over, n.QUANTILE).values
    with style():
        # Many runs share the room of three: a wider picture is shrunk on the page until nobody can read it.
        figure = new_figure(max(1.2 + len(labels) * (0.5 + 0.28 * min(len(runs), 3)), 5.5), 3.3)
        axes = figure.subplots()
        thick = 0.8 / len(runs)
        for at, (run, colour) in enumerate(colour_of(runs).items()):
            places = np.arange(len(labels)) + _offsets(len(runs))[at]
            axes.bar(places, values[at], width=thick * 0.92, color=colour, label=run)
            axes.vlines(places, ends[at, :, 0], ends[at, :, -1], color=INK, linewidth=1.2)
        axes.set_xticks(range(len(labels)), labels=list(labels))
        axes.grid(visible=False, axis="x")
        axes.set_ylim(0.0, 1.02)
        axes.set_ylabel("score")
        _run_legend(figure, runs)
    return figure


def threshold_figure(average_precision: xr.DataArray, interval: xr.DataArray) -> Figure:
    """Average precision against the IoU that counts as a match, a line per run with its interval.

    `average_precision` (run, threshold), `interval` (run, threshold, quantile).
    """
    runs = _names(average_precision, n.RUN)
    iou = average_precision[n.THRESHOLD].values
    values = average_precision.transpose(n.RUN, n.THRESHOLD).values
    ends = interval.transpose(n.RUN, n.THRESHOLD, n.QUANTILE).values
    with style():
        figure = new_figure(6.4, 3.4)
        axes = figure.subplots()
        for at, (run, colour) in enumerate(colour_of(runs).items()):
            axes.fill_between(iou, ends[at, :, 0], ends[at, :, -1], color=colour, alpha=0.14, linewidth=0)
            axes.plot(iou, values[at], color=colour, marker=mark_of(runs)[run], markersize=5, label=run)
        axes.set_xlabel("intersection over union that counts as a match")
        axes.set_ylabel("average precision")
        axes.set_ylim(0.0, 1.0)
        axes.xaxis.set_major_locator(MultipleLocator(0.1))
        _run_legend(figure, runs)
    return figure


def _strips(axes: Axes, ratio: NDArray[np.float64], columns: Sequence[str]) -> None:
    """Points of ratio (column, donor) in a strip per column, donors joined, medians as wide lines."""
    n_donors = ratio.shape[1]
    # The same sideways shift for a donor in every strip: joined points stay parallel and nothing is random.
    shift = ((np.arange(n_donors) * 0.618) % 1.0 - 0.5) * 0.3
    places = np.arange(len(columns))[:, None] + shift
    if len(columns) > 1:
        axes.plot(places, ratio, color=FAINT, linewidth=0.6, alpha=0.5)
    for at, column in enumerate(columns):
        colour, mark = colour_of(columns)[column], mark_of(columns)[column]
        axes.scatter(places[at], ratio[at], s=24, color=colour, marker=mark, alpha=0.8, lw=0, zorder=3)
        known = ratio[at][np.isfinite(ratio[at])]
        if known.size:
            axes.hlines(np.median(known), at - 0.32, at + 0.32, color=INK, linewidth=2.2, zorder=4)
    turned = max(len(column) for column in columns) > 11
    axes.set_xticks(range(len(columns)), labels=list(columns))
    if turned:
        axes.set_xticks(range(len(columns)), labels=list(columns), rotation=35, ha="right")
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.grid(visible=False, axis="x")


def _as_table(array: xr.DataArray) -> NDArray[Any]:
    """Values (run and marker, outcome), run by run."""
    ordered = array.transpose(n.RUN, n.MARKER, n.OUTCOME)
    return np.asarray(ordered.values.reshape(-1, ordered.sizes[n.OUTCOME]))


def _letters(reason: NDArray[Any], rho: NDArray[Any]) -> dict[str, str]:
    """A letter for each reason that occurs where rho is missing."""
    missing = np.isnan(np.asarray(rho, dtype=float))
    found = list(dict.fromkeys(str(text) for text in reason[missing]))[:_SHOWN_REASONS]
    return {text: letter for text, letter in zip(found, ascii_lowercase, strict=False) if text}


def _fill_cell(axes: Axes, at: tuple[int, ...], found: tuple[float, float], letter: str) -> None:
    (row, column), (rho, q) = at, found
    if not np.isfinite(rho):
        axes.add_patch(_hatched(row, column))
        axes.text(column, row, letter or "–", ha="center", va="center", fontsize=9, color=INK)
        return
    marks = next((stars for limit, stars in SIGNIFICANT if q < limit), "")
    ink = "white" if abs(rho) > 0.62 else INK
    text = f"{round(rho, 2) + 0.0:+.2f}".replace("-", "−")
    axes.text(
        column, row, f"{text}{marks}", ha="center", va="center", fontsize=9, color=ink,
        fontweight="bold" if marks else "normal",
    )  # fmt: skip


def _hatched(row: int, column: int) -> Rectangle:
    return Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, facecolor="#f3f4f6", hatch="////", linewidth=0)


def _grid_ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), labels=list(columns))
    axes.set_yticks(range(len(rows)), labels=list(rows))
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for edge in np.arange(0.5, len(columns) - 1):
        axes.axvline(edge, color="white", linewidth=1.5)
    for edge in np.arange(0.5, len(rows) - 1):
        axes.axhline(edge, color="white", linewidth=1.5)


def _between_runs(axes: Axes, n_rows: int, n_markers: int) -> None:
    for edge in range(n_markers, n_rows, n_markers):
        axes.axhline(edge - 0.5, color=INK, linewidth=1.2)


def _half_violin(axes: Axes, samples: NDArray[np.float64], place: float, height: float, colour: str) -> None:
    known = samples[np.isfinite(samples)]
    if known.size < 2:
        axes.text(0.03, place, "no value", fontsize=8, color=colour, va="center")
        return
    share, edges = np.histogram(known, bins=60, range=(-1.0, 1.0))
    smooth = np.convolve(share, [0.25, 0.5, 0.25], mode="same")
    middle = (edges[:-1] + edges[1:]) / 2
    seen = smooth > 0
    top = place - height * smooth / smooth.max()
    axes.fill_between(middle, top, place, where=seen, color=colour, alpha=0.4, linewidth=0)


def _estimate(axes: Axes, value: float, ends: NDArray[np.float64], place: float, kind: tuple[str, str]) -> None:
    colour, mark = kind
    if np.all(np.isfinite(ends)):
        axes.hlines(place, ends[0], ends[-1], color=colour, linewidth=2.0)
    if np.isfinite(value):
        axes.plot(value, place, mark, color=colour, markersize=5.5, markeredgecolor="white")


def _rho_axis(axes: Axes, marker: str, outcomes: Sequence[str]) -> None:
    axes.axvline(0.0, color=INK, linewidth=0.9)
    axes.set_xlim(-1.02, 1.02)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.set_title(marker)
    axes.set_xlabel("rho over resamples")
    _name_rows(axes, outcomes)
    for edge in range(1, len(outcomes)):
        axes.axhline(edge - 0.5, color=RULE_COLOUR, linewidth=0.6)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels=list(labels))
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.grid(visible=False, axis="y")


def _run_legend(figure: Figure, runs: Sequence[str], *, without: str = "") -> None:
    marks = mark_of(runs)
    handles = [
        Line2D([], [], color=colour, marker=marks[run], linewidth=2, markersize=5.5, label=run)
        for run, colour in colour_of(runs).items()
        if run != without
    ]
    legend_above(figure, handles)


def _offsets(n_runs: int) -> NDArray[np.float64]:
    """Centres of `n_runs` equal parts of the 0.8 around an integer."""
    return (np.arange(n_runs) - (n_runs - 1) / 2) * 0.8 / n_runs


def _names(data: xr.Dataset | xr.DataArray, dim: str) -> list[str]:
    return [str(name) for name in data[dim].values]
