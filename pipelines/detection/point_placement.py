"""Whether annotated points lie on what their micrographs show, or only once they are turned, or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.pipelines.task_parts.placements import Floats, Placements, Words, spread, without_none
from fintune_xr.pixels.orientations import orientations
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.binning import bin_plane, in_larger_pixels
from fintune_xr.tasks.detection import Points, tile_points
from fintune_xr.text import texts

# What a micrograph shows is looked for between these shares of a diameter, and where its pixels end.
_FINE, _COARSE = 0.25, 1.0
_ENDS: Final = (0.005, 0.995)
# Micrographs are looked at in pixels so large that a diameter is about so many: filters take its length in time.
_DIAMETER: Final = 10
# Fewer points of a micrograph say nothing.
_FEWEST: Final = 20
# Standard errors by which points are brighter or darker than anywhere: from the first on they lie there, up to the
# second they do not.
_LIES, _LIES_NOT = 6.0, 3.0
# Points that lie on a plane turned one way are themselves to be turned the other: by the place of each orientation.
_BACK: Final = (0, 1, 2, 3, 4, 6, 5, 7)
# Points lie beside what is shown where that is so many diameters away on average.
_ASIDE: Final = 0.3
_WORDS: Final = Words(
    what="points",
    tiles="micrographs",
    turned="Are rows counted from the other side (--frame image, --frame file), or x and y exchanged? They are stored "
    "as they came",
    lost="Are they points of other micrographs?",
)


@dataclass(frozen=True, slots=True, eq=False)
class PointPlacement:
    """By how many standard errors `n_points` are brighter or darker than anywhere (orientation,), as they are first,
    and the mean of what is `around` them (y, x), a diameter to each side, in pixels of `px` of the micrograph.
    """

    n_points: int
    excess: Floats
    around: Floats
    px: int


def point_placement(plane: NDArray[Any], points: Points) -> PointPlacement | None:
    """The placement of the points of a micrograph (y, x); None of few points, and where it shows nothing at all."""
    if len(points) < _FEWEST:
        return None
    diameter = float(np.median(points.diameter_px))
    # Never so large that a small micrograph has none left.
    larger = max(1, min(int(diameter / _DIAMETER), *plane.shape))
    shown = _shown(bin_plane(plane, larger), diameter / larger)
    y, x = np.round(in_larger_pixels(points.yx.T, larger)).astype(np.int64)
    turned = orientations(shown)
    means = [_at(turned[at], y, x).mean() if turned[at].shape == shown.shape else 0.0 for at in _BACK]
    reach = max(1, round(diameter / larger))
    steps = np.arange(-reach, reach + 1)
    around = _at(shown, y[:, None, None] + steps[:, None], x[:, None, None] + steps).mean(axis=0)
    return PointPlacement(y.size, np.abs(means) * np.sqrt(y.size), around, larger) if shown.any() else None


def _shown(plane: NDArray[Any], diameter: float) -> Floats:
    """What is as large as particles, with mean 0 and standard deviation 1; 0 throughout where there is nothing."""
    pixels = np.clip(plane.astype(np.float64), *np.quantile(plane, _ENDS))
    found = ndimage.gaussian_filter(pixels, _FINE * diameter) - ndimage.gaussian_filter(pixels, _COARSE * diameter)
    spread_of = float(found.std())
    return np.asarray((found - found.mean()) / spread_of) if spread_of else np.zeros_like(found)


def _at(shown: Floats, y: NDArray[np.int64], x: NDArray[np.int64]) -> Floats:
    return shown[np.clip(y, 0, shown.shape[0] - 1), np.clip(x, 0, shown.shape[1] - 1)]


def annotated_point_placements(cohort: Cohort) -> dict[str, PointPlacement | None]:
    """The placement of the annotated micrographs by their ids; of very many, of some evenly spread over them."""
    truth, images = cohort.annotations().load(), cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    tiles = texts(truth[n.TILE])
    chosen = [tiles[row] for row in spread(len(tiles))]
    return {tile: point_placement(tile_pixels(images, place[tile])[0], tile_points(truth, tile)) for tile in chosen}


def point_placement_lines(found: Mapping[str, PointPlacement | None]) -> list[str]:
    """What is to be said of the placements of micrographs by their ids, nothing where all points lie on what is shown.

    Of single micrographs something is said where the points of most others lie there.
    """
    looked = without_none(found)
    placed = Placements({tile: one.excess for tile, one in looked.items()}, _LIES, _LIES_NOT)
    turned = placed.turned
    return _aside([one for tile, one in looked.items() if tile not in turned]) or placed.lines(_WORDS)


def _aside(looked: list[PointPlacement]) -> list[str]:
    """A line where what is shown lies to one side of all points, as where corners of boxes are taken for centres."""
    if len({(one.around.shape, one.px) for one in looked}) != 1:
        return []
    px, weights = looked[0].px, [one.n_points for one in looked]
    around = np.average([one.around for one in looked], axis=0, weights=weights)
    reach, strength = len(around) // 2, np.abs(around)
    down, right = np.subtract(np.unravel_index(strength.argmax(), around.shape), reach).tolist()
    if np.hypot(down, right) < _ASIDE * reach or strength.max() * np.sqrt(sum(weights)) < _LIES:
        return []
    rows, columns = "below" if down > 0 else "above", "right" if right > 0 else "left"
    return [
        f"what the micrographs show lies {abs(down) * px} px {rows} and {abs(right) * px} px to the {columns} of the "
        "points on average. Are they corners of boxes that are taken for centres, or of a picture that was cut or "
        "binned (--scale)?"
    ]
