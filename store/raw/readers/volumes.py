"""One face for the formats of volumes: the header of a file, or header and B-scans from the bytes of one."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.store.raw.readers import dicom, heyex_vol, nifti, numpy_volume
from fintune_xr.store.raw.readers.volume_header import LEAST_DEPTH, VolumeHeader

ZYX: Final = "zyx"
DICOM_SUFFIXES: Final = (".dcm", ".dicom")
NIFTI_SUFFIXES: Final = (".nii", ".nii.gz")
NUMPY_SUFFIXES: Final = (".npy", ".npz")
VOL_SUFFIXES: Final = (".vol",)
VOLUME_SUFFIXES: Final = (*DICOM_SUFFIXES, *NIFTI_SUFFIXES, *NUMPY_SUFFIXES, *VOL_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Reading:
    """How volumes are read: what the axes of arrays and NIfTI are, the least number of B-scans, and which orientation
    NIfTI that tell theirs are turned to (empty: all stay as they lie)."""

    axes: str = ZYX
    least_depth: int = LEAST_DEPTH
    orientation: str = ""


def check_axes(axes: str) -> str:
    """`axes` itself, once it is z, y and x in some order; raises FintuneValueError otherwise."""
    if sorted(axes) != sorted(ZYX):
        raise FintuneValueError(f"--axes: expected z, y and x in the order of the files, e.g. yxz, got {axes!r}")
    return axes


def suffix_of(path: str) -> str:
    """The suffix by which the format of `path` is known, `.nii.gz` as a whole; empty where it is none of them."""
    name = path.lower()
    return next((suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def volume_header(file: BinaryIO, path: str, reading: Reading) -> VolumeHeader:
    """What the opened file at `path` says about its volume; as few bytes as possible are read.

    Raises TileReadError as the reader of its format does.
    """
    _require_bytes(file)
    suffix, least = suffix_of(path), reading.least_depth
    if suffix in DICOM_SUFFIXES:
        _require_zyx(reading, path)
        return dicom.dicom_header(file, least_depth=least)
    if suffix in VOL_SUFFIXES:
        _require_zyx(reading, path)
        return heyex_vol.vol_header(file, least_depth=least)
    if suffix in NIFTI_SUFFIXES:
        return nifti.nifti_header(file, axes=reading.axes, least_depth=least, orientation=reading.orientation)
    if suffix in NUMPY_SUFFIXES:
        return numpy_volume.numpy_header(file, axes=reading.axes, least_depth=least)
    raise TileReadError(f"unreadable: expected {', '.join(VOLUME_SUFFIXES)}, found {path.rpartition('/')[2]}")


def volume_frames(content: bytes, path: str, reading: Reading) -> tuple[VolumeHeader, Iterator[NDArray[Any]]]:
    """Header, and B-scans (y, x) one by one, of the volume whose file at `path` has these bytes.

    Raises TileReadError as `volume_header` does; the B-scans, where they cannot be decoded.
    """
    header = volume_header(io.BytesIO(content), path, reading)
    file, suffix, least = io.BytesIO(content), suffix_of(path), reading.least_depth
    frames: Mapping[tuple[str, ...], Any] = {
        DICOM_SUFFIXES: lambda: dicom.dicom_frames(file, least_depth=least),
        VOL_SUFFIXES: lambda: heyex_vol.vol_frames(file, least_depth=least),
        NIFTI_SUFFIXES: lambda: nifti.nifti_frames(
            file, axes=reading.axes, least_depth=least, orientation=reading.orientation
        ),
        NUMPY_SUFFIXES: lambda: numpy_volume.numpy_frames(file, axes=reading.axes, least_depth=least),
    }
    return header, next(made() for suffixes, made in frames.items() if suffix in suffixes)


def _require_bytes(file: BinaryIO) -> None:
    if file.seek(0, os.SEEK_END) == 0:
        raise TileReadError("zero bytes: expected a volume, found an empty file")
    file.seek(0)


def _require_zyx(reading: Reading, path: str) -> None:
    if reading.axes != ZYX:
        raise TileReadError(
            f"wrong axes: --axes {reading.axes} is for arrays and NIfTI, whose files do not tell; "
            f"{suffix_of(path)} does. Ingest these files without it."
        )
