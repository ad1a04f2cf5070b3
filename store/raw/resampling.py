"""Volumes brought to a grid, B-scan by B-scan: trilinear interpolation without corners aligned and without smoothing.

Each B-scan is resized along y and x when it is read, and the resized ones are joined along z, so that memory holds the
grid and two B-scans, however long the volume is. The sums are formed as torch's `interpolate(mode="trilinear",
align_corners=False)` forms them on processors with fused multiply-add, in float32 and in the same order, so both agree
to the last bit there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel
from fintune_xr.errors import TileReadError

STEPS: Final = 255

Shape = tuple[int, int, int]
"""Lengths (z, y, x)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """For each place on the grid the two neighbours in the source, and how much each counts."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    of_first: NDArray[np.float32]
    of_second: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Gridded:
    """Pixels (z, y, x) uint8 on the grid; times `step` and plus `offset` they are the values of the file."""

    pixels: NDArray[np.uint8]
    offset: float = 0.0
    step: float = 1.0


def linear_weights(n_source: int, n_grid: int) -> Weights:
    """Neighbours and weights along one axis; beyond the first and the last centre the end is continued.

    Sample k of the grid lies at (k + 0.5) * n_source / n_grid - 0.5 of the source, computed in float32.
    """
    index = np.arange(n_grid)
    if n_source == n_grid:
        return Weights(index, index, np.ones(n_grid, np.float32), np.zeros(n_grid, np.float32))
    half = np.float32(0.5)
    ratio = np.float32(n_source) / np.float32(n_grid)
    place = np.maximum(ratio * (index.astype(np.float32) + half) - half, np.float32(0))
    first = np.minimum(place.astype(np.int64), n_source - 1)
    of_second = np.clip(place - first.astype(np.float32), np.float32(0), np.float32(1))
    return Weights(first, np.minimum(first + 1, n_source - 1), np.float32(1) - of_second, of_second)


def resized_planes(frames: Iterable[NDArray[Any]], source: Shape, grid: Shape) -> Iterator[NDArray[np.float32]]:
    """Planes (y, x) float32 of the grid in order of z, from `frames` of a volume of shape `source`.

    The plane that is yielded is overwritten by the next.

    Raises TileReadError where there are fewer or more frames, or one of another shape.
    """
    along_z, along_y, along_x = (linear_weights(a, b) for a, b in zip(source, grid, strict=True))
    earlier, later, made = (np.empty(grid[1:], np.float32) for _ in range(3))
    done = 0
    for at, frame in enumerate(_counted(frames, source)):
        earlier, later = later, earlier
        _resize(_exact(frame), along_y, along_x, later)
        while done < grid[0] and along_z.second[done] == at:
            first = earlier if along_z.first[done] < at else later
            _join(first, later, along_z.of_first[done], along_z.of_second[done], made)
            done += 1
            yield made


def to_grid(frames: Iterable[NDArray[Any]], source: Shape, grid: Shape, *, is_byte: bool) -> Gridded:
    """The volume on the grid as uint8.

    With `is_byte` the values of the file are 0 to 255 and stay, rounded to the nearest, halves to the even one. Others
    are mapped linearly from the extremes of the resized volume to 0 and 255; a constant volume becomes 0 with step 0.

    Raises TileReadError as `resized_planes` does, and where values are NaN or infinite.
    """
    planes = resized_planes(frames, source, grid)
    if is_byte:
        pixels = np.empty(grid, np.uint8)
        for z, plane in enumerate(planes):
            np.rint(plane, out=pixels[z], casting="unsafe")
        return Gridded(pixels)
    values = np.empty(grid, np.float32)
    for z, plane in enumerate(planes):
        if not np.isfinite(plane).all():
            raise TileReadError("wrong values: some are NaN or infinite")
        values[z] = plane
    return _mapped(values)


def moments(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, from sums that are exact."""
    total, squares = (int(one) for one in _sums(np.ascontiguousarray(pixels).reshape(-1)))
    return total / pixels.size, math.sqrt(pixels.size * squares - total**2) / pixels.size


def _mapped(values: NDArray[np.float32]) -> Gridded:
    low, high = float(values.min()), float(values.max())
    step = (high - low) / STEPS
    if not step:
        return Gridded(np.zeros(values.shape, np.uint8), low, 0.0)
    pixels = np.empty(values.shape, np.uint8)
    for z, plane in enumerate(values):
        pixels[z] = np.rint((plane.astype(np.float64) - low) / step)
    return Gridded(pixels, low, step)


def _counted(frames: Iterable[NDArray[Any]], source: Shape) -> Iterator[NDArray[Any]]:
    found = 0
    for frame in frames:
        if frame.shape != source[1:] or found == source[0]:
            raise TileReadError(
                f"wrong shape: expected {source[0]} B-scans of {source[1]} x {source[2]} as the header tells, "
                f"found one more, or one of {' x '.join(map(str, frame.shape))}"
            )
        found += 1
        yield frame
    if found != source[0]:
        raise TileReadError(f"truncated: expected {source[0]} B-scans, found {found}")


def _exact(frame: NDArray[Any]) -> NDArray[Any]:
    """`frame` as it is where single values become float32 without loss as they are read, else as float32."""
    native = frame.dtype.isnative and frame.flags.c_contiguous
    return frame if native and frame.dtype.name in ("uint8", "uint16", "float32") else np.asarray(frame, np.float32)


def _resize(plane: NDArray[Any], y: Weights, x: Weights, out: NDArray[np.float32]) -> None:
    _resize_plane(
        plane, y.first, y.second, y.of_first, y.of_second, x.first, x.second, x.of_first, x.of_second, out
    )  # fmt: skip


@intrinsic  # type: ignore[untyped-decorator]
def _fused(_typing: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """a * b + c of float32, rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fma(*values)

    return types.float32(types.float32, types.float32, types.float32), generate


@compile_kernel
def _resize_plane(
    plane: NDArray[Any],
    y0: NDArray[np.int64], y1: NDArray[np.int64], of_y0: NDArray[np.float32], of_y1: NDArray[np.float32],
    x0: NDArray[np.int64], x1: NDArray[np.int64], of_x0: NDArray[np.float32], of_x1: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    for row in range(out.shape[0]):
        upper, lower = plane[y0[row]], plane[y1[row]]
        for column in range(out.shape[1]):
            left, right, of_left, of_right = x0[column], x1[column], of_x0[column], of_x1[column]
            above = _fused(np.float32(upper[left]), of_left, np.float32(upper[right]) * of_right)
            below = _fused(np.float32(lower[left]), of_left, np.float32(lower[right]) * of_right)
            out[row, column] = _fused(above, of_y0[row], below * of_y1[row])


@compile_kernel
def _join(
    first: NDArray[np.float32], second: NDArray[np.float32], of_first: float, of_second: float,
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = _fused(first[row, column], of_first, second[row, column] * of_second)


@compile_kernel
def _sums(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    total, squares = np.uint64(0), np.uint64(0)
    for at in range(pixels.size):
        value = np.uint32(pixels[at])
        total += np.uint64(value)
        squares += np.uint64(value * value)
    return int(total), int(squares)
