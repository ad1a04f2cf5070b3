"""One plane of numbers out of what a file shows: colours that are grey, palettes, and pictures that are turned."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

UPRIGHT: Final = 1
ORIENTATION_TAG: Final = 274
# How stored rows and columns become those of the picture, by the values of the tag Orientation of TIFF 6.0 and Exif.
_TURNS: Final = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels (y, x, ...) as they are to be seen; values that the standard does not know turn nothing."""
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def is_on_its_side(orientation: int) -> bool:
    """Whether rows of the file are columns of the picture."""
    return orientation in (5, 6, 7, 8)


def single_plane(pixels: NDArray[Any], *, has_alpha: bool) -> NDArray[Any]:
    """The plane (y, x) that the colours (y, x, sample) hold: all alike, or all but one empty; opacity is none of them.

    Raises TileReadError for colours that differ, and for an opacity that is not the same everywhere.
    """
    colours = pixels[..., :-1] if has_alpha else pixels
    if has_alpha and np.ptp(pixels[..., -1]) != 0:
        raise TileReadError("wrong shape: expected one grey plane (y, x), found a transparency that differs by pixel")
    used = [k for k in range(colours.shape[-1]) if colours[..., k].any()]
    if len(used) <= 1 or all(np.array_equal(colours[..., used[0]], colours[..., k]) for k in range(colours.shape[-1])):
        return np.ascontiguousarray(colours[..., used[0] if used else 0])
    raise TileReadError(f"wrong shape: expected one grey plane (y, x), found {colours.shape[-1]} colours that differ")


def shown_in_grey(numbers: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """What a palette (entry, colour) makes of its numbers, where all colours that occur are grey.

    Raises TileReadError where they are not.
    """
    used = np.unique(numbers)
    if used[-1] >= len(palette):
        raise TileReadError(f"unreadable: the palette has {len(palette)} colours, found number {used[-1]}")
    if np.ptp(palette[used].astype(np.int64), axis=1).any():
        raise TileReadError("wrong values: the palette's numbers stand for colours, not for shades of one grey")
    grey: NDArray[Any] = palette[:, 0][numbers]
    return grey


def counts_of_palette(numbers: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """Counts (y, x) behind an image with a palette (entry, colour): the greys shown, or numbers drawn on one scale.

    A scale is linear: each of its colours rises evenly with the number, or not at all, so that numbers are counts.

    Raises TileReadError for any other palette: its numbers name colours, and say nothing of how bright a pixel is.
    """
    used = np.unique(numbers)
    known = palette[used[used < len(palette)]].astype(np.float64)
    if not np.ptp(known, axis=1).any():
        return shown_in_grey(numbers, palette)
    expected = used[used < len(palette), None] / 255.0 * palette.max(axis=0)
    if len(palette) == 256 and np.abs(known - expected).max() <= 1:
        return numbers
    raise TileReadError(
        "palette: its numbers name colours, and are no counts. Save the image in grey, or with a linear colour scale."
    )
