"""Micrographs from files into the store: what an MRC says, which way up it is, and pixels joined."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from em_files import picture, write_mrc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.io import imread

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.pipelines.steps.ingest import ingest, plan_ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.binning import bin_plane, in_larger_pixels
from fintune_xr.store.raw.readers import MICROGRAPH_DTYPES, read_header, read_plane

MODES = ["int8", "int16", "uint16", "float16", "float32"]


def read(path: Path) -> np.ndarray:
    """One micrograph, as an EM cohort reads it."""
    return read_plane(path, dtypes=MICROGRAPH_DTYPES)


@pytest.mark.parametrize("dtype", MODES)
def test_every_mode_comes_back_with_its_rows_turned(tmp_path: Path, dtype: str) -> None:
    pixels = np.random.default_rng(1).integers(-120 if dtype != "uint16" else 0, 120, (21, 34)).astype(dtype)
    path = write_mrc(tmp_path / "a.mrc", pixels)
    header = read_header(path, dtypes=MICROGRAPH_DTYPES)
    assert (header.height, header.width, header.dtype, header.pages) == (21, 34, dtype, 1)
    found = read(path)
    assert found.dtype == np.dtype(dtype)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, pixels[::-1])
    np.testing.assert_array_equal(found[::-1], mrcfile.read(path))


def test_the_other_byte_order_and_an_extended_header(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    pixels = np.arange(12, dtype=">i2").reshape(3, 4)
    with mrcfile.new(path) as file:
        file.set_data(pixels)
        file.set_extended_header(np.zeros(7, "V80"))
    assert path.read_bytes()[208:216] == b"MAP \x11\x11\x00\x00"
    np.testing.assert_array_equal(read(path), pixels[::-1])


def damaged(path: Path, *, at: int, value: int) -> Path:
    """The file with one word of its header changed."""
    content = bytearray(path.read_bytes())
    content[at : at + 4] = int(value).to_bytes(4, "little", signed=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, -5, "damaged MRC header: .10, -5, 1."),
        (0, 70_000, "wrong shape: expected 1 to|truncated: expected 2,801,024 bytes, found 1,824"),
        (0, 15, "the header of this MRC describes 1,624 bytes, found 1,824"),
        (4, 11, "truncated: expected 1,904 bytes, found 1,824"),
        (12, 4, "expected MRC mode 0, 1, 2, 6, 12, found mode 4"),
        (12, 101, "found mode 101"),
        (64, 3, "expected MRC axes columns, rows, sections"),
        (92, -1, "damaged MRC header"),
        (208, 0, "found no 'MAP' in the header"),
        (212, 0x77777777, "damaged MRC header .Unrecognised machine stamp"),
    ],
)
def test_a_damaged_header_is_told(tmp_path: Path, at: int, value: int, reason: str) -> None:
    path = damaged(write_mrc(tmp_path / "a.mrc", np.ones((10, 20), np.float32)), at=at, value=value)
    with pytest.raises(TileReadError, match=reason):
        read(path)


@pytest.mark.parametrize(("length", "reason"), [(0, "zero bytes"), (700, "1024 bytes of an MRC"), (1500, "truncated")])
def test_a_cut_file_is_told(tmp_path: Path, length: int, reason: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((10, 20), np.float32))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(TileReadError, match=reason):
        read_header(path, dtypes=MICROGRAPH_DTYPES)


def test_movies_and_numbers_that_are_none_are_quarantined(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    pixels = picture("a", (40, 48))
    write_mrc(source / "good.mrc", pixels)
    write_mrc(source / "movie.mrc", np.stack([pixels] * 3))
    holes = pixels.copy()
    holes[3, 4] = np.nan
    holes[5, 6:8] = np.inf
    write_mrc(source / "holes.mrc", holes)
    (source / "cut.mrc").write_bytes((source / "good.mrc").read_bytes()[:-100])
    report = ingest(source, tmp_path / "c.zarr", layout="micrographs")
    reasons = {item.path: item.reason for item in report.left_out}
    assert report.n_added == 1
    assert "found 3 pages" in reasons["movie.mrc"]
    assert "3 of 1,920 pixels are NaN or infinite" in reasons["holes.mrc"]
    assert "truncated" in reasons["cut.mrc"]


@given(st.integers(1, 9), st.integers(9, 40), st.integers(9, 40), st.sampled_from(["uint8", "int16", "float32"]))
def test_joined_pixels_are_means_of_whole_blocks(binning: int, height: int, width: int, dtype: str) -> None:
    plane = np.random.default_rng(height).integers(0, 200, (height, width)).astype(dtype)
    found = bin_plane(plane, binning)
    if binning == 1:
        assert found is plane
        return
    assert found.shape == (height // binning, width // binning)
    assert found.dtype == np.float32
    for y, x in np.ndindex(*found.shape):
        block = plane[y * binning : (y + 1) * binning, x * binning : (x + 1) * binning]
        assert found[y, x] == np.float32(block.astype(np.float64).mean())


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 30))
def test_a_coordinate_follows_its_pixel(binning: int, y: int, x: int) -> None:
    """The centre of mass of one block of bright pixels, before and after joining."""
    plane = np.zeros((31 * binning, 31 * binning), np.float32)
    plane[y * binning : (y + 1) * binning, x * binning : (x + 1) * binning] = 1
    before = np.argwhere(plane > 0).mean(axis=0)
    np.testing.assert_allclose(in_larger_pixels(before, binning), np.argwhere(bin_plane(plane, binning) > 0)[0])
    np.testing.assert_allclose(in_larger_pixels(in_larger_pixels(before, binning), 1 / binning), before)


@pytest.mark.parametrize("kind", ["mrc", "tif", "png", "jpg"])
def test_every_format_has_its_top_row_first(tmp_path: Path, kind: str) -> None:
    pixels = np.tile(np.arange(40, dtype=np.uint8)[:, None] * 5, (1, 48))
    path = tmp_path / f"a.{kind}"
    if kind == "mrc":
        write_mrc(path, pixels[::-1].astype(np.int16))
    elif kind == "tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path, **({"quality": 100} if kind == "jpg" else {}))
    np.testing.assert_allclose(read(path).astype(float), pixels, atol=2)


def test_a_cohort_of_micrographs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_mrc(tmp_path / f"raw/10017/micrographs/{name}.mrc", picture(name, (66, 77))[::-1])
    assert plan_ingest(tmp_path / "raw", layout="cryoppp").tiles["tiles"].tolist() == [2]
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="cryoppp", binning=4)
    cohort = open_cohort(tmp_path / "c.zarr")
    images = cohort.images(lazy=False)
    assert cohort.kind == "em"
    assert images[n.TILE].values.tolist() == ["10017/particles/a", "10017/particles/b"]
    assert images[n.CHANNEL].values.tolist() == ["micrograph"]
    assert images.attrs["binning"] == 4
    assert "row 0 is the top" in images.attrs["orientation"]
    assert images[n.SOURCE_HEIGHT].values.tolist() == [66, 66]
    assert images[n.SOURCE_WIDTH].values.tolist() == [77, 77]
    one = images.sel({n.TILE: "10017/particles/a"})[n.IMAGE].values[0]
    np.testing.assert_array_equal(one, bin_plane(picture("a", (66, 77)), 4))


def test_the_same_set_from_inside_and_formats_side_by_side(tmp_path: Path) -> None:
    write_mrc(tmp_path / "10017/micrographs/a.mrc", picture("a", (40, 44)))
    ingest(tmp_path / "10017", tmp_path / "c.zarr", layout="cryoppp")
    assert open_cohort(tmp_path / "c.zarr").images()[n.TILE].values.tolist() == ["set/particles/a"]
    write_mrc(tmp_path / "10017/micrographs/b.mrc", picture("b", (40, 44)).astype(np.int16))
    again = ingest(tmp_path / "10017", tmp_path / "c.zarr", layout="cryoppp")
    assert again.n_added == 0
    assert "wrong dtype" in again.left_out[0].reason


def test_int16_is_stored_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(-30_000, 30_000, (40, 44)).astype(np.int16)
    write_mrc(tmp_path / "raw/a.mrc", pixels)
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    stored = open_cohort(tmp_path / "c.zarr").images(lazy=False)[n.IMAGE]
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored.values[0, 0], pixels[::-1])


def test_binning_is_a_property_of_the_store(tmp_path: Path) -> None:
    write_mrc(tmp_path / "raw/a.mrc", picture("a", (40, 44)))
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs", binning=2)
    with pytest.raises(FintuneValueError, match="was made with --binning 2, asked for is 4"):
        ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs", binning=4)
    with pytest.raises(FintuneValueError, match="expected 1, 2, 3, …, got 0"):
        ingest(tmp_path / "raw", tmp_path / "d.zarr", layout="micrographs", binning=0)


def test_other_cohorts_keep_their_pixels(tmp_path: Path) -> None:
    (tmp_path / "raw/d").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "raw/d/a.tif", np.ones((40, 44), np.uint16))
    with pytest.raises(FintuneValueError, match="a cohort of kind 'if' holds pixels as they were counted"):
        ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="custom", binning=2)


def test_real_mrc_and_jpeg_are_the_same_picture(real_data: Path) -> None:
    folder = real_data / "cryosegnet-empiar10017"
    for path in sorted((folder / "mrc_binned4").glob("*.mrc")):
        from_mrc = read(path)
        from_jpeg = bin_plane(imread(folder / "images" / f"{path.stem}.jpg"), 4)
        assert from_mrc.dtype == np.int16
        np.testing.assert_array_equal(from_mrc, 16 * from_jpeg)
        assert not np.array_equal(from_mrc[::-1], 16 * from_jpeg)
