"""Which cells count as positive: the signals of all cells with the threshold, and the cells of some tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.overlays import outlines
from fintune_xr.analysis.figures.scale_bar import add_scale_bar
from fintune_xr.analysis.figures.style import COLOURS, FAINT, INK, bare, legend_above, line_below, new_figure, style

POSITIVE_COLOUR: Final = (1.0, 0.55, 0.0)
NEGATIVE_COLOUR: Final = (0.25, 0.7, 1.0)
UNDECIDED_COLOUR: Final = (0.75, 0.75, 0.75)
NEGATIVE, POSITIVE, UNDECIDED = 1, 2, 3
_BINS_IN_ONE: Final = 12
_PANEL_IN: Final = 3.3
_TICKS: Final = (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)


@dataclass(frozen=True, slots=True, eq=False)
class JudgedTile:
    """Part of a tile: `marker` (y, x) counts, `mask` (y, x) instances, `judged` (label,) one of the three above.

    `judged` begins with label 0, the background, whose value is not used; `side_um` is the side of a pixel, 0 where it
    is not known.
    """

    title: str
    marker: NDArray[Any]
    mask: NDArray[Any]
    judged: NDArray[np.uint8]
    side_um: float = 0.0


def signal_figure(counts: xr.DataArray, lowest: xr.DataArray, highest: xr.DataArray) -> Figure:
    """Histograms of `counts` (marker, bin), `bin` being log(1 + signal); the thresholds of tiles lie from `lowest` to
    `highest` (marker) counts, a line where they are the same.
    """
    markers = [str(marker) for marker in counts[n.MARKER].values]
    with style():
        figure = new_figure(max(2.9 * len(markers), 4.5), 2.7)
        panels = figure.subplots(1, len(markers), squeeze=False)[0]
        for at, (axes, marker) in enumerate(zip(panels, markers, strict=True)):
            one = {n.MARKER: at}
            ends = float(lowest.isel(one)), float(highest.isel(one))
            _histogram(axes, counts.isel(one).values, counts[n.BIN].values, ends)
            axes.set_title(marker)
            axes.set_xlabel("signal above background, counts")
        panels[0].set_ylabel("cells")
        handles = [
            Line2D([], [], color=COLOURS[0], linewidth=6, label="below"),
            Line2D([], [], color=COLOURS[1], linewidth=6, label="above: positive"),
            Line2D([], [], color=INK, linewidth=1.5, label="threshold"),
        ]
        legend_above(figure, handles)
    return figure


def judged_figure(tiles: Sequence[JudgedTile]) -> Figure:
    """The marker channel of each tile twice, bare and with the outlines of its cells in the colour of the verdict.

    One below the other, or beside each other where there is one tile alone.
    """
    with style():
        n_rows, n_columns = (1, 2) if len(tiles) == 1 else (2, len(tiles))
        figure = new_figure(_PANEL_IN * n_columns, n_rows * (_PANEL_IN + 0.2) + 0.3)
        rows = figure.subplots(n_rows, n_columns, squeeze=False).reshape(2, len(tiles))
        for above, below, tile in zip(*rows, tiles, strict=True):
            bare_picture, _ = _picture(tile, with_outlines=False)
            picture, told = _picture(tile, with_outlines=True)
            for axes, shown, title in ((above, bare_picture, tile.title), (below, picture, told)):
                axes.imshow(shown, interpolation="antialiased")
                axes.set_title(title, fontsize=9)
                bare(axes)
            add_scale_bar(above, tile.side_um, zoom=_zoom(tile))
        line_below(figure, "Outlines: orange positive, blue negative, grey where the rule could not tell")
    return figure


def _histogram(axes: Axes, counts: NDArray[Any], centres: NDArray[Any], ends: tuple[float, float]) -> None:
    """Bars of several bins each over log(1 + signal), coloured by the side of the threshold on which they lie."""
    whole = counts.size - counts.size % _BINS_IN_ONE
    height = counts[:whole].reshape(-1, _BINS_IN_ONE).sum(1)
    middle = centres[:whole].reshape(-1, _BINS_IN_ONE).mean(1)
    seen = np.flatnonzero(height)
    if not seen.size:
        axes.text(0.5, 0.5, "no cells", transform=axes.transAxes, ha="center", color=FAINT)
        return
    limits = np.log1p(np.maximum(ends, 0)) if np.all(np.isfinite(ends)) else np.array([np.inf, np.inf])
    above = middle > limits.mean()
    width = middle[1] - middle[0]
    edges = np.append(middle - width / 2, middle[-1] + width / 2)
    for side, colour in ((~above, COLOURS[0]), (above, COLOURS[1])):
        # One outline in place of a patch for each bar, which would be most of the time of a page.
        here = np.flatnonzero(side)
        if here.size:
            axes.stairs(height[here], edges[here[0] : here[-1] + 2], fill=True, color=colour, linewidth=0)
    if np.isfinite(limits[0]):
        axes.axvspan(limits[0], max(limits[1], limits[0] + 1e-9), color=FAINT, alpha=0.25, linewidth=0)
        axes.axvline(limits.mean(), color=INK, linewidth=1.5)
    axes.set_xlim(middle[seen[0]] - 2 * width, middle[seen[-1]] + 2 * width)
    inside = [tick for tick in _TICKS if axes.get_xlim()[0] <= np.log1p(tick) <= axes.get_xlim()[1]]
    axes.set_xticks(np.log1p(inside))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{np.expm1(value):.0f}"))
    axes.grid(visible=False, axis="x")


def _zoom(tile: JudgedTile) -> int:
    return max(1, min(3, 1152 // int(max(tile.marker.shape))))


def _picture(tile: JudgedTile, *, with_outlines: bool) -> tuple[NDArray[np.float64], str]:
    """The marker in grey (y, x, 3), enlarged, and how many cells are what."""
    zoom = _zoom(tile)
    low, high = np.percentile(tile.marker, (1.0, 99.7))
    grey = np.clip((tile.marker.astype(float) - low) / max(float(high - low), 1.0), 0.0, 1.0) ** 0.8
    large = np.kron(grey, np.ones((zoom, zoom)))[..., None].repeat(3, axis=-1)
    if not with_outlines:
        return large, ""
    border = outlines(tile.mask, zoom=zoom)
    verdict = np.kron(tile.judged[tile.mask], np.ones((zoom, zoom), np.uint8))
    for value, colour in ((NEGATIVE, NEGATIVE_COLOUR), (POSITIVE, POSITIVE_COLOUR), (UNDECIDED, UNDECIDED_COLOUR)):
        large[border & (verdict == value)] = colour
    here = tile.judged[np.unique(tile.mask[tile.mask > 0])]
    told = f"{np.count_nonzero(here == POSITIVE)} of {here.size} cells positive"
    return large, told
