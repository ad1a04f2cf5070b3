"""Readers: headers without decoding, pixels, digests, and a plain reason for what is not an image."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers import Header, read_header, read_labels, read_plane, read_plane_with_digest, tiff
from fintune_xr.store.raw.readers.contents import read_contents

RNG = np.random.default_rng(5)
PLANE = RNG.integers(0, 4000, (50, 70)).astype(np.uint16)


def write(path: Path, pixels: Any = PLANE, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}, {"predictor": 2}])
def test_what_was_written_is_read(tmp_path: Path, dtype: str, compression: str | None, layout: dict[str, Any]) -> None:
    pixels = PLANE.astype(dtype)
    if "predictor" in layout and compression is None:
        pytest.skip("a predictor needs compression")
    order = ">" if dtype == ">u2" else "<"
    path = write(tmp_path / "a.tif", pixels, compression=compression, byteorder=order, **layout)
    plane, digest = read_plane_with_digest(path)
    assert read_header(path) == Header(50, 70, np.dtype(dtype).newbyteorder("=").name, 1)
    assert plane.dtype.isnative
    np.testing.assert_array_equal(plane, pixels)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_pages_are_read_one_by_one(tmp_path: Path) -> None:
    stack = RNG.integers(0, 255, (3, 20, 30)).astype(np.uint8)
    path = write(tmp_path / "a.tif", stack, photometric="minisblack")
    assert read_header(path).pages == 3
    for page in range(3):
        np.testing.assert_array_equal(read_plane(path, page=page), stack[page])
    with pytest.raises(TileReadError, match="expected one plane, found 3 pages"):
        read_plane(path)
    with pytest.raises(TileReadError, match=r"expected a page 3, found 3 page\(s\)"):
        read_header(path, page=3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_and_jpeg_have_the_same_face(tmp_path: Path, suffix: str, dtype: str) -> None:
    if (suffix, dtype) == (".jpg", "uint16"):
        pytest.skip("JPEG holds 8 bits")
    pixels = np.full((20, 30), 77, dtype)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path)
    assert read_header(path) == Header(20, 30, dtype)
    np.testing.assert_array_equal(read_plane(path), pixels)


def test_a_truncated_file_is_told_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *_, **__: pytest.fail("pixels were decoded"))
    for name, options in {"plain": {}, "zlib": {"compression": "zlib", "rowsperstrip": 9}}.items():
        path = write(tmp_path / f"{name}.tif", **options)
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(TileReadError, match=f"truncated: expected {size:,} bytes, found {size - 100:,}"):
            read_header(path)


@pytest.mark.parametrize("keep", [1, 4, 8, 100, 1000])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TileReadError, match=r"a\.tif: (truncated|unreadable)"):
        read_header(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_cut_png_or_jpeg_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RNG.integers(0, 255, (90, 90)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-70])
    with pytest.raises(TileReadError, match="truncated: expected the end of a"):
        read_header(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tif", b"", "zero bytes: expected an image"),
        ("a.tif", b"<?xml version='1.0'?><meta/>", "expected a TIFF, found not a TIFF file"),
        ("a.png", b"<?xml version='1.0'?><meta/>", "expected a PNG or JPEG"),
        ("a.xml", b"<x/>", "expected .tif, .tiff, .png, .jpg or .mrc, found .xml"),
    ],
)
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TileReadError, match=message) as raised:
        read_header(path)
    assert raised.value.path == str(path)
    assert str(path) not in raised.value.reason


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (PLANE.astype(np.float32), {}, "wrong dtype: expected uint8 or uint16, found float32"),
        (PLANE.astype(np.uint32), {}, "wrong dtype: expected uint8 or uint16, found uint32"),
        (PLANE > 9, {}, "wrong dtype: expected uint8 or uint16, found bool"),
        (np.zeros((9, 9, 3), np.uint8), {"photometric": "rgb"}, r"grey plane \(y, x\), found \(9, 9, 3\)"),
        (PLANE, {"photometric": "miniswhite"}, "expected black as zero, found an inverted image"),
    ],
)
def test_wrong_pixels(tmp_path: Path, pixels: Any, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(TileReadError, match=message):
        read_header(path)
    with pytest.raises(TileReadError, match=message):
        read_plane(path)


def test_a_colour_png_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(TileReadError, match=r"expected one grey plane .* found RGB pixels"):
        read_header(tmp_path / "a.png")


def test_a_missing_strip_is_not_read_as_background(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts = tif.pages[0].tags["StripByteCounts"]
        counts.overwrite((*counts.value[:2], 0, *counts.value[3:]))
    with pytest.raises(TileReadError, match="a strip or tile of pixels is missing"):
        read_plane(path)


def test_too_few_strips_are_not_read_as_noise(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compression="zlib", rowsperstrip=10)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["ImageLength"].overwrite(90)
    with pytest.raises(TileReadError, match="expected 9 strips of pixels, found 5"):
        read_plane(path)


def test_damaged_pixels_are_told_when_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compression="zlib")
    content = bytearray(path.read_bytes())
    content[-200:-100] = bytes(100)
    path.write_bytes(content)
    assert read_header(path).height == 50
    with pytest.raises(TileReadError, match=r"damaged TIFF \(DeflateError"):
        read_plane(path)


def test_an_imagej_stack_behind_one_directory_is_refused(tmp_path: Path) -> None:
    stack = np.zeros((4, 9, 9), np.uint16)
    path = write(tmp_path / "a.tif", stack, imagej=True)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.filehandle.seek(tif.pages[0].offset + 2 + 12 * len(tif.pages[0].tags))
        tif.filehandle.write(bytes(4))
    with pytest.raises(TileReadError, match="found an ImageJ stack of 4"):
        read_header(path)


def test_labels_may_be_any_integer(tmp_path: Path) -> None:
    for dtype in ("bool", "uint8", "int32", "uint32"):
        labels, digest = read_labels(write(tmp_path / f"{dtype}.tif", (PLANE % 2).astype(dtype)))
        assert labels.dtype == dtype
        assert len(digest) == 64
    with pytest.raises(TileReadError, match="wrong dtype: expected bool or uint8"):
        read_labels(write(tmp_path / "f.tif", PLANE.astype(np.float64)))


def test_a_missing_file_is_a_tile_read_error(tmp_path: Path) -> None:
    with pytest.raises(TileReadError, match=r"none\.tif: unreadable: No such file"):
        read_plane(tmp_path / "none.tif")


def test_urls_are_read_like_paths(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    path = write(tmp_path / "a.tif")
    fsspec.filesystem("memory").pipe_file("/readers/a.tif", path.read_bytes())
    np.testing.assert_array_equal(read_plane("memory://readers/a.tif"), PLANE)
    assert read_header("memory://readers/a.tif").width == 70


def _encoded(**options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, PLANE, **options)
    return file.getvalue()


ENCODED = [
    _encoded(),
    _encoded(compression="zlib", rowsperstrip=10),
    _encoded(compression="lzw", tile=(16, 16)),
]


@given(
    content=st.sampled_from(ENCODED),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    keep=st.floats(0, 1),
)
def test_damage_gives_pixels_or_a_plain_reason_and_nothing_else(
    content: bytes, changes: list[tuple[float, int]], keep: float
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        # Headers lie in the first bytes here: that is where a change does most harm.
        damaged[int(place * 400)] = value
    cut = bytes(damaged[: max(1, int(keep * len(damaged)))]) if keep < 0.9 else bytes(damaged)
    with contextlib.suppress(TileReadError):
        header = tiff.tiff_header(io.BytesIO(cut), page=None, dtypes=("uint8", "uint16"))
        if header.height * header.width < 10**7:
            plane = tiff.tiff_plane(io.BytesIO(cut), page=0, dtypes=("uint8", "uint16"))
            assert plane.shape == (header.height, header.width)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".mrc"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_what_stands_in_the_place_of_an_image_is_named(tmp_path: Path, suffix: str, content: bytes, what: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(TileReadError, match=f"unreadable: {what}"):
        read_header(tmp_path / f"a{suffix}")


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.sampled_from("<>"), st.binary(max_size=9),
)  # fmt: skip
def test_pixels_that_are_stored_as_they_are_are_those_that_were_saved(
    pixels: np.ndarray, order: Any, description: bytes
) -> None:
    """They are a view of the file's bytes, wherever in it they begin."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, byteorder=order, photometric="minisblack", description=description)
    found = tiff.tiff_plane(read_contents(io.BytesIO(file.getvalue())), page=None, dtypes=("uint8", "uint16"))
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == pixels.dtype


