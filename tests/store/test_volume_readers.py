"""Readers of volumes against the libraries that wrote the files, and against damage."""

from __future__ import annotations

import functools
import gzip
import io
import struct
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volume_files as v
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.store.raw.readers.volumes import Reading, check_axes, suffix_of, volume_frames, volume_header

SHAPE = (5, 40, 48)


def read(content: bytes, name: str, reading: Reading | None = None) -> tuple[Any, Any]:
    header, frames = volume_frames(content, name, reading or Reading())
    assert header == volume_header(io.BytesIO(content), name, reading or Reading())
    volume = np.stack(list(frames))
    assert volume.shape == header.shape
    assert volume.dtype.name == header.dtype
    return header, volume


@pytest.mark.parametrize(
    ("syntax", "dtype"),
    [
        (v.EXPLICIT, "uint8"), (v.EXPLICIT, "uint16"), (v.EXPLICIT, "int16"), (v.IMPLICIT, "uint8"),
        (v.IMPLICIT, "uint16"), (v.BIG_ENDIAN, "uint16"), (v.DEFLATED, "uint8"), (v.RLE, "uint8"),
        (v.JPEG_LOSSLESS, "uint8"), (v.JPEG_LOSSLESS, "uint16"), (v.JPEG_LOSSLESS_SV1, "uint8"),
        (v.JPEG_LS, "uint8"), (v.JPEG_LS, "uint16"), (v.JPEG_2000, "uint8"), (v.JPEG_2000, "uint16"),
    ],
)  # fmt: skip
def test_dicom_of_each_lossless_syntax(syntax: str, dtype: str) -> None:
    volume = v.volume_of(SHAPE, dtype)
    header, found = read(v.dicom_bytes(volume, syntax=syntax), "a.dcm")
    assert np.array_equal(found, volume)
    assert header.spacing == pytest.approx((0.12, 0.004, 0.011))
    assert (header.laterality, header.device) == ("L", "Spectralis")


def test_dicom_of_lossy_jpeg_is_what_pillow_decodes() -> None:
    from imagecodecs import jpeg8_encode
    from PIL import Image

    volume = v.volume_of(SHAPE)
    _, found = read(v.dicom_bytes(volume, syntax=v.JPEG_BASELINE), "a.dcm")
    told = np.stack([np.asarray(Image.open(io.BytesIO(jpeg8_encode(plane, level=95)))) for plane in volume])
    assert np.array_equal(found, told)
    assert np.abs(found.astype(int) - volume).max() < 12


