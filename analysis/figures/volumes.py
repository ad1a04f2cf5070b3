"""Volumes as pictures: three planes through the middle, by which axes and their directions are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from fintune_xr.analysis.figures.style import bare, new_figure, style


@dataclass(frozen=True, slots=True, eq=False)
class ShownVolume:
    """A volume `pixels` (z, y, x) with what is told of it."""

    tile: str
    device: str
    side: str
    pixels: NDArray[Any]


def volumes_figure(shown: Sequence[ShownVolume]) -> Figure:
    """A row for each volume: its middle B-scan, the middle across all B-scans, and the mean from above."""
    with style():
        figure = new_figure(9.0, 2.5 * len(shown))
        axes = figure.subplots(len(shown), 3, squeeze=False)
        for row, one in zip(axes, shown, strict=True):
            depth, _, width = one.pixels.shape
            planes = (
                (f"{one.device}: B-scan {depth // 2} of {depth}", one.pixels[depth // 2], "x", "y, depth"),
                (f"across B-scans, column {width // 2}", one.pixels[:, :, width // 2].T, "z", "y, depth"),
                (f"from above{f', {one.side}' if one.side else ''}", one.pixels.mean(axis=1), "x", "z"),
            )
            for axis, (title, plane, across, down) in zip(row, planes, strict=True):
                axis.imshow(plane, cmap="gray", aspect="auto", interpolation="nearest")
                bare(axis)
                axis.set_title(title)
                axis.set_xlabel(across)
                axis.set_ylabel(down)
    return figure
