"""Volumes saved by NumPy: `.npy`, or `.npz` with one array. Nothing in them is ever executed."""

from __future__ import annotations

import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.volume_header import VolumeHeader, checked_volume, reorder_axes

AXES: Final = "zyx"
_ZIP: Final = b"PK"


def numpy_header(file: BinaryIO, *, axes: str = AXES, least_depth: int = 2) -> VolumeHeader:
    """Size and dtype of the array, of which only the header is read; `axes` says what its axes are.

    Raises TileReadError for what is no such file, several arrays, objects, or another number of axes than three; a
    leading axis of one is passed over.
    """
    with _array_file(file) as array:
        shape, _, dtype = _described(array)
    return _header(shape, dtype, axes, least_depth)


def numpy_frames(file: BinaryIO, *, axes: str = AXES, least_depth: int = 2) -> Iterator[NDArray[Any]]:
    """B-scans (y, x) in native byte order. Raises TileReadError as `numpy_header` does, and where bytes are missing."""
    with _array_file(file) as array:
        shape, fortran, dtype = _described(array)
        _header(shape, dtype, axes, least_depth)
        content = array.read()
    expected = int(np.prod(shape)) * dtype.itemsize
    if len(content) < expected:
        raise TileReadError(f"truncated: expected {expected:,} bytes of pixels, found {len(content):,}")
    volume = np.frombuffer(content, dtype, int(np.prod(shape))).reshape(shape, order="F" if fortran else "C")
    for plane in reorder_axes(volume.reshape(shape[-3:]), axes):
        yield plane.astype(dtype.newbyteorder("="), copy=False)


def _header(shape: tuple[int, ...], dtype: np.dtype[Any], axes: str, least_depth: int) -> VolumeHeader:
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 3:
        raise TileReadError(f"wrong shape: expected three axes, found {' x '.join(map(str, shape)) or 'none'}")
    z, y, x = (shape[axes.index(axis)] for axis in "zyx")
    return checked_volume(VolumeHeader(z, y, x, dtype.newbyteorder("=").name), least_depth=least_depth)


def _described(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, EOFError, SyntaxError, tokenize.TokenError) as error:
        raise TileReadError(f"unreadable: not an array saved by NumPy ({error})") from error
    if dtype.hasobject or dtype.kind not in "uif":
        raise TileReadError(f"wrong dtype: expected numbers, found {dtype}; arrays of objects are never loaded")
    return shape, fortran, dtype


@contextmanager
def _array_file(file: BinaryIO) -> Iterator[Any]:
    """The bytes of the array: the file itself, or the only member of an archive."""
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    if start != _ZIP:
        yield file
        return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            if len(members) != 1:
                listed = ", ".join(members[:5]) or "none"
                raise TileReadError(f"wrong content: expected one array in the archive, found {len(members)}: {listed}")
            with archive.open(members[0]) as member:
                yield member
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise TileReadError(f"unreadable: damaged archive ({error})") from error