def test_dicom_inverted_is_turned_over() -> None:
    volume = v.volume_of(SHAPE)
    assert np.array_equal(
        read(v.dicom_bytes(volume, PhotometricInterpretation="MONOCHROME1"), "a.dcm")[1], 255 - volume
    )
    twelve = v.volume_of(SHAPE, "uint16") // 16
    made = v.dicom_bytes(twelve, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    assert np.array_equal(read(made, "a.dcm")[1], 4095 - twelve)


def test_dicom_slope_and_intercept_are_applied() -> None:
    volume = v.volume_of(SHAPE)
    header, found = read(v.dicom_bytes(volume, RescaleSlope=2, RescaleIntercept=-1000), "a.dcm")
    assert header.dtype == "float32"
    assert np.array_equal(found, volume * np.float32(2) - 1000)


@pytest.mark.parametrize("step", [0.25, -0.25])
def test_dicom_positions_tell_the_distance_of_frames(step: float) -> None:
    volume = v.volume_of(SHAPE)
    header, found = read(v.dicom_bytes(volume, positions=np.arange(5) * step), "a.dcm")
    assert header.spacing == pytest.approx((0.25, 0.004, 0.011))
    assert np.array_equal(found, volume)


@pytest.mark.parametrize(
    "positions", [(0, 1, 2, 4, 5), (0, 1, 3, 2, 4), (0, 1, 0, 1, 0), (0, 1, 2, 1, 0), (0, 0, 0, 0, 1)]
)
def test_dicom_of_uneven_positions_is_refused(positions: tuple[float, ...]) -> None:
    with pytest.raises(TileReadError, match="wrong positions: expected frames at even distances"):
        read(v.dicom_bytes(v.volume_of(SHAPE), positions=positions), "a.dcm")


def test_dicom_that_is_no_grey_volume_is_refused() -> None:
    volume = v.volume_of(SHAPE)
    for elements, said in (
        ({"NumberOfFrames": 1}, "expected 2 B-scans or more"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "one grey channel, found 3 of RGB"),
        ({"BitsAllocated": 32}, "8 or 16 bits"),
        ({"Rows": 20}, "32 px or more a side"),
    ):
        with pytest.raises(TileReadError, match=said):
            read(v.dicom_bytes(volume, **elements), "a.dcm")


def test_dicom_of_an_unknown_syntax_is_refused() -> None:
    content = v.dicom_bytes(v.volume_of(SHAPE)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    with pytest.raises(TileReadError, match=r"transfer syntax 1\.2\.840\.10008\.9\.9\.9"):
        read(content, "a.dcm")


@pytest.mark.parametrize("syntax", [v.EXPLICIT, v.IMPLICIT, v.JPEG_LS, v.JPEG_LOSSLESS, v.JPEG_2000, v.RLE])
def test_a_dicom_cut_anywhere_is_an_error(syntax: str) -> None:
    content = v.dicom_bytes(v.volume_of(SHAPE), syntax=syntax)
    for share in (0.0, 0.002, 0.02, 0.1, 0.3, 0.5, 0.8, 0.95):
        with pytest.raises(TileReadError):
            read(content[: int(len(content) * share)], "a.dcm")


def test_noise_and_zeros_are_no_dicom() -> None:
    for content in (bytes(5000), np.random.default_rng(0).bytes(5000), b"DICM"):
        with pytest.raises(TileReadError, match="unreadable"):
            read(content, "a.dcm")


def test_dicom_without_pixels_is_refused() -> None:
    from pydicom import dcmread, dcmwrite

    dataset = dcmread(io.BytesIO(v.dicom_bytes(v.volume_of(SHAPE))))
    del dataset.PixelData
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    with pytest.raises(TileReadError, match="expected pixels, found none"):
        read(file.getvalue(), "a.dcm")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_is_given_as_z_y_x(dtype: str, packed: bool) -> None:
    volume = v.volume_of(SHAPE, dtype)
    content = v.nifti_bytes(volume)
    header, found = read(gzip.compress(content) if packed else content, "a.nii.gz" if packed else "a.nii")
    assert np.array_equal(found, volume)
    assert header.spacing == pytest.approx((0.12, 0.004, 0.011))


def test_nifti_axes_by_a_volume_whose_value_is_its_index() -> None:
    import nibabel

    x, y, z = np.meshgrid(np.arange(48), np.arange(40), np.arange(5), indexing="ij")
    content = nibabel.Nifti1Image((x + 100 * y + 10000 * z).astype(np.int32), np.eye(4), dtype=np.int32).to_bytes()
    _, found = read(content, "a.nii")
    assert found[3, 17, 29] == 29 + 100 * 17 + 10000 * 3


def test_nifti_slope_and_intercept_are_applied() -> None:
    import nibabel

    volume = v.volume_of(SHAPE, "int16")
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    header, found = read(image.to_bytes(), "a.nii")
    expected = nibabel.Nifti1Image.from_bytes(image.to_bytes()).get_fdata(dtype=np.float32).transpose(2, 1, 0)
    assert header.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nifti_damage() -> None:
    import nibabel

    content = v.nifti_bytes(v.volume_of(SHAPE))
    for bad, name, said in (
        (content[:200], "a.nii", "truncated"),
        (content[:3000], "a.nii", "truncated: expected 9,952 bytes, found 3,000"),
        (gzip.compress(content)[:2000], "a.nii.gz", "truncated"),
        (bytes(4000), "a.nii", "unreadable"),
        (nibabel.Nifti1Image(np.zeros((48, 40, 5, 3), np.uint8), np.eye(4)).to_bytes(), "a.nii", "three axes"),
    ):
        with pytest.raises(TileReadError, match=said):
            read(bad, name)
    zero = bytearray(content)
    zero[80:84] = bytes(4)
    with pytest.raises(TileReadError, match="spacings above zero"):
        read(bytes(zero), "a.nii")


@pytest.mark.parametrize("axes", ["zyx", "yxz", "xyz", "yzx"])
def test_arrays_of_any_order_of_axes(axes: str) -> None:
    volume = v.volume_of((33, 40, 48), "uint16")
    saved = volume.transpose(["zyx".index(axis) for axis in axes])
    _, found = read(v.npy_bytes(np.ascontiguousarray(saved)), "a.npy", Reading(axes))
    assert np.array_equal(found, volume)
    _, found = read(v.npy_bytes(np.asfortranarray(saved)[None]), "a.npy", Reading(axes))
    assert np.array_equal(found, volume)


def test_nifti_of_another_order_of_axes() -> None:
    volume = v.volume_of((33, 40, 48))
    # The reversed axes of the file are y, x, z.
    content = v.nifti_bytes(np.ascontiguousarray(volume.transpose(1, 2, 0)), spacing=(0.2, 0.3, 0.4))
    header, found = read(content, "a.nii", Reading("yxz"))
    assert np.array_equal(found, volume)
    assert header.spacing == pytest.approx((0.4, 0.2, 0.3))


def test_an_archive_of_one_array() -> None:
    volume = v.volume_of(SHAPE, "float32")
    file = io.BytesIO()
    np.savez_compressed(file, volume=volume)
    assert np.array_equal(read(file.getvalue(), "a.npz")[1], volume)
    cut = file.getvalue()[:-400]
    with pytest.raises(TileReadError):
        read(cut, "a.npz")
    two = io.BytesIO()
    np.savez(two, a=volume, b=volume)
    with pytest.raises(TileReadError, match="expected one array in the archive, found 2"):
        read(two.getvalue(), "a.npz")


def test_arrays_that_are_no_volumes(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "planted",)  # type: ignore[return-value]

    for array, said in (
        (np.zeros((40, 48), np.uint8), "three axes, found 40 x 48"),
        (np.array([Planted()] * 3, object), "arrays of objects are never loaded"),
        (np.zeros(SHAPE, np.complex64), "expected numbers"),
        (np.zeros((1, 40, 48), np.uint8), "2 B-scans or more"),
        (np.zeros((5, 31, 48), np.uint8), "32 px or more"),
    ):
        with pytest.raises(TileReadError, match=said):
            read(v.npy_bytes(array), "a.npy")
    with pytest.raises(TileReadError, match="truncated: expected 9,600 bytes"):
        read(v.npy_bytes(v.volume_of(SHAPE))[:-1], "a.npy")
    assert not (tmp_path / "planted").exists()


def test_vol_is_the_fourth_root_and_no_data_is_zero() -> None:
    reflectivity = v.volume_of(SHAPE, "float32")
    reflectivity[2, 3, 4] = np.float32(3.4e38)
    header, found = read(v.vol_bytes(reflectivity), "a.vol")
    assert found[2, 3, 4] == 0
    expected = np.where(reflectivity > 1, 0, reflectivity).astype(np.float64) ** 0.25
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert header.spacing == pytest.approx((0.12, 0.0039, 0.011))
    assert header.laterality == "R"


def test_vol_damage() -> None:
    content = v.vol_bytes(v.volume_of(SHAPE, "float32"))
    for bad, said in (
        (content[:500], "truncated: expected a header"),
        (content[:-200], "truncated: expected"),
        (v.vol_bytes(v.volume_of(SHAPE, "float32"), version=b"HSF-OCT-999"), "found b'HSF-OCT-999'"),
        (b"no such file" * 400, "begins with HSF"),
    ):
        with pytest.raises(TileReadError, match=said):
            read(bad, "a.vol")


@functools.cache
def small_files() -> dict[str, bytes]:
    volume = v.volume_of((2, 32, 33))
    return {
        "a.npy": v.npy_bytes(volume),
        "a.nii": v.nifti_bytes(volume),
        "a.vol": v.vol_bytes(np.asarray(volume / 255, np.float32)),
        "a.dcm": v.dicom_bytes(volume),
    }


@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_of_a_header_is_read_or_refused(at: int, value: int) -> None:
    for name, content in small_files().items():
        bad = bytearray(content)
        bad[at] = value
        try:
            header, frames = volume_frames(bytes(bad), name, Reading())
            planes = list(frames)
        except TileReadError:
            continue
        assert len(planes) == header.depth, name
        assert {plane.shape for plane in planes} == {(header.height, header.width)}, name


def test_real_exports_of_spectralis(real_data: Path) -> None:
    for name in ("Willis_B_716_0.vol", "Willis_B_716_2.vol", "Willis_B_716_4.vol"):
        content = (real_data / "spectralis-vol" / name).read_bytes()
        header, volume = read(content, name, Reading(least_depth=1))
        assert header.shape == (1, 496, 768)
        assert header.laterality == "R"
        assert 0.0035 < header.spacing[1] < 0.0042
        assert 0 <= volume.min() < volume.max() <= 1
        with pytest.raises(TileReadError, match="2 B-scans or more"):
            read(content, name)


def test_an_empty_file_and_unknown_suffixes() -> None:
    with pytest.raises(TileReadError, match="zero bytes"):
        read(b"", "a.dcm")
    with pytest.raises(TileReadError, match=r"expected \.dcm"):
        read(b"abc", "a.jpg")
    assert suffix_of("s/A.NII.GZ") == ".nii.gz"
    assert suffix_of("a.gz") == ""


def test_axes_are_for_files_that_do_not_tell() -> None:
    with pytest.raises(TileReadError, match="Ingest these files without it"):
        read(v.dicom_bytes(v.volume_of(SHAPE)), "a.dcm", Reading("yxz"))
    with pytest.raises(FintuneValueError, match="expected z, y and x"):
        check_axes("xyt")


def lying(volume: np.ndarray, letters: str) -> bytes:
    """A NIfTI of `volume` (z, y, x), which is SAR, rewritten by nibabel so that its axes x, y, z point to `letters`."""
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.diag([0.4, 0.3, 0.2, 1.0]))
    return bytes(image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(letters))).to_bytes())


