"""Connected pieces of classes, as parts of an image that can be looked at one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Which = Literal["largest", "all"]

_EIGHT_NEIGHBOURS: Final = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A piece of an image: where its box lies, its pixels there (y, x), and the label that it is a piece of."""

    label: int
    where: tuple[slice, slice]
    pixels: NDArray[np.bool_]

    @property
    def area_px(self) -> int:
        """Number of its pixels."""
        return int(self.pixels.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First row and column, height and width."""
        rows, columns = self.where
        return rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start


def pieces_of_classes(labels: NDArray[np.uint8], n_classes: int, *, which: Which, min_px: int) -> list[Region]:
    """8-connected pieces of labels 1 to `n_classes` (y, x), of `min_px` or more: the largest of each label, or all."""
    found = []
    for label in range(1, n_classes + 1):
        pieces = [one for one in _pieces(labels == label, label) if one.area_px >= min_px]
        found += pieces if which == "all" else sorted(pieces, key=lambda one: -one.area_px)[:1]
    return found


def regions_of_instances(mask: NDArray[np.uint32], *, min_px: int) -> list[Region]:
    """Every instance of a mask (y, x) of at least `min_px` pixels, in order of its label."""
    boxes = ndimage.find_objects(mask.astype(np.int64))
    made = [Region(label, box, mask[box] == label) for label, box in enumerate(boxes, start=1) if box is not None]
    return [one for one in made if one.area_px >= min_px]


def crop(image: NDArray[np.uint8], region: Region, *, white: bool) -> NDArray[np.uint8]:
    """The box of a region in `image` (colour, y, x), in the middle of a white square; with `white` its pixels alone."""
    part = image[:, *region.where].copy()
    if white:
        part[:, ~region.pixels] = 255
    height, width = part.shape[1:]
    edge = max(height, width)
    square = np.full((len(image), edge, edge), 255, np.uint8)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[:, top : top + height, left : left + width] = part
    return square


def majority(labels: NDArray[np.uint8], region: Region, *, ignored: int) -> int:
    """The most frequent label (y, x) under a region, ignored pixels left out; `ignored` where there are no others."""
    under = labels[region.where][region.pixels]
    counts = np.bincount(under[under != ignored], minlength=1)
    return int(counts.argmax()) if counts.any() else ignored


def _pieces(is_there: NDArray[np.bool_], label: int) -> Iterator[Region]:
    numbered, _ = ndimage.label(is_there, structure=_EIGHT_NEIGHBOURS)
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        yield Region(label, box, numbered[box] == number)
