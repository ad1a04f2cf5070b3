"""Values of a volume as an encoder wants them: plain arrays, one volume at a time."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.pixels.normalisations import IMAGENET, PERCENTILE_GAMMA, ZSCORE

EPSILON: Final = 1e-6
GAMMA_PERCENTILE: Final = 99.0
GAMMA: Final = 0.8
CONSTANT: Final = "constant volume"


def normalise(
    volume: NDArray[np.uint8], normalisation: str, *, clip_percentile: float | None = None
) -> NDArray[np.float32]:
    """`volume` (any shape) uint8 in the values that `normalisation` says, float32.

    `zscore`: (v - mean) / (sd + 1e-6) over the whole volume. `imagenet`: v / 255; the means and standard deviations
    of natural images belong to the encoder's weights. `percentile_gamma`: cut off at the 99th percentile, scaled
    from the least value to it to 0 to 1, to the power of 0.8. With `clip_percentile` values above that percentile
    are cut off first.

    Raises TileReadError for a volume of one value, of which nothing can be said but under `imagenet`.
    """
    values = np.asarray(volume)
    if values.dtype != np.uint8 or values.size == 0:
        raise FintuneValueError(f"volume: expected voxels of uint8, got {values.dtype} {values.shape}")
    # A function of 256 values: looked up, so that a large volume costs one pass. By numpy both would first make
    # an index of eight bytes a voxel, which is more than all else that an encoder's volume takes.
    voxels = np.ascontiguousarray(values).reshape(-1)
    counts = _counts(voxels).sum(axis=0).astype(np.float64)
    levels = np.arange(256, dtype=np.float64)
    if clip_percentile is not None:
        levels = np.minimum(levels, _percentile(counts, clip_percentile))
    table = _TABLES[normalisation](levels, counts)
    looked_up = np.empty(values.shape, np.float32)
    _look_up(table.astype(np.float32), voxels, looked_up.reshape(-1))
    return looked_up


def _zscore(levels: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = np.average(levels, weights=counts)
    sd = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    if sd == 0:
        raise TileReadError(CONSTANT)
    return np.asarray((levels - mean) / (sd + EPSILON))


def _unit(levels: NDArray[np.float64], _: NDArray[np.float64]) -> NDArray[np.float64]:
    return levels / 255


def _percentile_gamma(levels: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    high = min(_percentile(counts, GAMMA_PERCENTILE), float(levels.max()))
    low = float(levels[counts > 0].min())
    if high <= low:
        raise TileReadError(CONSTANT)
    return np.asarray(((np.clip(levels, low, high) - low) / (high - low)) ** GAMMA)


_TABLES: Final[dict[str, Any]] = {ZSCORE: _zscore, IMAGENET: _unit, PERCENTILE_GAMMA: _percentile_gamma}


def _percentile(counts: NDArray[np.float64], percent: float) -> float:
    """Percentile of the voxels by linear interpolation between order statistics, as numpy's default."""
    place = (counts.sum() - 1) * percent / 100
    reached = np.cumsum(counts)
    below, above = (int(np.searchsorted(reached, rank, side="right")) for rank in (np.floor(place), np.ceil(place)))
    return below + (above - below) * float(place - np.floor(place))


@compile_kernel
def _counts(voxels: NDArray[np.uint8]) -> NDArray[np.int64]:
    # Four counts in turn: in the dark, one would wait at each voxel for the one before.
    counts = np.zeros((4, 256), np.int64)
    for at in range(voxels.size):
        counts[at & 3, voxels[at]] += 1
    return counts


@compile_kernel
def _look_up(table: NDArray[np.float32], voxels: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    for at in range(voxels.size):
        out[at] = table[voxels[at]]