LETTERS = [
    "".join(ends) for order in permutations(("RL", "AP", "SI")) for ends in product(*order)
]  # fmt: skip


@pytest.mark.parametrize("letters", LETTERS)
def test_nifti_of_any_orientation_is_turned_exactly(letters: str) -> None:
    volume = v.volume_of((33, 40, 48), "uint16")
    content = lying(volume, letters)
    as_it_lies, _ = read(content, "a.nii")
    assert as_it_lies.orientation == letters[::-1]
    header, found = read(content, "a.nii", Reading(orientation="SAR"))
    np.testing.assert_array_equal(found, volume)
    assert (header.shape, header.orientation) == (volume.shape, letters[::-1])
    assert header.spacing == pytest.approx((0.2, 0.3, 0.4))


@pytest.mark.parametrize(("codes", "rows"), [((0, 0), [-1.0] * 12), ((0, 2), [0.0] * 12), ((1, 2), [np.nan] * 12)])
def test_nifti_that_tells_no_orientation_stays_as_it_lies(codes: tuple[int, int], rows: list[float]) -> None:
    volume = v.volume_of((33, 40, 48))
    content = bytearray(v.nifti_bytes(volume))
    assert read(bytes(content), "a.nii")[0].orientation == "SAR"
    # qform_code and sform_code, and the rows of the affine.
    struct.pack_into("<hh", content, 252, *codes)
    struct.pack_into("<12f", content, 280, *rows)
    header, found = read(bytes(content), "a.nii", Reading(orientation="IPL"))
    assert header.orientation == ""
    np.testing.assert_array_equal(found, volume)


