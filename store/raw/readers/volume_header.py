"""What a file says about the volume that it holds, before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError

VOLUME_DTYPES: Final = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")

# Fewer B-scans are no volume; smaller sides are thumbnails.
LEAST_DEPTH: Final = 2
LEAST_SIDE_PX: Final = 32
MOST_VOXELS: Final = 2**31

# Both ends of each line through the body: towards the right, the front and the head first.
_LETTERS: Final = ("RL", "AP", "SI")

RIGHT: Final = "R"
LEFT: Final = "L"


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """A volume as its file describes it: B-scans along z, depth into the retina along y, the scan along x.

    `spacing` are the distances of neighbours along z, y, x in mm, 0 where the file does not tell them. `dtype` is that
    of the values after everything that the file asks to be done with them. `laterality` is R, L or empty.
    `orientation` is where z, y and x of the file point to, one of the letters R and L, A and P, S and I for each; empty
    where the file does not tell. `patient` is what the file calls whose eye it is, to be compared and not stored.
    """

    depth: int
    height: int
    width: int
    dtype: str
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    laterality: str = ""
    device: str = ""
    orientation: str = ""
    patient: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths along z, y, x."""
        return self.depth, self.height, self.width


def checked_volume(header: VolumeHeader, *, least_depth: int = LEAST_DEPTH) -> VolumeHeader:
    """`header` itself, once its size is that of a volume and its dtype one that is read.

    Raises TileReadError with a plain reason.
    """
    if header.dtype not in VOLUME_DTYPES:
        raise TileReadError(f"wrong dtype: expected {', '.join(VOLUME_DTYPES)}, found {header.dtype}")
    shape = " x ".join(map(str, header.shape))
    if header.depth < least_depth:
        raise TileReadError(f"wrong shape: expected {least_depth} B-scans or more, found {shape}")
    if min(header.height, header.width) < LEAST_SIDE_PX:
        raise TileReadError(f"wrong shape: expected B-scans of {LEAST_SIDE_PX} px or more a side, found {shape}")
    if header.depth * header.height * header.width > MOST_VOXELS:
        raise TileReadError(f"wrong shape: expected up to {MOST_VOXELS:,} voxels, found {shape}")
    return header


def checked_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """`spacing` itself, in mm; a length that is no positive number counts as not told."""
    z, y, x = (float(one) if np.isfinite(one) and one > 0 else 0.0 for one in spacing)
    return z, y, x


def side_of(text: str) -> str:
    """R for what means the right eye, L for the left one, empty otherwise."""
    known = {"r": RIGHT, "od": RIGHT, "right": RIGHT, "l": LEFT, "os": LEFT, "left": LEFT}
    return known.get(text.strip().lower(), "")


def orientation_of(directions: NDArray[np.float64]) -> str:
    """Letters of `directions` (3, 3), of which each row is where an axis points to: right, anterior, superior.

    An axis that is oblique has the letter that it is nearest to. Empty for directions that are none, or two alike.
    """
    if not np.isfinite(directions).all() or not np.abs(directions).max(axis=1).all():
        return ""
    nearest = np.abs(directions).argmax(axis=1)
    if len(set(nearest.tolist())) < len(nearest):
        return ""
    return "".join(_LETTERS[at][int(row[at] < 0)] for at, row in zip(nearest, directions, strict=True))


def turns_to(wanted: str, found: str) -> tuple[list[int], tuple[slice, ...]]:
    """Which axis of a volume of orientation `found` comes where, and which are turned round, to make it `wanted`.

    Nothing changes where either is empty.
    """
    if not wanted or not found:
        return [0, 1, 2], (slice(None),) * 3
    line = {letter: at for at, both in enumerate(_LETTERS) for letter in both}
    order = [[line[letter] for letter in found].index(line[letter]) for letter in wanted]
    flips = tuple(slice(None, None, 1 if found[at] == letter else -1) for at, letter in zip(order, wanted, strict=True))
    return order, flips


def reorder_axes(volume: NDArray[Any], axes: str) -> NDArray[Any]:
    """`volume`, whose axes are `axes` (a permutation of zyx), as a view (z, y, x)."""
    return volume.transpose([axes.index(axis) for axis in "zyx"])
