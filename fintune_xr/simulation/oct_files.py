"""Simulated volumes as files: a multi-frame DICOM, a NIfTI, an array."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.uint8]
SPACING_MM: Final = (0.12, 0.004, 0.011)
_EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"


def write_volume(file: Path, volume: Voxels, side: str) -> Path:
    """`volume` (z, y, x) in the format that the name of `file` ends in: .dcm, .nii.gz or .npy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    suffix = next(suffix for suffix in _FORMATS if file.name.endswith(suffix))
    file.write_bytes(_FORMATS[suffix](volume, side))
    return file


def _dicom(volume: Voxels, side: str) -> bytes:
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import OphthalmicTomographyImageStorage, generate_uid

    dataset, measures, shared = Dataset(), Dataset(), Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = _EXPLICIT_LITTLE
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = OphthalmicTomographyImageStorage
    # The same volume is the same bytes.
    uid = generate_uid(entropy_srcs=[volume.tobytes().hex()[:4096], side])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.Modality, dataset.ImageLaterality = "OPT", side
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = volume.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    measures.SliceThickness, measures.PixelSpacing = SPACING_MM[0], list(SPACING_MM[1:])
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    # A value of odd length is not allowed.
    dataset.PixelData = volume.tobytes() + bytes(volume.size % 2)
    dataset["PixelData"].VR = "OB"
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _nifti(volume: Voxels, _side: str) -> bytes:
    import gzip

    import nibabel

    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([*SPACING_MM[::-1], 1.0]), dtype=np.uint8)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _array(volume: Voxels, _side: str) -> bytes:
    out = io.BytesIO()
    np.save(out, volume)
    return out.getvalue()


_FORMATS: Final[Mapping[str, Callable[[Voxels, str], Any]]] = {".dcm": _dicom, ".nii.gz": _nifti, ".npy": _array}
