"""DICOM multi-frame volumes (ophthalmic tomography): header without pixels, B-scans one by one.

Compressed frames are decoded by pydicom and its plugins, with two exceptions for which imagecodecs is asked: JPEG
Lossless (process 14), whose only plugin is under the GPL, and JPEG-LS, whose plugin takes seconds to notice that a
frame is cut off. A file that is not quite DICOM is refused, never forced.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.dicom_geometry import first_item, laterality, orientation, shared_groups, spacing_of
from fintune_xr.store.raw.readers.volume_header import VolumeHeader, checked_volume

_INVERTED: Final = "MONOCHROME1"
_GREY: Final = (_INVERTED, "MONOCHROME2")
# By their name in imagecodecs: JPEG Lossless, then JPEG-LS.
_OWN_DECODERS: Final = {
    "1.2.840.10008.1.2.4.57": "ljpeg_decode", "1.2.840.10008.1.2.4.70": "ljpeg_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode", "1.2.840.10008.1.2.4.81": "jpegls_decode",
}  # fmt: skip
_NATIVE: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_PIXEL_TAGS: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")


@dataclass(frozen=True, slots=True)
class _Values:
    """What the file asks to be done with stored values, in this order: inversion, slope, intercept."""

    bits: int
    signed: bool
    inverted: bool
    slope: float
    intercept: float

    @property
    def dtype(self) -> str:
        """Type of the values that come out."""
        if (self.slope, self.intercept) != (1.0, 0.0):
            return "float32"
        return f"{'int' if self.signed else 'uint'}{8 if self.bits <= 8 else 16}"


def dicom_header(file: BinaryIO, *, least_depth: int = 2) -> VolumeHeader:
    """Size, dtype, spacing in mm, side and device, without decoding a pixel.

    Raises TileReadError for what is no DICOM, has no pixels, is colour, a single frame, of uneven frame positions, of a
    transfer syntax that is not known, or truncated.
    """
    with _in_words():
        dataset = _read(file)
        header = _header(dataset, least_depth)
        _check_pixels(file, dataset, header)
    return header


def dicom_frames(file: BinaryIO, *, least_depth: int = 2) -> Iterator[NDArray[Any]]:
    """B-scans (y, x) in the order of the file: black is low, slope and intercept are applied.

    Raises TileReadError as `dicom_header` does, and where a frame cannot be decoded.
    """
    with _in_words():
        dataset = _read(file)
        header, values = _header(dataset, least_depth), _values(dataset)
        _check_pixels(file, dataset, header)
        file.seek(0)
        syntax, found = _syntax(dataset), 0
        decoded = _by_imagecodecs(file, header, syntax) if syntax in _OWN_DECODERS else _by_pydicom(file, syntax)
        for frame in decoded:
            found += 1
            yield _applied(frame, values)
        if found < header.depth:
            raise TileReadError(f"truncated: expected {header.depth} frames, found {found}")


def _by_pydicom(file: BinaryIO, syntax: str) -> Iterator[NDArray[Any]]:
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels

    # What is compressed as a whole cannot be read frame by frame.
    yield from iter_pixels(dcmread(file) if syntax == _DEFLATED else file, raw=True)


def _by_imagecodecs(file: BinaryIO, header: VolumeHeader, syntax: str) -> Iterator[NDArray[Any]]:
    import imagecodecs
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    decode = getattr(imagecodecs, _OWN_DECODERS[syntax])
    for frame in generate_frames(dcmread(file).PixelData, number_of_frames=header.depth):
        yield decode(frame)


def _applied(frame: NDArray[Any], values: _Values) -> NDArray[Any]:
    if values.inverted:
        frame = np.invert(frame) if values.signed else (2**values.bits - 1 - frame).astype(frame.dtype)
    if (values.slope, values.intercept) == (1.0, 0.0):
        return frame.astype(values.dtype, copy=False)
    return (frame * values.slope + values.intercept).astype(np.float32)


def _header(dataset: Any, least_depth: int) -> VolumeHeader:
    samples, kind = int(dataset.SamplesPerPixel), str(dataset.PhotometricInterpretation)
    if samples != 1 or kind not in _GREY:
        raise TileReadError(f"wrong shape: expected one grey channel, found {samples} of {kind}")
    depth = int(getattr(dataset, "NumberOfFrames", None) or 1)
    height, width, device = int(dataset.Rows), int(dataset.Columns), str(getattr(dataset, "ManufacturerModelName", ""))
    dtype = _values(dataset).dtype
    patient = str(getattr(dataset, "PatientID", "")).strip()
    header = VolumeHeader(
        depth, height, width, dtype, spacing_of(dataset), laterality(dataset), device, orientation(dataset), patient
    )
    _check_syntax(dataset)
    return checked_volume(header, least_depth=least_depth)


def _values(dataset: Any) -> _Values:
    stored = int(dataset.BitsAllocated)
    if stored not in (8, 16):
        raise TileReadError(f"wrong dtype: expected 8 or 16 bits for each pixel, found {stored}")
    scaling = first_item(shared_groups(dataset), "PixelValueTransformationSequence") or dataset
    slope, intercept = getattr(scaling, "RescaleSlope", None), getattr(scaling, "RescaleIntercept", None)
    return _Values(
        int(dataset.BitsStored),
        bool(dataset.PixelRepresentation),
        str(dataset.PhotometricInterpretation) == _INVERTED,
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )


def _syntax(dataset: Any) -> str:
    return str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))


def _check_syntax(dataset: Any) -> None:
    from pydicom.pixels import get_decoder

    syntax = _syntax(dataset)
    if syntax in _OWN_DECODERS:
        return
    try:
        missing = get_decoder(syntax).missing_dependencies if syntax else ["no transfer syntax"]
        usable = bool(syntax) and get_decoder(syntax).is_available
    except NotImplementedError:
        missing, usable = [], False
    if not usable:
        needed = f" ({'; '.join(map(str, missing))})" if missing else ""
        raise TileReadError(f"unreadable: transfer syntax {syntax or 'not told'} cannot be decoded here{needed}")


def _read(file: BinaryIO) -> Any:
    from pydicom import dcmread

    file.seek(0)
    return dcmread(file, stop_before_pixels=True)


def _check_pixels(file: BinaryIO, dataset: Any, header: VolumeHeader) -> None:
    """Pixels follow what was read, and where they are not compressed, as many as the header promises."""
    syntax = _syntax(dataset)
    if syntax == _DEFLATED:
        return
    start = file.tell()
    if file.read(4) not in _PIXEL_TAGS:
        raise TileReadError("wrong content: expected pixels, found none")
    if syntax in _NATIVE:
        expected = header.depth * header.height * header.width * int(dataset.BitsAllocated) // 8
        found = file.seek(0, os.SEEK_END) - start - (8 if syntax == _NATIVE[0] else 12)
        if found < expected:
            raise TileReadError(f"truncated: expected {expected:,} bytes of pixels, found {max(found, 0):,}")


@contextmanager
def _in_words() -> Iterator[None]:
    """Whatever pydicom and the decoders raise for a damaged file becomes one kind of error."""
    try:
        yield
    except TileReadError:
        raise
    except _damage() as error:
        # pydicom raises bare OSErrors for damage; those of the operating system and of networks have a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # pydicom recommends to force the reading of what is no DICOM; noise would be read, too.
        told = " ".join(str(error).replace("Use force=True to force reading.", "").split())[:200]
        raise TileReadError(f"unreadable: {type(error).__name__}: {told}") from error


def _damage() -> tuple[type[Exception], ...]:
    """What pydicom and the decoders raise for damaged files; imagecodecs' errors are RuntimeErrors."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError, BytesLengthException, AttributeError, ValueError, KeyError, IndexError, TypeError, EOFError,
        struct.error, NotImplementedError, RuntimeError, OverflowError, MemoryError, OSError,
    )  # fmt: skip
