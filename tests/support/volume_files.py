"""Volumes written to files of each format by the libraries of that format."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"


def volume_of(shape: tuple[int, int, int], dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Smooth noise, so that lossy formats have something to keep."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0.5, 2, 2))
    values = (values - values.min()) / np.ptp(values)
    high = 1.0 if dtype.startswith("float") else float(np.iinfo(dtype).max)
    return np.asarray(values * high, dtype)


def dicom_bytes(
    volume: NDArray[Any],
    *,
    syntax: str = EXPLICIT,
    positions: Sequence[float] | None = None,
    spacing: tuple[float, float, float] = (0.12, 0.004, 0.011),
    **elements: Any,
) -> bytes:
    """A multi-frame DICOM of `volume` (z, y, x) as an ophthalmic scanner writes it; `elements` replace its own."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import OphthalmicTomographyImageStorage, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT if syntax in (DEFLATED,) else syntax
    dataset.file_meta.MediaStorageSOPClassUID = OphthalmicTomographyImageStorage
    dataset.SOPClassUID = OphthalmicTomographyImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["volume"])
    dataset.Modality, dataset.ManufacturerModelName, dataset.ImageLaterality = "OPT", "Spectralis", "L"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = volume.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = volume.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(volume.dtype.kind == "i")
    dataset.SharedFunctionalGroupsSequence = [_shared(spacing)]
    if positions is not None:
        dataset.PerFrameFunctionalGroupsSequence = [_frame(float(at)) for at in positions]
    for name, value in elements.items():
        setattr(dataset, name, value)
    _set_pixels(dataset, volume, syntax)
    return _written(dataset, syntax)


def write_dicom(path: Path, volume: NDArray[Any], **settings: Any) -> Path:
    """`dicom_bytes` in a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(volume, **settings))
    return path


def nifti_bytes(volume: NDArray[Any], *, spacing: tuple[float, float, float] = (0.12, 0.004, 0.011)) -> bytes:
    """A NIfTI of `volume` (z, y, x), saved by its convention as (x, y, z)."""
    import nibabel

    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([*spacing[::-1], 1.0]), dtype=volume.dtype)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def npy_bytes(volume: NDArray[Any]) -> bytes:
    """What numpy.save writes."""
    file = io.BytesIO()
    np.save(file, volume)
    return file.getvalue()


def vol_bytes(
    reflectivity: NDArray[np.float32], *, version: bytes = b"HSF-OCT-103", side: bytes = b"OD", pattern: int = 3,
    ends: Any = (),
) -> bytes:  # fmt: skip
    """A raw export of Spectralis with these B-scans (z, y, x), which tell `ends`: x, y of begin and end of each."""
    depth, height, width = reflectivity.shape
    head = bytearray(2048)
    head[: len(version)] = version
    struct.pack_into("<iii3dii", head, 12, width, depth, height, 0.011, 0.12, 0.0039, 4, 4)
    head[84 : 84 + len(side)] = side
    struct.pack_into("<ii", head, 96, pattern, 256)
    told = [*ends] or [(0.0,) * 4] * depth
    heads = [struct.pack("<12si4d", b"HSF-BS-103", 256, *one).ljust(256, b"\0") for one in told]
    blocks = b"".join(one + plane.astype("<f4").tobytes() for one, plane in zip(heads, reflectivity, strict=True))
    return bytes(head) + bytes(16) + blocks + bytes(132)


def _shared(spacing: tuple[float, float, float]) -> Any:
    from pydicom.dataset import Dataset

    measures, shared = Dataset(), Dataset()
    measures.SliceThickness, measures.PixelSpacing = spacing[0], list(spacing[1:])
    shared.PixelMeasuresSequence = [measures]
    return shared


def _frame(at: float) -> Any:
    from pydicom.dataset import Dataset

    plane, frame = Dataset(), Dataset()
    plane.ImagePositionPatient = [0.0, at, 1.5]
    frame.PlanePositionSequence = [plane]
    return frame


def _set_pixels(dataset: Any, volume: NDArray[Any], syntax: str) -> None:
    from pydicom.encaps import encapsulate

    encoded = _encoder(syntax)
    if encoded is not None:
        dataset.PixelData = encapsulate([encoded(plane) for plane in volume])
        dataset["PixelData"].is_undefined_length = True
        return
    order = ">" if syntax == BIG_ENDIAN else "<"
    dataset.PixelData = volume.astype(volume.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OB" if volume.dtype.itemsize == 1 else "OW"


def _encoder(syntax: str) -> Any:
    import imagecodecs

    return {
        JPEG_BASELINE: lambda plane: imagecodecs.jpeg8_encode(plane, level=95),
        JPEG_LOSSLESS: imagecodecs.ljpeg_encode,
        JPEG_LOSSLESS_SV1: imagecodecs.ljpeg_encode,
        JPEG_LS: imagecodecs.jpegls_encode,
        JPEG_2000: lambda plane: imagecodecs.jpeg2k_encode(plane, codecformat="J2K", reversible=True, level=0),
    }.get(syntax)


def _written(dataset: Any, syntax: str) -> bytes:
    from pydicom import dcmwrite

    if syntax == DEFLATED:
        dataset.file_meta.TransferSyntaxUID = DEFLATED
    if syntax == RLE:
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        dataset.compress(RLE)
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
