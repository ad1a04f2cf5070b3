"""Whether masks lie on what the images show, or only once they are turned, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Looked at this small.
_SIDE: Final = 256
# Correlation with an image from which on a mask lies on it, and below which it does not.
_LIES: Final = 0.3
_LIES_NOT: Final = 0.15
_TURNS: Final = (
    "as they are", "mirrored left for right", "mirrored upside down", "turned by 180°", "mirrored, rows for columns",
    "turned by 90° clockwise", "turned by 90° counterclockwise", "mirrored along the other diagonal",
)  # fmt: skip


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
    turned = zip(*(_orientations(_scaled(one)) for one in (cells, _edges(cells))), strict=True)
    return np.array([max(_correlation(one, plane) for one in drawn for plane in shown) for drawn in turned])


def _orientations(plane: Floats) -> list[Floats]:
    """The eight orientations of a plane, in the order of their words."""
    return [base[::y, ::x] for base in (plane, plane.T) for y in (1, -1) for x in (1, -1)]


def _edges(plane: Floats) -> Floats:
    return np.asarray(np.hypot(*np.gradient(plane))) if min(plane.shape) > 1 else np.zeros_like(plane)


def placement_lines(found: Mapping[str, Floats | None]) -> list[str]:
    """What is to be said of the placements of tiles by their ids, nothing where most masks lie on their images."""
    looked = {tile: values for tile, values in found.items() if values is not None}
    wrong = {tile: int(values.argmax()) for tile, values in looked.items() if _is_turned(values)}
    for turn in sorted(set(wrong.values())):
        tiles = [tile for tile, own in wrong.items() if own == turn]
        if _are_most(tiles, looked):
            return [
                f"in {len(tiles)} of {len(looked)} tiles the masks lie on what the image shows only once they are "
                f"{_TURNS[turn]}, {tiles[0]} among them. They are stored as they came: turn the files, and import anew "
                "with --restart"
            ]
    nowhere = [tile for tile, values in looked.items() if values[0] < _LIES_NOT]
    if _are_most(nowhere, looked):
        return [
            f"in {len(nowhere)} of {len(looked)} tiles no channel tells the inside of the masks from the outside, "
            f"{nowhere[0]} among them. Are they masks of other tiles, or of another scale that were cut to this size?"
        ]
    return []


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
