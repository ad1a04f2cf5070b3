"""Whether two planes hold the same noise: no exposure repeats that of another, so those that do are one exposure."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.splits.image_hash import Floats

# Different images reach 0.03, simulated ones of 32 px 0.32; copies that were not rounded coarsely 0.8 and more.
SAME_NOISE: Final = 0.6
# Second differences along both axes leave noise and next to nothing of what is smooth (Immerkaer 1996).
_NOISE: Final = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
# Planes that are laid on each other by what they show are off by this much at most.
_MOST_OFF_PX: Final = 8
# Where a plane is steep it is what it shows that is compared, and objects may be alike.
_STEEP_PX: Final = 2.0
_BLOCKS: Final = 4
_FEWEST_PX: Final = 16


def noise_likeness(one: NDArray[np.generic], other: NDArray[np.generic]) -> float:
    """Correlation of the noise of two planes (y, x) of one shape that show the same, to some pixels; -1 to 1.

    The median over blocks of a 4 x 4 grid, in the flatter half of the pixels, so that one object that is alike in both
    decides nothing; 0 where most of the planes have no noise. Copies of strong lossy compression have lost it.
    """
    from scipy.ndimage import convolve, gaussian_gradient_magnitude

    ours, theirs = (np.asarray(plane, np.float64) for plane in (one, other))
    noises = [convolve(plane, _NOISE, mode="nearest") for plane in (ours, theirs)]
    (y, x), (their_y, their_x) = _laid_on_each_other(*noises)
    steep = gaussian_gradient_magnitude(ours[y, x], _STEEP_PX)
    found = [
        _correlation(first[flat], second[flat])
        for first, second, flat in zip(
            *(_blocks(plane) for plane in (noises[0][y, x], noises[1][their_y, their_x], steep <= np.median(steep))),
            strict=True,
        )
        if np.count_nonzero(flat) >= _FEWEST_PX
    ]
    return float(np.median(found)) if len(found) >= _BLOCKS**2 / 2 else 0.0


def _laid_on_each_other(one: Floats, other: Floats) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The parts (y, x) of two planes of noise that fit best, found among shifts of some pixels."""
    every = np.fft.irfft2(np.fft.rfft2(one) * np.conj(np.fft.rfft2(other)), s=one.shape)
    most = min(_MOST_OFF_PX, min(one.shape) // 4)
    shifts = np.arange(-most, most + 1)
    near = every[np.ix_(shifts, shifts)]
    off = [int(shifts[at]) for at in np.unravel_index(near.argmax(), near.shape)]
    ends = [length - abs(by) for by, length in zip(off, one.shape, strict=True)]
    ours, theirs = (
        tuple(slice(max(0, sign * by), max(0, sign * by) + end) for by, end in zip(off, ends, strict=True))
        for sign in (1, -1)
    )
    return (ours[0], ours[1]), (theirs[0], theirs[1])


def _blocks(plane: NDArray[Any]) -> list[NDArray[Any]]:
    return [block for rows in np.array_split(plane, _BLOCKS) for block in np.array_split(rows, _BLOCKS, axis=1)]


def _correlation(one: Floats, other: Floats) -> float:
    """Of numbers that hardly vary there is none, which is 0."""
    deviations = [numbers - numbers.mean() for numbers in (one, other)]
    squares = [float(np.sum(numbers**2)) for numbers in deviations]
    return float(np.sum(deviations[0] * deviations[1]) / np.sqrt(squares[0] * squares[1])) if all(squares) else 0.0
