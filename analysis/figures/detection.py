"""Pictures of particles: circles on micrographs, and how precision and recall hang together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.scale_bar import add_scale_bar
from fintune_xr.analysis.figures.style import (
    FAINT,
    bare,
    colour_of,
    legend_above,
    line_below,
    mark_of,
    new_figure,
    style,
)

TRUE_COLOUR: Final = "#ffffff"
HIT_COLOUR: Final = "#56B4E9"
FALSE_COLOUR: Final = "#E69F00"

_PANEL_IN: Final = 4.3
_COLUMNS: Final = 2
_ZOOM_DIAMETERS: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class ShownPicks:
    """Picks of one run on one micrograph: `yx` (pick, 2) in px, and which of them hit an annotated particle."""

    run: str
    yx: NDArray[np.float64]
    is_hit: NDArray[np.bool_]
    n_missed: int


def micrograph_figure(
    image: NDArray[Any],
    true: NDArray[np.float64] | None,
    picks: Sequence[ShownPicks],
    *,
    diameter_px: float,
    side_um: float = 0.0,
) -> Figure:
    """One micrograph (y, x) in panels: the whole, its middle with annotated particles `true`, and each run's picks.

    The middle is as large as `_ZOOM_DIAMETERS` particles, so that circles can be told apart; numbers in the titles are
    of the whole. Circles have the particle's diameter: white annotated, blue picked and annotated, orange picked only.
    A scale bar is drawn into the middle where the side of a pixel, `side_um`, is known.
    """
    n_panels = 2 + len(picks)
    n_columns = min(_COLUMNS, n_panels)
    n_rows = -(-n_panels // n_columns)
    window = _middle(image.shape, diameter_px)
    with style():
        figure = new_figure(_PANEL_IN * n_columns, n_rows * (_PANEL_IN + 0.3) + 0.3)
        axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for empty in axes[n_panels:]:
            empty.set_axis_off()
        for at in axes[:n_panels]:
            low, high = np.percentile(image, (0.5, 99.5))
            at.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="antialiased")
            bare(at)
        axes[0].set_title("whole micrograph, middle framed", fontsize=9.5)
        axes[0].add_patch(_frame(window))
        _annotated(axes[1], true, diameter_px)
        for at, shown in zip(axes[2:], picks, strict=False):
            _picked(at, shown, diameter_px)
        for at in axes[1:n_panels]:
            at.set_xlim(window[1].start - 0.5, window[1].stop - 0.5)
            at.set_ylim(window[0].stop - 0.5, window[0].start - 0.5)
        add_scale_bar(axes[1], side_um)
        line_below(figure, "Circles: white annotated, blue picked and annotated, orange picked only")
    return figure


def precision_recall_curves(precision: xr.DataArray, recall: xr.DataArray, chosen: xr.Dataset) -> Figure:
    """Precision against recall (run, level) over all thresholds, and F1 against how much is picked.

    `chosen` holds `precision` and `recall` (run) at the threshold that is stored; a point marks it. How much is picked
    is the number of picks per annotated particle, because scores of different pickers have no common scale.
    """
    runs = [str(run) for run in precision[n.RUN].values]
    with style():
        figure = new_figure(8.4, 3.6)
        left, right = figure.subplots(1, 2)
        for run, colour in colour_of(runs).items():
            p, r = (array.sel({n.RUN: run}).values for array in (precision, recall))
            known = np.isfinite(p) & np.isfinite(r) & (p > 0)
            p, r = p[known], r[known]
            left.plot(r, p, color=colour, linewidth=1.8, label=run)
            right.plot(r / p, 2 * p * r / (p + r), color=colour, linewidth=1.8)
            at_p, at_r = (float(chosen[name].sel({n.RUN: run})) for name in (n.PRECISION, n.RECALL))
            mark = {"color": colour, "marker": mark_of(runs)[run], "markersize": 8, "markeredgecolor": "white"}
            left.plot([at_r], [at_p], **mark)
            if at_p > 0 and at_r > 0:
                right.plot([at_r / at_p], [2 * at_p * at_r / (at_p + at_r)], **mark)
        left.set_xlabel("recall: part of the annotated particles that is found")
        left.set_ylabel("precision: part of the picks that is annotated")
        right.set_xlabel("picks per annotated particle")
        right.set_ylabel("F1")
        right.axvline(1, color=FAINT, linewidth=1, linestyle=":")
        for axes in (left, right):
            axes.set_ylim(0, 1.02)
        left.set_xlim(0, 1.02)
        right.set_xlim(left=0)
        legend_above(figure, left.get_legend_handles_labels()[0])
    return figure


def stages_figure(scores: Mapping[str, xr.DataArray]) -> Figure:
    """Scores (stage, part) of the stages of a self-training, a panel each; parts in colours."""
    with style():
        figure = new_figure(4.2 * len(scores), 3.2)
        panels = figure.subplots(1, len(scores), squeeze=False)[0]
        for axes, (title, score) in zip(panels, scores.items(), strict=True):
            parts = [str(part) for part in score[n.PART].values]
            place = np.arange(score.sizes[n.STAGE])
            for part, colour in colour_of(parts).items():
                values = score.sel({n.PART: part}).values
                axes.plot(place, values, color=colour, marker=mark_of(parts)[part], linewidth=1.8, label=part)
            axes.set_title(title)
            axes.set_xticks(place, labels=["supervised", *(f"round {i}" for i in place[1:])])
        panels[0].set_ylabel("score")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _middle(shape: tuple[int, ...], diameter_px: float) -> tuple[slice, slice]:
    """Rows and columns of the middle of a micrograph, some particles wide."""
    wanted = int(_ZOOM_DIAMETERS * diameter_px) if np.isfinite(diameter_px) else max(shape)
    starts = [max(0, (size - wanted) // 2) for size in shape]
    rows, columns = (slice(start, min(size, start + wanted)) for start, size in zip(starts, shape, strict=True))
    return rows, columns


def _frame(window: tuple[slice, slice]) -> Rectangle:
    rows, columns = window
    return Rectangle(
        (columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start, rows.stop - rows.start,
        facecolor="none", edgecolor=TRUE_COLOUR, linewidth=1.6,
    )  # fmt: skip


def _annotated(axes: Axes, true: NDArray[np.float64] | None, diameter_px: float) -> None:
    if true is None:
        axes.set_title("not annotated", fontsize=9.5)
        return
    _circles(axes, true, diameter_px, TRUE_COLOUR)
    axes.set_title(f"annotated: {len(true)} particles", fontsize=9.5)


def _picked(axes: Axes, shown: ShownPicks, diameter_px: float) -> None:
    _circles(axes, shown.yx[shown.is_hit], diameter_px, HIT_COLOUR)
    _circles(axes, shown.yx[~shown.is_hit], diameter_px, FALSE_COLOUR)
    n_hits = int(shown.is_hit.sum())
    text = f"{shown.run}: {n_hits} found, {len(shown.yx) - n_hits} false, {shown.n_missed} missed"
    axes.set_title(text, fontsize=9.5)


def _circles(axes: Axes, yx: NDArray[np.float64], diameter_px: float, colour: str) -> None:
    sizes = np.full(len(yx), diameter_px)
    axes.add_collection(
        EllipseCollection(
            sizes, sizes, np.zeros(len(yx)), units="x", offsets=yx[:, ::-1], offset_transform=axes.transData,
            facecolors="none", edgecolors=colour, linewidths=1.2,
        )
    )  # fmt: skip
