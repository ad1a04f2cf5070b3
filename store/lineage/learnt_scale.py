"""How large the pixels were that a model learnt from, and whether a cohort's are as large.

A network of tissue or cells knows how many pixels a nucleus has across: at another magnification it answers as readily,
and wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

# Scanners of one nominal magnification differ by some per cent, 40x and 20x by a factor of two.
ALIKE: Final = 1.15


def learnt_sides(cohort: Cohort, learned: Sequence[str]) -> dict[str, list[float]]:
    """Smallest and largest side in um of a pixel of the tiles `learned`, as a record tells it; nothing if unknown."""
    images = cohort.images(lazy=False)
    sides = sides_um(images)[np.isin(np.array(texts(images[n.TILE])), list(learned))]
    known = sides[sides > 0]
    return {n.PIXEL_SIDES_UM: [float(known.min()), float(known.max())]} if known.size else {}


def mixed_sides(learnt: Mapping[str, Any]) -> str:
    """What must be known of tiles of several magnifications that teach one model; empty where they are alike."""
    low, high = learnt.get(n.PIXEL_SIDES_UM, (0.0, 0.0))
    return (
        f"pixels of {_span(low, high)} learn together, of one magnification and another" if high > ALIKE * low else ""
    )


def other_sides(cohort: Cohort, learnt: Mapping[str, Any]) -> str:
    """How the pixels of a cohort differ from those that a training learnt from, as its record says; empty if alike."""
    if n.PIXEL_SIDES_UM not in learnt:
        return ""
    low, high = learnt[n.PIXEL_SIDES_UM]
    sides = sides_um(cohort.images(lazy=False))
    other = sides[(sides > 0) & ((sides * ALIKE < low) | (sides > ALIKE * high))]
    if not other.size:
        return ""
    return (
        f"learnt from pixels of {_span(low, high)}, and those of {other.size} of {sides.size} tiles are "
        f"{_spread(other)}: it sees everything at another magnification. Train on such tiles, or store the images at "
        "the scale that it knows"
    )


def _spread(sides: NDArray[np.float64]) -> str:
    return _span(float(sides.min()), float(sides.max()))


def _span(low: float, high: float) -> str:
    return f"{low:.4g} um" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g} um"