def test_axes_that_were_named_have_their_letters() -> None:
    # The reversed axes of the file are S, A and R, and it is said that they are y, x and z.
    header, _ = read(lying(v.volume_of((33, 40, 48)), "RAS"), "a.nii", Reading("yxz"))
    assert header.orientation == "RSA"


def test_dicom_tells_its_orientation() -> None:
    from pydicom.dataset import Dataset

    volume = v.volume_of(SHAPE)
    plane, shared = Dataset(), Dataset()
    plane.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    shared.PlaneOrientationSequence = [plane]
    told = {"SharedFunctionalGroupsSequence": [shared]}
    up, down = (np.arange(SHAPE[0]) * step for step in (0.1, -0.1))
    # Columns go to the left, rows to the feet, frames to the back or to the front.
    for positions, letters in ((up, "PIL"), (down, "AIL")):
        header, _ = read(v.dicom_bytes(volume, positions=positions, **told), "a.dcm")
        assert header.orientation == letters
    assert read(v.dicom_bytes(volume, positions=up), "a.dcm")[0].orientation == ""
    assert read(v.dicom_bytes(volume, **told), "a.dcm")[0].orientation == ""


def scans_at(places: np.ndarray, *, length: float = 6.0) -> list[tuple[float, float, float, float]]:
    """Horizontal B-scans from left to right at heights `places` on the fundus, in mm from its upper edge."""
    return [(1.0, float(y), 1.0 + length, float(y)) for y in places]


