"""Whether masks lie on what the images show, or only once they are turned, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.orientations import TURNS, orientations
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

Floats = NDArray[np.float64]

# Looked at this small.
_SIDE: Final = 256
# Correlation with an image from which on a mask lies on it, and below which it does not.
_LIES: Final = 0.3
_LIES_NOT: Final = 0.15
# A mask that lies on nothing among others that do: not so many times as like its image as it is when it is turned.
_AS_CHANCE: Final = 1.5
# So many tiles are looked at, evenly spread, where there are more, and so many named.
_MOST, _NAMED = 500, 5


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
    rows = range(0, truth.sizes[n.TILE], -(-truth.sizes[n.TILE] // _MOST) or 1)
    tiles = texts(truth[n.TILE])

    def look(row: int) -> Floats | None:
        image = tile_pixels(images, place[tiles[row]])
        high, wide = image.shape[1:]
        return placement(truth[n.MASK].isel({n.TILE: row}).values[:high, :wide], image)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((tiles[row] for row in rows), pool.map(look, rows), strict=True))


def placement_lines(found: Mapping[str, Floats | None]) -> list[str]:
    """What is to be said of the placements of tiles by their ids, nothing where all masks lie on their images.

    Of single tiles something is said where most of the others lie on theirs.
    """
    looked = {tile: values for tile, values in found.items() if values is not None}
    wrong = {tile: int(values.argmax()) for tile, values in looked.items() if _is_turned(values)}
    for turn in sorted(set(wrong.values())):
        tiles = [tile for tile, own in wrong.items() if own == turn]
        if _are_most(tiles, looked):
            return [
                f"in {len(tiles)} of {len(looked)} tiles the masks lie on what the image shows only once they are "
                f"{TURNS[turn]}, {tiles[0]} among them. They are stored as they came: turn the files, and take them "
                "anew with --restart"
            ]
    nowhere = [tile for tile, values in looked.items() if values[0] < _LIES_NOT]
    if _are_most(nowhere, looked):
        return [
            f"in {len(nowhere)} of {len(looked)} tiles no channel tells the inside of the masks from the outside, "
            f"{nowhere[0]} among them. Are they masks of other tiles, or of another scale that were cut to this size?"
        ]
    return _lines_of_few(looked, wrong)


def _lines_of_few(looked: Mapping[str, Floats], wrong: Mapping[str, int]) -> list[str]:
    """What is to be said of single tiles whose masks lie otherwise than most of the others."""
    lying = [tile for tile, values in looked.items() if values[0] >= _LIES and tile not in wrong]
    if not _are_most(lying, looked):
        return []
    lost = [
        tile
        for tile, values in looked.items()
        if tile not in wrong and values[0] < min(_LIES_NOT, _AS_CHANCE * values[1:].max(initial=0))
    ]
    turned = [f"{tile} ({TURNS[turn]})" for tile, turn in wrong.items()]
    lines = []
    if turned:
        lines.append(
            f"in {len(turned)} of {len(looked)} tiles the masks lie on what the image shows only once they are turned, "
            f"in the others as they are: {', '.join(turned[:_NAMED])}. Turn these files, and take them anew with "
            "--restart"
        )
    if lost:
        lines.append(
            f"in {len(lost)} of {len(looked)} tiles no channel tells the inside of the masks from the outside, as it "
            f"does in the others: {', '.join(lost[:_NAMED])}. Are these masks of other tiles?"
        )
    return lines


def _is_turned(values: Floats) -> bool:
    best = float(values.max())
    return best >= _LIES and float(values[0]) < best / 2


def _are_most(tiles: list[str], of: Mapping[str, Any]) -> bool:
    return len(tiles) >= 2 and 2 * len(tiles) > len(of)


def _scaled(plane: Floats) -> Floats:
    spread = plane.std()
    return np.zeros_like(plane) if spread == 0 else (plane - plane.mean()) / spread


def _correlation(one: Floats, other: Floats) -> float:
    return abs(float((one * other).mean())) if one.shape == other.shape else 0.0
