"""Where the flows carry each pixel: Euler steps, taken by many pixels side by side.

The steps of cellpose.dynamics.follow_flows, to the last bit where torch has fused multiply and add. A step of one
pixel waits for its last one; here the processor takes the same step for as many pixels as its registers hold.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel, fma
from fintune_xr.errors import FintuneValueError
from fintune_xr.models.protocol import Maps

Pixels = tuple[NDArray[np.signedinteger[Any]], ...]

# Pixels that walk together. What they need at hand, 68 bytes each, stays in the processor's nearest cache.
_TOGETHER: Final = 512
_ONE: Final = np.float32(1)
_HALF: Final = np.float32(0.5)
_TWO: Final = np.float32(2)


def follow_flows(flows: Maps, pixels: Pixels, *, niter: int) -> NDArray[np.int32]:
    """Pixels (2, n), y then x, in which each of `pixels` (y, x), n each, ends after `niter` steps along `flows`.

    `flows` (2, y, x), finite, in px per step, both sides at least 2 px, read bilinearly and as zero outside. As in
    cellpose.dynamics.steps_interp, coordinates run from -1 at the first to 1 at the last pixel of a side in single
    precision, and flows are read on torch's grid for `align_corners=False`, which lies up to half a pixel off.

    Raises FintuneValueError for flows over 2**31 pixels or more.

    Reference: Stringer et al. 2021, Nat. Methods 18:100.
    """
    if (flows.shape[1] + 2) * (flows.shape[2] + 2) >= 2**31:
        raise FintuneValueError(
            f"flows: expected fewer than 2**31 pixels, got {flows.shape}. Cut the image into tiles."
        )
    sides = np.array(flows.shape[1:], np.float32) - 1
    # A frame of zeros stands for what lies outside; y and x of a flow lie side by side, to be read as one number.
    framed = np.zeros((flows.shape[1] + 2, flows.shape[2] + 2, 2), np.float32)
    for axis in range(2):
        np.multiply(flows[axis], np.float32(2.0 / sides[axis]), out=framed[1:-1, 1:-1, axis])
    ends = np.empty((2, pixels[0].size), np.int32)
    _follow(framed.reshape(-1).view(np.uint64), np.int32(framed.shape[1]), sides, pixels[0], pixels[1], niter, ends)
    return ends


@compile_kernel
def _follow(flows: Any, stride: Any, sides: Any, rows: Any, columns: Any, niter: int, ends: Any) -> None:
    y, x = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
    south, east = np.empty(_TOGETHER, np.float32), np.empty(_TOGETHER, np.float32)
    corner = np.empty(_TOGETHER, np.int32)
    nw, ne = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
    sw, se = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
    parts = nw.view(np.float32), ne.view(np.float32), sw.view(np.float32), se.view(np.float32)
    halves = (sides + _ONE) * _HALF
    for first in range(0, rows.size, _TOGETHER):
        n = min(_TOGETHER, rows.size - first)
        for i in range(n):
            y[i] = np.float32(rows[first + i]) / sides[0] * _TWO - _ONE
            x[i] = np.float32(columns[first + i]) / sides[1] * _TWO - _ONE
        for _ in range(niter):
            _locate(y, x, halves, stride, corner, south, east, n)
            _read(flows, stride, corner, nw, ne, sw, se, n)
            _move(y, x, south, east, parts, n)
        for i in range(n):
            ends[0, first + i] = np.int32((y[i] + _ONE) * _HALF * sides[0])
            ends[1, first + i] = np.int32((x[i] + _ONE) * _HALF * sides[1])


@compile_kernel
def _locate(y: Any, x: Any, halves: Any, stride: Any, corner: Any, south: Any, east: Any, n: int) -> None:
    """The sample north-west of each place, and how far south and east of it the place lies, in px."""
    half_y, half_x = halves[0], halves[1]
    for i in range(n):
        at_y, at_x = fma(y[i] + _ONE, half_y, -_HALF), fma(x[i] + _ONE, half_x, -_HALF)
        top, left = np.floor(at_y), np.floor(at_x)
        south[i], east[i] = at_y - top, at_x - left
        corner[i] = (np.int32(top) + np.int32(1)) * stride + np.int32(left) + np.int32(1)


@compile_kernel
def _read(flows: Any, stride: Any, corner: Any, nw: Any, ne: Any, sw: Any, se: Any, n: int) -> None:
    """Flows at the four samples around each place. Unsigned, so that no index is taken to count from the end."""
    below, right = np.uint64(stride), np.uint64(1)
    for i in range(n):
        k = np.uint64(np.uint32(corner[i]))
        nw[i], ne[i] = flows[k], flows[k + right]
        sw[i], se[i] = flows[k + below], flows[k + below + right]


@compile_kernel
def _move(y: Any, x: Any, south: Any, east: Any, parts: Any, n: int) -> None:
    """One step; products are added in torch's order, and rounded once with their sum as there."""
    nw, ne, sw, se = parts
    for i in range(n):
        s, e = south[i], east[i]
        n_, w = _ONE - s, _ONE - e
        to_nw, to_ne, to_sw, to_se = w * n_, e * n_, w * s, e * s
        j, k = 2 * i, 2 * i + 1
        dy = fma(se[j], to_se, fma(sw[j], to_sw, fma(ne[j], to_ne, nw[j] * to_nw)))
        dx = fma(se[k], to_se, fma(sw[k], to_sw, fma(ne[k], to_ne, nw[k] * to_nw)))
        y[i] = min(max(y[i] + dy, -_ONE), _ONE)
        x[i] = min(max(x[i] + dx, -_ONE), _ONE)