@given(st.permutations(range(5)), st.integers(0, 3), st.booleans())
def test_vol_scans_are_ordered_by_their_places(order: list[int], quarters: int, turned_round: bool) -> None:
    volume = v.volume_of((5, 32, 33), "float32") / np.float32(255)
    centres = np.array([[4.0, 7.0 - 0.24 * frame] for frame in range(5)])
    half = np.array([3.0, 0.0])
    ends = np.stack([centres - half, centres + half], axis=1)
    # Turned on the fundus, the same scans are the same volume; scanned the other way, one of the other order.
    turn = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), quarters)
    ends = ends @ turn.T + 20
    if turned_round:
        ends = ends[:, ::-1]
    content = v.vol_bytes(volume[order], ends=[tuple(ends[frame].ravel()) for frame in order])
    _, found = read(content, "a.vol")
    wanted = volume[::-1] if turned_round else volume
    np.testing.assert_allclose(found, wanted.astype(np.float64) ** 0.25, rtol=1e-6)


def test_vol_scans_that_are_no_volume_are_refused() -> None:
    volume = v.volume_of((4, 32, 33), "float32") / np.float32(255)
    angles = np.arange(4) * np.pi / 4
    star = [(4 - 3 * np.cos(a), 4 - 3 * np.sin(a), 4 + 3 * np.cos(a), 4 + 3 * np.sin(a)) for a in angles]
    back_and_forth = scans_at(np.arange(4.0))
    back_and_forth[1] = (7.0, 1.0, 1.0, 1.0)
    for settings, said in (
        ({"pattern": 2}, "found 4 circles"),
        ({"ends": star}, "at an angle to the first"),
        ({"ends": back_and_forth}, "at an angle to the first"),
        ({"ends": scans_at(np.array([1.0, 1.2, 1.4, 1.8]))}, "steps from 0.2 to 0.4 mm"),
        ({"ends": scans_at(np.array([1.0, 1.2, 1.2, 1.4]))}, "steps from 0 to 0.2 mm"),
        ({"ends": scans_at(np.arange(4.0), length=0.0)}, "some without length"),
        ({"ends": [(np.nan,) * 4, *scans_at(np.arange(3.0))]}, "some without length"),
    ):
        with pytest.raises(TileReadError, match=said):
            read(v.vol_bytes(volume, **settings), "a.vol")


def test_vol_scans_that_tell_no_place_stay_as_they_lie() -> None:
    volume = v.volume_of((4, 32, 33), "float32") / np.float32(255)
    _, found = read(v.vol_bytes(volume), "a.vol")
    np.testing.assert_allclose(found, volume.astype(np.float64) ** 0.25, rtol=1e-6)
