"""Whether masks lie on what the images show, or only once they are turned, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
# A mask that is moved is that many times as like its image where it lies, and several are moved alike within so much.
_MUCH_LESS: Final = 0.8
_ALIKE_PX: Final = 4
_WORDS: Final = Words(
    what="masks",
    tiles="tiles",
    turned="They are stored as they came: turn the files, and take them anew with --restart",
    lost="Are they masks of other tiles, or of another scale that were cut to this size?",
)


@dataclass(frozen=True, slots=True, eq=False)
class MaskPlacement:
    """Correlation of a mask with its image (orientation,), as it lies first, and by how many px (down, right) it is to
    be moved to be most like it; that is 0 where it does not become much more so.
    """

    likeness: Floats
    shift: tuple[int, int]


def placement(instances: NDArray[Any], image: NDArray[Any]) -> MaskPlacement | None:
    """How a mask (y, x) lies on an image (channel, y, x).

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
    likeness = np.array([max(_correlation(one, plane) for one in drawn for plane in shown) for drawn in turned])
    down, right = _shift(_scaled(cells), shown[::2], float(likeness[0]))
    return MaskPlacement(likeness, (down * step, right * step))


def _shift(cells: Floats, planes: list[Floats], likeness: float) -> tuple[int, int]:
    """By how many pixels the cells are to be moved to be as like one of the planes as they can."""
    spectrum = np.conj(np.fft.rfft2(cells))
    likest, found = max(_LIES, likeness / _MUCH_LESS), (0, 0)
    for plane in planes:
        moved = np.abs(np.fft.irfft2(np.fft.rfft2(plane) * spectrum, s=plane.shape)) / plane.size
        if moved.max() > likest:
            at = np.unravel_index(moved.argmax(), moved.shape)
            likest = float(moved.max())
            down, right = (int(a) - (side if a > side // 2 else 0) for a, side in zip(at, moved.shape, strict=True))
            found = (down, right)
    return found


def _edges(plane: Floats) -> Floats:
    return np.asarray(np.hypot(*np.gradient(plane))) if min(plane.shape) > 1 else np.zeros_like(plane)


def annotated_placements(cohort: Cohort) -> dict[str, MaskPlacement | None]:
    """The placement of the annotated tiles by their ids; of very many, of some that are evenly spread over them."""
    truth, images = cohort.annotations(lazy=False), cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    tiles = texts(truth[n.TILE])

    def look(row: int) -> MaskPlacement | None:
        image = tile_pixels(images, place[tiles[row]])
        high, wide = image.shape[1:]
        return placement(truth[n.MASK].isel({n.TILE: row}).values[:high, :wide], image)

    rows = spread(len(tiles))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip((tiles[row] for row in rows), pool.map(look, rows), strict=True))


def placement_lines(found: Mapping[str, MaskPlacement | None]) -> list[str]:
    """What is to be said of the placements of tiles by their ids, nothing where all masks lie on their images.

    Of single tiles something is said where most of the others lie on theirs.
    """
    looked = without_none(found)
    placed = Placements({tile: one.likeness for tile, one in looked.items()}, _LIES, _LIES_NOT)
    turned = placed.turned
    shifts = {tile: one.shift for tile, one in looked.items() if any(one.shift) and tile not in turned}
    return _shifted_alike(shifts, len(looked)) or placed.lines(_WORDS)


def _shifted_alike(shifts: Mapping[str, tuple[int, int]], n_looked: int) -> list[str]:
    """A line where most masks are to be moved by about as much in one direction."""
    if not shifts:
        return []
    down, right = (round(float(one)) for one in np.median(list(shifts.values()), axis=0))
    alike = [tile for tile, (y, x) in shifts.items() if max(abs(y - down), abs(x - right)) <= _ALIKE_PX]
    if len(alike) < 2 or 2 * len(alike) <= n_looked:
        return []
    rows, columns = "down" if down > 0 else "up", "right" if right > 0 else "left"
    return [
        f"in {len(alike)} of the {n_looked} tiles looked at, the masks lie on what the image shows only once they are "
        f"moved {abs(down)} px {rows} and {abs(right)} px to the {columns}, {alike[0]} among them. Are they of crops "
        "that begin elsewhere? They are stored as they came"
    ]


def _scaled(plane: Floats) -> Floats:
    spread = plane.std()
    return np.zeros_like(plane) if spread == 0 else (plane - plane.mean()) / spread


def _correlation(one: Floats, other: Floats) -> float:
    return abs(float((one * other).mean())) if one.shape == other.shape else 0.0
