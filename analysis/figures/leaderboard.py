"""Encoders beside each other: balanced accuracy with intervals, and confusions of participants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis.figures.style import COLOURS, FAINT, MARKS, new_figure, style


def leaderboard_figure(scores: Mapping[str, xr.Dataset], runs: Sequence[str], judge: str) -> Figure:
    """Balanced accuracy (run) of each part with its 95 % interval, `runs` from the top; `judge` is drawn filled."""
    with style():
        figure = new_figure(7.0, 0.9 + 0.32 * len(runs))
        axes = figure.add_subplot()
        for number, (part, one) in enumerate(scores.items()):
            found = one.sel({n.RUN: list(runs)})
            y = np.arange(len(runs)) + 0.16 * (number - (len(scores) - 1) / 2)
            value = found[n.BALANCED_ACCURACY].values
            interval = f"{n.BALANCED_ACCURACY}_{n.INTERVAL}"
            if interval in found:
                low, high = found[interval].transpose(n.QUANTILE, n.RUN).values
                axes.hlines(y, low, high, color=COLOURS[number], linewidth=1.2)
            axes.plot(
                value, y, linestyle="", marker=MARKS[number], color=COLOURS[number], label=part,
                markerfacecolor=COLOURS[number] if part == judge else "white",
            )  # fmt: skip
        axes.axvline(1 / _n_present(scores[judge]), color=FAINT, linewidth=1, linestyle=":")
        axes.set(yticks=range(len(runs)), yticklabels=list(runs), xlabel="balanced accuracy of participants")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.legend(loc="lower right")
        axes.set_title(f"Ranks by {judge}; dotted: chance on {judge}")
    return figure


def _n_present(scores: xr.Dataset) -> int:
    """Classes that have participants: recall of the others is part of no mean."""
    counts = scores[n.CONFUSION].isel({n.RUN: 0}).sum(n.PREDICTED)
    return max(1, int((counts > 0).sum()))


def confusion_figure(one: xr.Dataset, title: str) -> Figure:
    """The confusion (truth, predicted) of one run's participants."""
    return confusion_picture(one[n.CONFUSION].values, [str(name) for name in one[n.TRUTH].values], title)


def confusion_picture(counts: Any, classes: Sequence[str], title: str) -> Figure:
    """Counts (truth, predicted), shaded by the share of the true class."""
    table = np.asarray(counts, np.float64)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    with style():
        side = 2.2 + 0.55 * len(classes)
        figure = new_figure(side, side)
        axes = figure.add_subplot()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for truth, row in enumerate(table):
            for predicted, number in enumerate(row):
                colour = "white" if share[truth, predicted] > 0.6 else "black"
                axes.text(predicted, truth, f"{number:g}", ha="center", va="center", color=colour)
        names = [name.replace("_", " ") for name in classes]
        axes.set(
            xticks=range(len(names)), yticks=range(len(names)), yticklabels=names, xlabel="predicted", ylabel="true"
        )
        axes.set_xticklabels(names, rotation=40, ha="right")
        axes.grid(visible=False)
        axes.set_title(title)
    return figure
