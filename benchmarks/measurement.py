"""Measuring and renumbering the cells of one mask: 1,500 cells on 2048 x 2048, two uint16 channels."""

from __future__ import annotations

import fastremap
import numpy as np
from cells import added_up, grid_of_cells, image_of_cells
from skimage.measure import regionprops_table
from skimage.segmentation import relabel_sequential
from table import Reach, Row, compared, print_table

from fintune_xr.pixels.cell_measurement import cell_sums, measure_cells, renumber
from fintune_xr.pixels.instance_labels import label_table

PROPERTIES = ("label", "area", "centroid", "intensity_mean")


def rows() -> list[Row]:
    """Measuring with and without the background's median, renumbering."""
    mask = grid_of_cells(1500)
    image = image_of_cells(mask)
    return [*_measuring(mask, image), *_relabelling(mask)]


def _measuring(mask: np.ndarray, image: np.ndarray) -> list[Row]:
    labels = label_table(mask)
    last = np.moveaxis(image, 0, -1)

    def properties() -> object:
        return regionprops_table(mask, last, properties=PROPERTIES)

    def with_background() -> object:
        return properties(), [np.median(channel[mask == 0]) for channel in image]

    def limit() -> tuple[int, int]:
        return added_up(mask), added_up(image)

    reach = Reach(faster=40, of_limit=4)
    return [
        compared(
            "measure_cells, with background",
            lambda: measure_cells(mask, image),
            ("skimage regionprops_table + np.median", with_background),
            limit=limit,
            reach=reach,
        ),
        compared(
            "its sums alone, no background",
            lambda: cell_sums(labels.mask, image, labels.size),
            ("skimage regionprops_table", properties),
            limit=limit,
            reach=reach,
        ),
    ]


def _relabelling(mask: np.ndarray) -> list[Row]:
    kept = np.arange(1, 1501, 2)
    gaps = np.where(np.isin(mask, kept), mask, 0).astype(np.uint32)
    return [
        compared(
            "renumbered, after a gap at every second",
            lambda: renumber(gaps),
            ("fastremap.renumber", lambda: fastremap.renumber(gaps)),
            limit=mask.copy,
        ),
        compared(
            "renumbered, after a gap at every second",
            lambda: renumber(gaps),
            ("skimage relabel_sequential", lambda: relabel_sequential(gaps)),
            limit=mask.copy,
        ),
    ]


if __name__ == "__main__":
    print_table(rows())
