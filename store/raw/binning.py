"""Pixels joined into larger ones: by how much, what becomes of coordinates, and where the rows of a file went.

A pixel that is stored is the mean of N x N pixels of the file, as float32, from the top left; rows at the bottom and
columns at the right that fill no whole block are left out, and the size of the file is stored beside. Coordinates
count from the centre of the first pixel, so that x in the file is (x + 0.5) / N - 0.5 in the store.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.store.raw.readers import Header

MEAN: Final = "mean"
TOP_FIRST: Final = "row 0 is the top of the picture, as in PNG, JPEG and CryoPPP's coordinates; rows of MRC are turned"

T = TypeVar("T", float, NDArray[np.float64])


def check_binning(binning: int) -> int:
    """`binning` itself, once it is a whole number from 1 on; raises FintuneValueError otherwise."""
    if binning < 1:
        raise FintuneValueError(f"binning: expected 1, 2, 3, …, got {binning}. 1 stores the pixels as they are.")
    return binning


def binned_header(header: Header, binning: int) -> Header:
    """How the plane of `header` will be stored.

    Raises TileReadError where not a single block fits into it.
    """
    if binning == 1:
        return header
    height, width = header.height // binning, header.width // binning
    if not height or not width:
        raise TileReadError(
            f"wrong shape: expected {binning} pixels or more to join, found {header.height} x {header.width}"
        )
    return Header(height, width, "float32", header.pages, header.pixel_size_a * binning, doubt=header.doubt)


def bin_plane(plane: NDArray[Any], binning: int) -> NDArray[Any]:
    """Means (y, x) float32 of blocks of `binning` squared pixels; the plane itself where it is 1."""
    if binning == 1:
        return plane
    height, width = (length // binning for length in plane.shape)
    blocks = plane[: height * binning, : width * binning].reshape(height, binning, width, binning)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), np.float32)


def in_larger_pixels(coordinate: T, factor: float) -> T:
    """A coordinate in pixels `factor` times as large: (c + 0.5) / factor - 0.5; 0 is the centre of the first one."""
    return (coordinate + 0.5) / factor - 0.5


def counts_from_bottom(source: str) -> bool:
    """Whether programs that count rows as they have them in memory have the bottom one of the picture `source` first.

    MRC is stored like that. TIFF has its top row first, but RELION turns it over when it reads one, to agree with
    MotionCor2 and IMOD (https://relion.readthedocs.io/en/release-4.0/Reference/Conventions.html).
    """
    return PurePosixPath(source).suffix.lower() in (".mrc", ".tif", ".tiff")
