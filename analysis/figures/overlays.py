"""Pictures of tiles: the first plane in blue, the second in green, a single one in grey; instances as outlines."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.analysis.figures.scale_bar import add_scale_bar
from fintune_xr.analysis.figures.style import bare, line_below, new_figure, style
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.pixels.real_part import real_part

Rgb = NDArray[np.float64]

NUCLEI_COLOUR: Final = (0.22, 0.42, 1.0)
MARKER_COLOUR: Final = (0.12, 0.95, 0.25)
SINGLE_COLOUR: Final = (0.85, 0.85, 0.85)
ANNOTATED_COLOUR: Final = (1.0, 1.0, 1.0)
PREDICTED_COLOUR: Final = (1.0, 0.62, 0.0)
_ZOOM: Final = 3
# Pictures are enlarged up to this edge: outlines of larger tiles would be too thin to see in a panel.
_ENLARGED_PX: Final = 1536
_PANEL_IN: Final = 2.9
_COLUMNS: Final = 4


def composite(planes: NDArray[Any]) -> Rgb:
    """Colour picture (y, x, 3) in 0..1 of the first two planes of counts (channel, y, x), each in its range."""
    picture = np.zeros((*planes.shape[1:], 3))
    colours = (NUCLEI_COLOUR, MARKER_COLOUR) if len(planes) > 1 else (SINGLE_COLOUR,)
    for plane, colour in zip(planes[:2], colours, strict=False):
        picture += _scaled(plane)[..., None] * np.array(colour)
    return np.clip(picture, 0.0, 1.0)


def plane_names(tile: xr.Dataset) -> list[str]:
    """What the planes shown by `composite` are called; the plane `marker` by the tile's own stain."""
    names = [str(name) for name in tile[n.CHANNEL].values[:2]]
    return [str(tile[n.MARKER].item()) if name == n.MARKER_CHANNEL else name for name in names]


def outlines(mask: NDArray[Any], *, zoom: int = _ZOOM) -> NDArray[np.bool_]:
    """Inner borders of every instance of `mask` (y, x), two pixels wide after enlarging by `zoom`.

    Where an instance is cut by the edge of the tile it has no border.
    """
    large = np.kron(mask, np.ones((zoom, zoom), dtype=mask.dtype))
    around = np.ones((5, 5), dtype=bool)
    same = ndimage.minimum_filter(large, footprint=around) == ndimage.maximum_filter(large, footprint=around)
    return np.asarray(~same & (large > 0))


def tile_figure(tile: xr.Dataset) -> Figure:
    """One tile in panels: the composite, then each run's outlines over it, and the annotation if any.

    `tile` holds `image` (channel, y, x), optionally `mask` (run, y, x) and `annotated` (y, x), and the scalar
    coordinates `channel`, `tile`, `marker`, `height` and `width`; only the valid corner is shown. Where a coordinate
    tells the size of a pixel there is a scale bar.
    """
    tile = tile.isel(real_part(tile, (n.Y, n.X)))
    height, width = tile.sizes[n.Y], tile.sizes[n.X]
    picture = composite(tile[n.IMAGE].values)
    runs = [str(run) for run in tile[n.RUN].values] if n.MASK in tile else []
    annotated = tile[n.ANNOTATED].values if n.ANNOTATED in tile else None
    with style():
        n_columns = min(1 + len(runs), _COLUMNS)
        n_rows = -(-(1 + len(runs)) // n_columns)
        figure = new_figure(_PANEL_IN * n_columns, n_rows * (_PANEL_IN * height / width + 0.25) + 0.25)
        panels = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for empty in panels[1 + len(runs) :]:
            empty.set_axis_off()
        _show(panels[0], picture, " + ".join(plane_names(tile)), annotated)
        add_scale_bar(panels[0], float(sides_um(tile)), zoom=_zoom(picture))
        for axes, run in zip(panels[1:], runs, strict=False):
            mask = tile[n.MASK].sel({n.RUN: run}).values
            _show(axes, picture, run, annotated, mask)
        _key(figure, has_annotation=annotated is not None, has_runs=bool(runs))
    return figure


def _scaled(plane: NDArray[Any]) -> Rgb:
    low, high = np.percentile(plane, (1.0, 99.7))
    span = max(float(high - low), 1.0)
    return np.asarray(np.clip((plane.astype(float) - low) / span, 0.0, 1.0) ** 0.8)


def _show(
    axes: Axes,
    picture: Rgb,
    title: str,
    annotated: NDArray[Any] | None,
    predicted: NDArray[Any] | None = None,
) -> None:
    zoom = _zoom(picture)
    large = np.kron(picture, np.ones((zoom, zoom, 1)))
    if predicted is not None or annotated is not None:
        large *= 0.8
    if annotated is not None:
        large[outlines(annotated, zoom=zoom)] = ANNOTATED_COLOUR
    if predicted is not None:
        large[outlines(predicted, zoom=zoom)] = PREDICTED_COLOUR
        n_cells = int(np.count_nonzero(np.unique(predicted)))
        title = f"{title}: {n_cells} cell{'' if n_cells == 1 else 's'}"
    axes.imshow(large, interpolation="antialiased")
    axes.set_title(title, fontsize=9.5)
    bare(axes)


def _zoom(picture: Rgb) -> int:
    """How many times a picture is enlarged."""
    return min(_ZOOM, max(1, _ENLARGED_PX // int(max(picture.shape[:2]))))


def _key(figure: Figure, *, has_annotation: bool, has_runs: bool) -> None:
    parts = ["white: annotated"] * has_annotation + ["orange: predicted"] * has_runs
    if parts:
        line_below(figure, "Outlines: " + ", ".join(parts))
