"""Figures of classes: their shares, confusion, Dice with intervals, and patches beside their maps of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.scale_bar import add_scale_bar
from fintune_xr.analysis.figures.style import INK, bare, colour_of, legend_above, mark_of, new_figure, style
from fintune_xr.tasks.class_map import IGNORED
from fintune_xr.tasks.semantic import class_colours
from fintune_xr.text import texts

_PANEL_IN: Final = 2.3
_COLUMNS: Final = 5
# How much of the tissue shows through the colours of its classes.
_TISSUE: Final = 0.3


def balance_figure(share: xr.DataArray) -> Figure:
    """Bars of `share` (part, class), the classes from top to bottom, each part in its colour."""
    parts, classes = texts(share[n.PART]), texts(share[n.CLASS])
    colours = colour_of(parts)
    with style():
        figure = new_figure(7.2, 0.6 + 0.22 * len(classes) * (len(parts) + 0.8))
        axes = figure.subplots()
        height = 0.8 / len(parts)
        for at, part in enumerate(parts):
            values = share.sel({n.PART: part}).values
            places = np.arange(len(classes)) + (at - (len(parts) - 1) / 2) * height
            axes.barh(places, values, height * 0.9, color=colours[part], label=part)
            for place, value in zip(places, values, strict=True):
                axes.annotate(
                    f"{100 * value:.1f}\u202f%", (value, place), (3, 0), textcoords="offset points", va="center", size=8
                )
        axes.set_yticks(range(len(classes)), classes)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("share of the annotated pixels that count")
        legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


def class_dice_figure(dice: xr.DataArray, interval: xr.DataArray) -> Figure:
    """Dice (run, class) as points with lines for `interval` (run, class, quantile), class by class."""
    runs, classes = texts(dice[n.RUN]), texts(dice[n.CLASS])
    colours, marks = colour_of(runs), mark_of(runs)
    with style():
        figure = new_figure(7.2, 0.8 + 0.24 * len(classes) * (len(runs) + 0.6))
        axes = figure.subplots()
        for at, run in enumerate(runs):
            places = np.arange(len(classes)) + (at - (len(runs) - 1) / 2) * 0.8 / len(runs)
            low, high = interval.sel({n.RUN: run}).transpose(n.QUANTILE, n.CLASS).values[[0, -1]]
            axes.hlines(places, low, high, color=colours[run], linewidth=2)
            axes.plot(dice.sel({n.RUN: run}).values, places, marks[run], color=colours[run], label=run, markersize=5)
        axes.set_yticks(range(len(classes)), classes)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Dice, mean over images that hold the class")
        legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


def confusion_figure(confusion: xr.DataArray) -> Figure:
    """Shares (run, truth, predicted) of the pixels of each true class by what they were called, a panel a run."""
    runs, labels = texts(confusion[n.RUN]), texts(confusion[n.TRUTH])
    rows = -(-len(runs) // 2)
    with style():
        figure = new_figure(7.6, rows * (0.6 + 0.5 * len(labels)))
        panels = np.atleast_1d(figure.subplots(rows, min(2, len(runs)), squeeze=False)).ravel()
        for axes in panels[len(runs) :]:
            bare(axes)
        for axes, run in zip(panels, runs, strict=False):
            counts = confusion.sel({n.RUN: run}).transpose(n.TRUTH, n.PREDICTED).values
            total = counts.sum(axis=1, keepdims=True)
            share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for (row, column), value in np.ndenumerate(share):
                text = "–" if np.isnan(value) else f"{100 * value:.0f}"
                colour = "white" if value > 0.6 else INK
                axes.annotate(text, (column, row), ha="center", va="center", size=8, color=colour)
            axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
            axes.set_yticks(range(len(labels)), labels)
            axes.grid(visible=False)
            axes.set_title(run)
            axes.set_xlabel("predicted")
        panels[0].set_ylabel("annotated")
    return figure


def patch_figure(
    image: NDArray[np.uint8], maps: Mapping[str, NDArray[np.uint8]], classes: Sequence[str], *, side_um: float = 0.0
) -> Figure:
    """A patch (channel, y, x) and, in panels beside it, each map of labels (y, x) in colours over it, with a legend.

    There is a scale bar where the side of a pixel, `side_um`, is known.
    """
    picture = np.moveaxis(image, 0, 2)
    colours = class_colours(len(classes))
    with style():
        columns = min(_COLUMNS, len(maps) + 1)
        rows = -(-(len(maps) + 1) // columns)
        figure = new_figure(columns * _PANEL_IN * 0.92, rows * (_PANEL_IN + 0.2) * picture.shape[0] / picture.shape[1])
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes in panels:
            bare(axes)
        panels[0].imshow(picture, interpolation="nearest")
        panels[0].set_title("patch")
        add_scale_bar(panels[0], side_um)
        for axes, (name, labels) in zip(panels[1:], maps.items(), strict=False):
            axes.imshow(_coloured(picture, labels, colours), interpolation="nearest")
            axes.set_title(name)
        shown = [n.REST, *classes]
        handles: list[Any] = [Patch(facecolor=colours[at] / 255, label=name) for at, name in enumerate(shown)]
        figure.legend(handles=handles, loc="outside lower left", ncols=min(6, len(handles)))
    return figure


def _coloured(picture: NDArray[np.uint8], labels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    over = np.where((labels == IGNORED)[..., None], picture, colours[labels])
    mixed = (1 - _TISSUE) * over + _TISSUE * picture
    return np.asarray(np.rint(mixed), np.uint8)
