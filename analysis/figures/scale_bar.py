"""A bar in a picture that says how long it is in the specimen."""

from __future__ import annotations

import math
from typing import Final

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

# The bar is up to this share of the picture's width, and a number of um that begins so.
_SHARE: Final = 0.3
_BEGINNINGS: Final = (5, 2, 1)
_UM_IN_NM: Final = 1e3


def bar_um(width_um: float) -> float:
    """Length in um of the bar of a picture that is `width_um` wide: the largest 1, 2 or 5 times a power of ten."""
    most = _SHARE * width_um
    power = 10.0 ** math.floor(math.log10(most))
    return next(first * power for first in _BEGINNINGS if first * power <= most * (1 + 1e-9))


def add_scale_bar(axes: Axes, side_um: float, *, zoom: float = 1.0) -> None:
    """Draws the bar into the lower right of a picture whose pixels, enlarged `zoom` times, are `side_um` long."""
    if not side_um > 0:
        return
    left, right = sorted(axes.get_xlim())
    length = bar_um((right - left) / zoom * side_um)
    text = f"{length:g} µm" if length >= 1 else f"{length * _UM_IN_NM:g} nm"
    share = length / side_um * zoom / (right - left)
    edge = [withStroke(linewidth=4, foreground="black", alpha=0.6)]
    axes.plot(
        [0.97 - share, 0.97], [0.04, 0.04], color="white", linewidth=2.5, solid_capstyle="butt",
        transform=axes.transAxes, path_effects=edge,
    )  # fmt: skip
    axes.text(
        0.97 - share / 2, 0.055, text, color="white", fontsize=8, ha="center", va="bottom",
        transform=axes.transAxes, path_effects=edge,
    )  # fmt: skip
