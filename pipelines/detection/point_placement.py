"""Whether annotated points lie on what their micrographs show, or only once they are turned, or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.pixels.orientations import TURNS, orientations
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.detection import Points, tile_points
from fintune_xr.text import texts

Floats = NDArray[np.float64]

# What a micrograph shows is looked for between these shares of a diameter, and where its pixels end.
_FINE, _COARSE = 0.25, 1.0
_ENDS: Final = (0.005, 0.995)
# Fewer points of a micrograph say nothing; so many are looked at, evenly spread, and so many named.
_FEWEST, _MOST, _NAMED = 10, 200, 5
# Standard errors by which points are brighter or darker than anywhere: from the first on they lie there, up to the
# second they do not.
_LIES, _LIES_NOT = 6.0, 3.0
# Points that lie on a plane turned one way are themselves to be turned the other: by the place of each orientation.
_BACK: Final = (0, 1, 2, 3, 4, 6, 5, 7)
# Points lie beside what is shown where that is so many diameters away on average.
_ASIDE: Final = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class PointPlacement:
    """How much brighter `n_points` are than anywhere, in standard errors (orientation,), as they are first, and the
    mean of what is `around` them (y, x), as many pixels to each side as `reach`, which is a diameter.
    """

    n_points: int
    excess: Floats
    around: Floats
    reach: int


def point_placement(plane: NDArray[Any], points: Points) -> PointPlacement | None:
    """The placement of the points of a micrograph (y, x); None of few points, and where it shows nothing at all."""
    if len(points.yx) < _FEWEST:
        return None
    diameter = float(np.median(points.diameter_px))
    shown = np.clip(plane.astype(np.float64), *np.quantile(plane, _ENDS))
    shown = ndimage.gaussian_filter(shown, _FINE * diameter) - ndimage.gaussian_filter(shown, _COARSE * diameter)
    spread = float(shown.std())
    if spread == 0:
        return None
    shown = (shown - shown.mean()) / spread
    y, x = (np.round(place).astype(np.int64) for place in points.yx.T)
    root = np.sqrt(y.size)
    turned = orientations(shown)
    excess = [_at(turned[at], y, x).mean() * root if turned[at].shape == shown.shape else 0.0 for at in _BACK]
    reach = max(1, round(diameter))
    steps = np.arange(-reach, reach + 1)
    around = _at(shown, y[:, None, None] + steps[:, None], x[:, None, None] + steps).mean(axis=0)
    return PointPlacement(y.size, np.array(excess), around, reach)


def _at(shown: Floats, y: NDArray[np.int64], x: NDArray[np.int64]) -> Floats:
    return shown[np.clip(y, 0, shown.shape[0] - 1), np.clip(x, 0, shown.shape[1] - 1)]


def annotated_point_placements(cohort: Cohort) -> dict[str, PointPlacement | None]:
    """The placement of the annotated micrographs by their ids; of very many, of some evenly spread over them."""
    truth, images = cohort.annotations().load(), cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    tiles = texts(truth[n.TILE])
    chosen = tiles[:: -(-len(tiles) // _MOST) or 1]
    return {tile: point_placement(tile_pixels(images, place[tile])[0], tile_points(truth, tile)) for tile in chosen}


def point_placement_lines(found: Mapping[str, PointPlacement | None]) -> list[str]:
    """What is to be said of the placements of micrographs by their ids, nothing where all points lie on what is shown.

    Of single micrographs something is said where the points of most others lie there.
    """
    looked = {tile: one for tile, one in found.items() if one is not None}
    turned = {tile: int(np.abs(one.excess).argmax()) for tile, one in looked.items() if _is_turned(one.excess)}
    lost = [tile for tile, one in looked.items() if np.abs(one.excess).max() < _LIES_NOT]
    lying = [tile for tile, one in looked.items() if abs(one.excess[0]) >= _LIES and tile not in turned]
    lines = []
    if turned:
        told = [f"{tile} ({TURNS[turn]})" for tile, turn in turned.items()]
        lines.append(
            f"in {len(turned)} of {len(looked)} micrographs the points lie on what is shown only once they are turned: "
            f"{', '.join(told[:_NAMED])}. Are rows counted from the other side (--frame image, --frame file), or x and "
            "y exchanged? They are stored as they came"
        )
    if lost and 2 * len(lying) > len(looked):
        lines.append(
            f"in {len(lost)} of {len(looked)} micrographs it is no brighter or darker at the points than anywhere, as "
            f"it is in the others: {', '.join(lost[:_NAMED])}. Are these points of other micrographs?"
        )
    return lines + _aside([looked[tile] for tile in looked if tile not in turned])


def _is_turned(excess: Floats) -> bool:
    best = float(np.abs(excess).max())
    return best >= _LIES and float(abs(excess[0])) < best / 2


def _aside(looked: list[PointPlacement]) -> list[str]:
    """A line where what is shown lies to one side of all points, as where corners of boxes are taken for centres."""
    sizes = {one.reach for one in looked}
    if len(sizes) != 1:
        return []
    reach = sizes.pop()
    weights = np.array([one.n_points for one in looked], np.float64)
    around = np.average([one.around for one in looked], axis=0, weights=weights)
    strength = np.abs(around)
    down, right = np.subtract(np.unravel_index(strength.argmax(), around.shape), reach).tolist()
    if np.hypot(down, right) < _ASIDE * reach or strength.max() * np.sqrt(weights.sum()) < _LIES:
        return []
    rows, columns = "below" if down > 0 else "above", "right" if right > 0 else "left"
    return [
        f"what the micrographs show lies {abs(down)} px {rows} and {abs(right)} px to the {columns} of the points on "
        "average. Are they corners of boxes that are taken for "
        "centres, or of a picture that was cut or binned (--scale)?"
    ]
