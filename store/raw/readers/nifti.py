"""NIfTI volumes: stored as (x, y, z) by their convention, given as B-scans (y, x) along z."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.volume_header import (
    VolumeHeader,
    checked_spacing,
    checked_volume,
    orientation_of,
    reorder_axes,
    turns_to,
)

AXES: Final = "zyx"
_GZIP: Final = b"\x1f\x8b"
# More than either header takes, and less than the smallest volume.
_HEADER_BYTES: Final = 600
_LEAST_OFFSET: Final = 348
_MAGIC_1: Final = (b"n+1",)
_MAGIC_2: Final = (b"n+2",)
# Codes of the unit of length: metre, millimetre, micrometre; the others say nothing, and mean millimetres in practice.
_MM: Final = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001, 4: 1.0, 5: 1.0, 6: 1.0, 7: 1.0}
_SPACE: Final = 7


def nifti_header(
    file: BinaryIO, *, axes: str = AXES, least_depth: int = 2, orientation: str = ""
) -> VolumeHeader:  # fmt: skip
    """Size, dtype, spacing in mm and orientation of a `.nii` or `.nii.gz`, of which only the beginning is unpacked.

    `axes` says what the reversed axes of the file are, by default z, y, x. Size and spacing are those after a volume
    that tells its own orientation is turned to `orientation`, where one is given.

    Raises TileReadError for what is no NIfTI, is cut off in the header, has not three axes, or a spacing of zero.
    """
    return _header(_words(_unpacked(file, _HEADER_BYTES)), axes, least_depth, orientation)


def nifti_frames(
    file: BinaryIO, *, axes: str = AXES, least_depth: int = 2, orientation: str = ""
) -> Iterator[NDArray[Any]]:  # fmt: skip
    """B-scans (y, x), with slope and intercept of the file applied, turned to `orientation` exactly, voxel by voxel.

    Raises TileReadError as `nifti_header` does, and where pixels are missing.
    """
    content = _unpacked(file)
    words = _words(content)
    header = _header(words, axes, least_depth, orientation)
    stored = words.get_data_dtype()
    start, n_voxels = int(words.get_data_offset()), header.depth * header.height * header.width
    expected = start + n_voxels * stored.itemsize
    if start < _LEAST_OFFSET or len(content) < expected:
        raise TileReadError(f"truncated: expected {expected:,} bytes, found {len(content):,}")
    # (x, y, z, 1, …) in the file, x fastest; axes of one element behind the third hold nothing more.
    volume = np.frombuffer(content, stored, n_voxels, start).reshape(words.get_data_shape()[2::-1])
    slope, intercept = _scaling(words)
    order, flips = turns_to(orientation, header.orientation)
    for plane in reorder_axes(volume, axes).transpose(order)[flips]:
        scaled = plane if (slope, intercept) == (1.0, 0.0) else plane * slope + intercept
        yield scaled.astype(header.dtype, copy=False)


def _header(words: Any, axes: str, least_depth: int, orientation: str) -> VolumeHeader:
    shape = tuple(int(length) for length in words.get_data_shape())
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise TileReadError(f"wrong shape: expected three axes, found {' x '.join(map(str, shape)) or 'none'}")
    sizes = [float(size) for size in words["pixdim"][1:4]]
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise TileReadError(f"unreadable: expected spacings above zero, found {sizes}")
    unit = _MM[int(words["xyzt_units"]) & _SPACE]
    along = dict(zip(axes, zip(shape[2::-1], sizes[::-1], strict=True), strict=True))
    own = _orientation(words, axes)
    order, _ = turns_to(orientation, own)
    z, y, x = (along["zyx"[at]] for at in order)
    stored = words.get_data_dtype()
    dtype = "float32" if _scaling(words) != (1.0, 0.0) and stored.kind in "uif" else stored.newbyteorder("=").name
    spacing = checked_spacing((z[1] * unit, y[1] * unit, x[1] * unit))
    found = VolumeHeader(z[0], y[0], x[0], dtype, spacing, orientation=own)
    return checked_volume(found, least_depth=least_depth)


def _orientation(words: Any, axes: str) -> str:
    """Where z, y and x point to by the affine; empty where the file has none, or one that tells nothing."""
    from nibabel.spatialimages import HeaderDataError

    if not (int(words["sform_code"]) or int(words["qform_code"])):
        return ""
    try:
        affine = np.asarray(words.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError):
        return ""
    # Columns of an affine are steps along x, y and z of the file, towards right, anterior and superior.
    reversed_axes = affine[:3, 2::-1].T
    return orientation_of(reversed_axes[[axes.index(axis) for axis in "zyx"]])


def _scaling(words: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of zero, or one that is no number, means that nothing is to be done."""
    slope, intercept = words.get_slope_inter()
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept or 0.0))


def _words(content: bytes) -> Any:
    """The header of NIfTI-1 or NIfTI-2, as it stands in the file: nibabel would mend a spacing of zero."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    if len(content) < _HEADER_BYTES:
        raise TileReadError(f"truncated: expected the header of a NIfTI, found {len(content)} bytes")
    second = content[4:7] in _MAGIC_2
    if not second and content[344:347] not in _MAGIC_1:
        raise TileReadError("unreadable: not a NIfTI of one file (no magic word in the header)")
    kind = Nifti2Header if second else Nifti1Header
    try:
        words = kind(content[: kind.template_dtype.itemsize], check=False)
        words.get_data_shape(), words.get_data_dtype(), words.get_data_offset(), words.get_slope_inter()
    except (HeaderDataError, ValueError, OverflowError, KeyError) as error:
        raise TileReadError(f"unreadable: damaged header ({error})") from error
    if min(words.get_data_shape(), default=0) < 1:
        raise TileReadError(f"unreadable: damaged header (axes of {words.get_data_shape()})")
    return words


def _unpacked(file: BinaryIO, at_most: int = -1) -> bytes:
    """The bytes of the file, or its first ones, unpacked where it is compressed."""
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    if start != _GZIP:
        return file.read(at_most)
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            return packed.read(at_most)
    except (EOFError, OSError, zlib.error) as error:
        raise TileReadError(f"truncated: the compressed file ends early or is damaged ({error})") from error
