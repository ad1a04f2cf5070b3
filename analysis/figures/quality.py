"""How tiles were taken, as a picture: a panel for each channel and measure."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis.figures.style import FAINT, INK, colour_of, legend_above, mark_of, new_figure, style

_COLUMNS: Final = 3
_SHOWN_NAMES: Final = 16
_ON_LOG_AXES: Final = (n.INTENSITY, n.BACKGROUND, n.CELL_SIZE_PX)


def quality_figure(table: pd.DataFrame, unusual: pd.DataFrame, *, over: str) -> Figure:
    """Values of tiles by donor or batch (`over`), a panel for each channel and measure, unusual tiles ringed.

    `table` comes from `quality.long_table`, `unusual` from `quality.unusual` of tiles.
    """
    panels = list(dict.fromkeys(zip(table[n.CHANNEL], table[n.MEASURE], strict=True)))
    units, markers = sorted(set(table[over])), sorted(set(table[n.MARKER]))
    n_rows = max(1, -(-len(panels) // _COLUMNS))
    with style():
        figure = new_figure(10.0, 2.3 * n_rows)
        grid = figure.subplots(n_rows, _COLUMNS, squeeze=False)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_axis_off()
        for axes, (channel, measure) in zip(grid.ravel(), panels, strict=False):
            here = table[(table[n.CHANNEL] == channel) & (table[n.MEASURE] == measure)]
            odd = unusual[(unusual[n.CHANNEL] == channel) & (unusual[n.MEASURE] == measure)]
            handles = _panel(axes, here, set(odd["unit"]), over=(over, units), markers=markers)
            axes.set_title(f"{measure} of {channel}" if channel else measure)
            if measure in _ON_LOG_AXES and (here["value"] > 0).all():
                axes.set_yscale("log")
        legend_above(figure, handles)
    return figure


def _panel(
    axes: Axes, here: pd.DataFrame, odd: set[str], *, over: tuple[str, list[str]], markers: list[str]
) -> list[Artist]:
    name, units = over
    colours, marks = colour_of(markers), mark_of(markers)
    place = {unit: at for at, unit in enumerate(units)}
    offsets = np.linspace(-0.22, 0.22, len(markers)) if len(markers) > 1 else [0.0]
    handles: list[Artist] = []
    for marker, shift in zip(markers, offsets, strict=True):
        rows = here[here[n.MARKER] == marker]
        x = rows[name].map(place).to_numpy(float) + shift
        handles.append(
            axes.scatter(x, rows["value"], s=12, color=colours[marker], marker=marks[marker], label=marker, alpha=0.7)
        )
        ringed = rows[n.TILE].isin(odd).to_numpy()
        axes.scatter(x[ringed], rows["value"][ringed], s=60, facecolors="none", edgecolors=INK, linewidths=1.0)
    few = len(units) <= _SHOWN_NAMES
    axes.set_xticks(range(len(units)) if few else [], labels=units if few else None, rotation=90, fontsize=6)
    axes.set_xlabel("" if few else f"{len(units)} of {name}", color=FAINT)
    return handles
