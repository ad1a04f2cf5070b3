"""Whether masks lie on what the images show, or only once they are turned, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pipelines.task_parts.placements import Floats, Placements, Words, spread, without_none
from fintune_xr.pixels.orientations import orientations
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

# Looked at this small.
_SIDE: Final = 256
# Correlation with an image from which on a mask lies on it, and below which it does not.
_LIES: Final = 0.3
_LIES_NOT: Final = 0.15
_WORDS: Final = Words(
    what="masks",
    tiles="tiles",
    turned="They are stored as they came: turn the files, and take them anew with --restart",
    lost="Are they masks of other tiles, or of another scale that were cut to this size?",
)


def placement(instances: NDArray[Any], image: NDArray[Any]) -> Floats | None:
    """Correlation (orientation,) of what is in a mask (y, x) with an image (channel, y, x), as it is first.

    Of the planes and their edges the one counts that is most like the cells, or their rims. Orientations that do not
    fit are 0. None where the mask is empty or full.
    """
    step = max(1, max(instances.shape) // _SIDE)
    cells = (instances[::step, ::step] > 0).astype(np.float64)
    if cells.min() == cells.max():
        return None
    planes = image[:, ::step, ::step].astype(np.float64)
    shown = [_scaled(one) for plane in planes for one in (plane, _edges(plane))]
    turned = zip(*(orientations(_scaled(one)) for one in (cells, _edges(cells))), strict=True)
    return np.array([max(_correlation(one, plane) for one in drawn for plane in shown) for drawn in turned])


def _edges(plane: Floats) -> Floats:
    return np.asarray(np.hypot(*np.gradient(plane))) if min(plane.shape) > 1 else np.zeros_like(plane)


def annotated_placements(cohort: Cohort) -> dict[str, Floats | None]:
    """The placement of the annotated tiles by their ids; of very many, of some that are evenly spread over them."""
    truth, images = cohort.annotations(lazy=False), cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    tiles = texts(truth[n.TILE])

    def look(row: int) -> Floats | None:
        image = tile_pixels(images, place[tiles[row]])
        high, wide = image.shape[1:]
        return placement(truth[n.MASK].isel({n.TILE: row}).values[:high, :wide], image)

    rows = spread(len(tiles))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((tiles[row] for row in rows), pool.map(look, rows), strict=True))


def placement_lines(found: Mapping[str, Floats | None]) -> list[str]:
    """What is to be said of the placements of tiles by their ids, nothing where all masks lie on their images.

    Of single tiles something is said where most of the others lie on theirs.
    """
    return Placements(without_none(found), _LIES, _LIES_NOT).lines(_WORDS)


def _scaled(plane: Floats) -> Floats:
    spread = plane.std()
    return np.zeros_like(plane) if spread == 0 else (plane - plane.mean()) / spread


def _correlation(one: Floats, other: Floats) -> float:
    return abs(float((one * other).mean())) if one.shape == other.shape else 0.0