def test_what_is_stored_as_it_is_is_not_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 2**16, (30, 20), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with mock.patch.object(tifffile.TiffPage, "asarray", side_effect=AssertionError):
        np.testing.assert_array_equal(read_plane(tmp_path / "a.tif"), pixels)


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end() -> None:
    class Growing(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            return 4 if whence == os.SEEK_END else super().seek(offset, whence)

    assert read_contents(Growing(b"0123456789")).content.tobytes() == b"0123456789"


def test_signed_numbers_that_imagej_stores_higher_are_no_counts(tmp_path: Path) -> None:
    signed = {"cf": 0, "c0": -32768.0, "c1": 1.0}
    path = write(tmp_path / "a.tif", PLANE, imagej=True, metadata=signed)
    with pytest.raises(TileReadError, match="signed ones that ImageJ has stored 32768 higher"):
        read_plane(path)
    assert read_header(path, dtypes=("uint16", "int16")).dtype == "uint16"
    np.testing.assert_array_equal(read_plane(write(tmp_path / "b.tif", PLANE, imagej=True)), PLANE)


def test_luminance_and_chroma_are_no_colours_unless_jpeg_turns_them_back(tmp_path: Path) -> None:
    colours = RNG.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    raw = write(tmp_path / "a.tif", colours, photometric="ycbcr")
    with pytest.raises(TileReadError, match="luminance and chroma"):
        read_header(raw, channels=True, dtypes=("uint8",))
    jpeg = write(tmp_path / "b.tif", np.full_like(colours, (200, 40, 90)), photometric="rgb", compression="jpeg")
    assert read_header(jpeg, channels=True, dtypes=("uint8",)).is_colour
