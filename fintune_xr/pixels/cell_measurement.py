"""What one mask and its image say about each cell, and masks with instances dropped or renumbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel
from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.instance_labels import LabelTable, label_table, run_ends
from fintune_xr.tasks.instance import CellTable


@dataclass(frozen=True, slots=True, eq=False)
class Renumbered:
    """A mask with labels 1..N and where they came from.

    `mask` (y, x) uint32; `label` (cell,) uint32: the former label of instance `i + 1` at `i`, ascending.
    """

    mask: NDArray[np.uint32]
    label: NDArray[np.uint32]


def measure_cells(mask: NDArray[Any], image: NDArray[Any]) -> CellTable:
    """Area, centroid and mean intensity of each instance, and the background of each channel.

    `mask` (y, x) integer labels, gaps allowed; `image` (channel, y, x) uint8 or uint16 raw counts. Both are
    cropped to the valid height and width of the tile: every pixel given is counted. Sums are exact integers;
    the background is the exact median of the pixels outside all instances, NaN where there are none.

    Raises FintuneValueError where shapes or dtypes do not fit.
    """
    labels = label_table(mask)
    planes = _planes(image, labels.mask.shape)
    area, rows, columns, counts = cell_sums(labels.mask, planes, labels.size)
    present = np.flatnonzero(area[1:]) + 1
    n_pixels = area[present]
    histogram = background_histogram(labels.mask, planes, np.iinfo(planes.dtype).max + 1)
    return CellTable(
        label=labels.names[present],
        area_px=n_pixels.astype(np.int32),
        centroid_y=(rows[present] / n_pixels).astype(np.float32),
        centroid_x=(columns[present] / n_pixels).astype(np.float32),
        mean_intensity=(counts[present] / n_pixels[:, None]).astype(np.float32),
        background=np.array([_median(channel) for channel in histogram], np.float32),
    )


def renumber(mask: NDArray[Any]) -> Renumbered:
    """`mask` (y, x) with labels 1..N without gaps, in the order of the labels it had.

    Raises FintuneValueError where `mask` is no mask of labels.
    """
    labels = label_table(mask)
    return _selected(labels, _present(labels))


def _planes(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if image.ndim != 3 or image.shape[1:] != shape:
        raise FintuneValueError(
            f"image: expected dims (channel, y, x) with (y, x) = {shape} of the mask, got {image.shape}. "
            "Crop both to the height and width of the tile."
        )
    if image.dtype.kind != "u" or image.dtype.itemsize > 2:
        raise FintuneValueError(
            f"image: expected raw counts as uint8 or uint16, got {image.dtype}. Measure before normalising."
        )
    # The same form for every caller, so that each kernel is compiled once per pixel type.
    view = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("=")).view()
    view.flags.writeable = False
    return view


def _median(histogram: NDArray[np.uint32]) -> float:
    """Median of the integers counted in `histogram` (value,); the mean of the middle two for even counts."""
    below = np.cumsum(histogram, dtype=np.int64)
    n = int(below[-1])
    if n == 0:
        return float("nan")
    return float(np.searchsorted(below, [(n - 1) // 2, n // 2], side="right").mean())


def _present(labels: LabelTable) -> NDArray[np.int64]:
    return np.flatnonzero(_occurs(labels.mask.reshape(-1), labels.size)[1:]) + 1


def _selected(labels: LabelTable, kept: NDArray[np.int64]) -> Renumbered:
    numbers = np.zeros(labels.size, np.uint32)
    numbers[kept] = np.arange(1, kept.size + 1, dtype=np.uint32)
    return Renumbered(_looked_up(labels.mask, numbers), labels.names[kept])


@compile_kernel
def cell_sums(mask: Any, image: Any, n_labels: int) -> Any:
    """Pixels, sum of rows, sum of columns (label,) and summed counts (label, channel), all int64."""
    n_channels, height, width = image.shape
    area = np.zeros(n_labels, np.int64)
    rows = np.zeros(n_labels, np.int64)
    columns = np.zeros(n_labels, np.int64)
    counts = np.zeros((n_labels, n_channels), np.int64)
    ends = np.empty(width + 1, np.int64)
    for y in range(height):
        start = 0
        for stop in ends[: run_ends(mask[y], mask[y], ends)]:
            label = mask[y, start]
            if label != 0:
                n = stop - start
                area[label] += n
                rows[label] += n * y
                columns[label] += n * (start + stop - 1) // 2
                for channel in range(n_channels):
                    total = 0
                    for x in range(start, stop):
                        total += image[channel, y, x]
                    counts[label, channel] += total
            start = stop
    return area, rows, columns, counts


@compile_kernel
def background_histogram(mask: Any, image: Any, n_values: int) -> Any:
    """How often each count occurs in each channel outside all instances (channel, value) uint32."""
    n_channels, height, width = image.shape
    histogram = np.zeros((n_channels, n_values), np.uint32)
    for channel in range(n_channels):
        for y in range(height):
            for x in range(width):
                # Adding 0 is faster than a branch that guesses the outline of every cell wrong.
                histogram[channel, image[channel, y, x]] += np.uint32(mask[y, x] == 0)
    return histogram


@compile_kernel
def _looked_up(mask: Any, numbers: Any) -> Any:
    found = np.empty(mask.shape, np.uint32)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            found[y, x] = numbers[mask[y, x]]
    return found


@compile_kernel
def _occurs(flat: Any, n_labels: int) -> Any:
    occurs = np.zeros(n_labels, np.bool_)
    for label in flat:
        occurs[label] = True
    return occurs
