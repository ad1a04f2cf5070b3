"""One micrograph at one stage of a self-training: what goes in, what is true, what is taught, what comes out."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fintune_xr.analysis.figures.style import FAINT, bare, new_figure, style

STAGE_DPI: Final = 150

# Unknown, background, particle.
_LABEL_COLOURS: Final = ("#b9bdc4", "#1b1e24", "#f2c14e")


def stage_figure(
    title: str,
    *,
    image: NDArray[Any],
    truth: NDArray[np.int8] | None,
    pseudo: NDArray[np.int8] | None,
    probability: NDArray[np.floating],
) -> Figure:
    """Four panels of one micrograph, all (y, x): input, ground truth, pseudo-label, probability.

    `truth` and `pseudo` hold 1 particle, 0 background, -1 unknown (grey); without one its panel says so.
    """
    with style():
        figure = new_figure(11.2, 3.3)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        panels = figure.subplots(1, 4)
        low, high = np.percentile(image, (1, 99))
        panels[0].imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        _labels(panels[1], truth, "not annotated")
        _labels(panels[2], pseudo, "none in this stage")
        heat = panels[3].imshow(probability, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        names = ("Input", "Ground truth", "Pseudo-label", "Probability of a particle")
        for axes, name in zip(panels, names, strict=True):
            axes.set_title(name)
            axes.set_aspect("equal")
            bare(axes)
        figure.colorbar(heat, ax=panels[3], shrink=0.85)
    return figure


def _labels(axes: Axes, labels: NDArray[np.int8] | None, instead: str) -> None:
    if labels is None:
        axes.text(0.5, 0.5, instead, ha="center", va="center", color=FAINT, transform=axes.transAxes)
        axes.set_box_aspect(1)
        return
    axes.imshow(labels, cmap=ListedColormap(_LABEL_COLOURS), vmin=-1, vmax=1, interpolation="nearest")
