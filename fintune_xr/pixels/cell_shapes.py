"""Shape, skeleton, texture and neighbourhood of single cells of one tile; each cell by its own pixels alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops
from skimage.morphology import skeletonize

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.instance_labels import label_table
from fintune_xr.tasks.cell_measures import CellMeasure

_EIGHT: Final = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class CellPixels:
    """One cell: its pixels (y, x) in its box, their counts (channel, y, x), and what is far from others there.

    `far` holds by column how far each pixel of the box is from the objects of another run, in px; `regions` (y, x)
    codes of the box, None where they are not known.
    """

    pixels: NDArray[np.bool_]
    counts: NDArray[Any]
    far: Mapping[str, NDArray[np.float64]]
    regions: NDArray[np.uint8] | None


def measure_shapes(
    mask: NDArray[Any],
    image: NDArray[Any],
    labels: NDArray[np.unsignedinteger[Any]],
    measures: Sequence[CellMeasure],
    others: Mapping[str, NDArray[Any]] | None = None,
    regions: NDArray[np.uint8] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The `measures` of the instances `labels` (cell,) of `mask` (y, x), by column: (cell,), or (cell, channel).

    `image` (channel, y, x) holds raw counts; `others` the mask (y, x) of each run that a distance is to; `regions` the
    code of the region of each pixel (y, x), None where it is not known: then the region is NaN. Lengths are px. What
    one cell gives does not depend on which others are asked for.

    Raises FintuneValueError for a label that no pixel of the mask has.
    """
    found = label_table(mask)
    at = np.minimum(np.searchsorted(found.names, labels), found.size - 1)
    # A table may name labels that no pixel has.
    boxes = ndimage.find_objects(found.mask.astype(np.int64), max_label=found.size - 1)
    far = {one.column: _far(others or {}, one) for one in measures if one.to}
    rows = []
    for label, index in zip(labels.tolist(), at.tolist(), strict=True):
        box = boxes[index - 1] if index and found.names[index] == label else None
        if box is None:
            raise FintuneValueError(f"no pixel of the mask has the label {label}, which the table of cells has")
        near = {name: one[box] for name, one in far.items()}
        within = None if regions is None else regions[box]
        cell = CellPixels(found.mask[box] == index, image[:, *box], near, within)
        rows.append(_measured(cell, measures))
    return {
        one.column: np.array([row[one.column] for row in rows], np.float32).reshape(
            (len(rows), len(image))[: 1 + one.by_channel]
        )
        for one in measures
    }


def skeleton_length(skeleton: NDArray[np.bool_]) -> float:
    """Length in px of a skeleton (y, x).

    1 for each pair of pixels side by side, and the square root of 2 for a diagonal pair that no third pixel, side by
    side with both, joins.
    """
    straight, diagonal = _joints(skeleton)
    return float(straight.sum() + math.sqrt(2) * diagonal.sum()) / 2


def branch_points(skeleton: NDArray[np.bool_]) -> int:
    """How many places of a skeleton (y, x) three or more lines go out from; neighbouring ones are one."""
    straight, diagonal = _joints(skeleton)
    _, number = ndimage.label(straight + diagonal >= 3, structure=_EIGHT)
    return int(number)


def _joints(skeleton: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many pixels each pixel of a skeleton is joined to side by side, and diagonally; 0 outside of it."""
    s = np.pad(skeleton, 1)
    up, down, left, right = s[:-2, 1:-1], s[2:, 1:-1], s[1:-1, :-2], s[1:-1, 2:]
    corners = (
        s[:-2, :-2] & ~(up | left), s[:-2, 2:] & ~(up | right),
        s[2:, :-2] & ~(down | left), s[2:, 2:] & ~(down | right),
    )  # fmt: skip
    straight = np.sum([up, down, left, right], axis=0, dtype=np.int64)
    diagonal = np.sum(corners, axis=0, dtype=np.int64)
    return straight * skeleton, diagonal * skeleton


def _measured(cell: CellPixels, measures: Sequence[CellMeasure]) -> dict[str, Any]:
    """Values by column; what several measures share is made once."""
    wanted = {one.column for one in measures}
    values: dict[str, Any] = {}
    if wanted & _PROPERTIES.keys():
        (one,) = regionprops(cell.pixels.astype(np.uint8))
        values |= {column: getattr(one, _PROPERTIES[column]) for column in wanted & _PROPERTIES.keys()}
    if wanted & _SKELETON.keys():
        skeleton = skeletonize(cell.pixels)
        values |= {column: _SKELETON[column](skeleton) for column in wanted & _SKELETON.keys()}
    if n.SD_INTENSITY in wanted:
        values[n.SD_INTENSITY] = cell.counts[:, cell.pixels].astype(np.float64).std(axis=1)
    if n.REGION_CODE in wanted:
        values[n.REGION_CODE] = _region(cell)
    values |= {column: far[cell.pixels].min() for column, far in cell.far.items()}
    return values


def _region(cell: CellPixels) -> float:
    """Code of the region under the pixel nearest to the mean of the cell's pixels; halves go down and to the right."""
    if cell.regions is None:
        return math.nan
    row, column = (math.floor(places.mean() + 0.5) for places in np.nonzero(cell.pixels))
    return float(cell.regions[row, column])


def _far(others: Mapping[str, NDArray[Any]], measure: CellMeasure) -> NDArray[np.float64]:
    """How far every pixel (y, x) is from the nearest object, NaN where there is none."""
    mask = others[measure.to]
    if not mask.any():
        return np.full(mask.shape, np.nan)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask == 0)
    return distance


# The names of scikit-image for what it measures.
_PROPERTIES: Final[Mapping[str, str]] = {
    n.ECCENTRICITY: "eccentricity",
    n.SOLIDITY: "solidity",
    n.PERIMETER_PX: "perimeter",
    n.MAJOR_AXIS_PX: "axis_major_length",
    n.MINOR_AXIS_PX: "axis_minor_length",
}
_SKELETON: Final[Mapping[str, Callable[[NDArray[np.bool_]], float]]] = {
    n.SKELETON_LENGTH_PX: skeleton_length,
    n.N_BRANCH_POINTS: branch_points,
}
