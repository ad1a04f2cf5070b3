"""Masks in every way that people save nine cells: nine instances, or a reason; never one that is not there."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.errors import TileReadError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.annotations.instance_labels import as_instances, refuse_whole_tile
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.readers import read_colours, read_header, read_labels, read_mask, read_plane

PX = 64


def cells(radius: int = 6) -> Any:
    y, x = np.mgrid[:PX, :PX]
    found = np.zeros((PX, PX), np.uint16)
    for k in range(9):
        found[(y - 12 - 20 * (k // 3)) ** 2 + (x - 12 - 20 * (k % 3)) ** 2 <= radius**2] = k + 1
    return found


RIGHT = cells()
ON = RIGHT > 0
INNER = cells(4) > 0


@given(st.integers(1, 65535))
def test_a_binary_mask_of_any_value_is_cut_up(value: int) -> None:
    found, is_cut = as_instances(ON * np.uint16(value))
    assert (is_cut, np.unique(found).size) == (True, 10)


@pytest.mark.parametrize("values", [(1, 2), (64, 192), (5, 9)])
def test_the_lower_of_two_values_is_the_background(values: tuple[int, int]) -> None:
    found, _ = as_instances(np.where(ON, values[1], values[0]))
    assert np.unique(found).size == 10
    with pytest.raises(TileReadError, match="which one is the background"):
        as_instances(np.where(ON, values[0], values[1]))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.where(ON, 1 + RIGHT % 2, 0), "2 of 2 labels consist of several pieces, up to 5"),
        (ON.astype(int) + (ON & ~INNER), "labels in pieces: 2 of 2"),
        (np.where(ON, (RIGHT - 1) % 8 + 1, 0), "labels in pieces: 1 of 8 labels consist of several pieces, up to 2"),
        ((ON & ~INNER) * 255, "outlines"),
        (RIGHT * (ON & ~(cells(5) > 0)), "outlines"),
        (~ON * 255, "inverted mask"),
    ],
)
def test_what_is_no_mask_of_instances_is_found_at_one_look(labels: Any, reason: str) -> None:
    with pytest.raises(TileReadError, match=reason):
        as_instances(np.asarray(labels))


def test_labels_in_pieces_are_kept_or_split_when_asked() -> None:
    shared = np.where(ON, (RIGHT - 1) % 3 + 1, 0)
    np.testing.assert_array_equal(as_instances(shared, "keep")[0], shared)
    assert np.unique(as_instances(shared, "split")[0]).size == 10
    np.testing.assert_array_equal(as_instances(ON * 255, "keep")[0], ON * 255)


def test_labels_within_labels_are_asked_about() -> None:
    y, x = np.mgrid[:PX, :PX]
    fall = np.clip(20 - np.hypot(y - 30, x - 30), 0, None).round().astype(int)
    nuclei = np.where(INNER, RIGHT + 9, RIGHT)
    for nested, count in ((fall, "19 of 20"), (np.minimum(fall, 2), "1 of 2"), (nuclei, "9 of 18")):
        with pytest.raises(TileReadError, match=f"nested labels: {count} labels lie wholly within one other"):
            as_instances(nested)
        np.testing.assert_array_equal(as_instances(nested, "keep")[0], nested)
    # Cells that touch each other, fill the tile, or of which a few lie in a hole of another are none of that.
    for plain in (x // 8 + 8 * (y // 8) + 1, np.where(x < 40, 1, 2) * (y > 9), np.where(nuclei > 13, RIGHT, nuclei)):
        np.testing.assert_array_equal(as_instances(np.asarray(plain))[0], plain)


def test_a_stray_pixel_is_no_piece() -> None:
    stray = RIGHT.copy()
    stray[0, 0] = 9
    np.testing.assert_array_equal(as_instances(stray)[0], stray)


def saved(path: Path, image: Image.Image, **how: Any) -> Path:
    image.save(path, **how)
    return path


def with_palette(numbers: Any, colours: list[int]) -> Image.Image:
    image = Image.fromarray(numbers.astype(np.uint8)).convert("P")
    image.putpalette(colours)
    return image


VOC = [v for k in range(10) for v in (0, 20 * k, 255 * (k > 0))]


def stack(*planes: Any) -> Any:
    return np.stack([np.broadcast_to(plane, (PX, PX)) for plane in planes], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palettes_are_applied_or_numbers(tmp_path: Path, suffix: str) -> None:
    white_first = read_mask(saved(tmp_path / f"w.{suffix}", with_palette(~ON, [255] * 3 + [0] * 3)))[0]
    np.testing.assert_array_equal(white_first > 0, ON)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / f"v.{suffix}", with_palette(RIGHT, VOC)))[0], RIGHT)
    with pytest.raises(TileReadError, match="draws number 0 in colour"):
        read_mask(saved(tmp_path / f"c.{suffix}", with_palette(~ON, [250, 10, 0, 0, 0, 0])))


def test_grey_in_colours_polarity_and_floats(tmp_path: Path) -> None:
    for k, planes in enumerate([(RIGHT, 0, 0, 255), (RIGHT, RIGHT, RIGHT), (RIGHT, RIGHT, RIGHT, 255), (RIGHT, 255)]):
        path = saved(tmp_path / f"{k}.png", Image.fromarray(stack(*planes)))
        np.testing.assert_array_equal(read_mask(path)[0], RIGHT)
    tifffile.imwrite(tmp_path / "w.tif", ~ON, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(tmp_path / "w.tif")[0], ON)
    tifffile.imwrite(tmp_path / "rgba.tif", stack(RIGHT, 0, 0, 255), photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_mask(tmp_path / "rgba.tif")[0], RIGHT)
    for dtype in (np.float32, np.float64):
        tifffile.imwrite(tmp_path / "f.tif", RIGHT.astype(dtype))
        np.testing.assert_array_equal(read_mask(tmp_path / "f.tif")[0], RIGHT)
    tifffile.imwrite(tmp_path / "i.tif", ndimage.zoom(cells().astype(np.float32), 1.1, order=1))
    with pytest.raises(TileReadError, match="interpolated mask"):
        read_mask(tmp_path / "i.tif")
    tifffile.imwrite(tmp_path / "s.tif", (RIGHT / 255).astype(np.float32))
    with pytest.raises(TileReadError, match="scaled mask: all values lie between 0 and 1"):
        read_mask(tmp_path / "s.tif")
    with pytest.raises(TileReadError, match="3 colours that differ"):
        read_mask(saved(tmp_path / "d.png", Image.fromarray(stack(RIGHT, 20 * ON, 0))))
    tifffile.imwrite(tmp_path / "j.tif", (RIGHT * 25).astype(np.uint8), compression="jpeg")
    with pytest.raises(TileReadError, match="lossy mask"):
        read_mask(tmp_path / "j.tif")


def grey_png(path: Path, bits: int, numbers: Any) -> Path:
    """A PNG of `bits` a pixel, as the specification has it, whatever Pillow writes."""
    rows = [np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel() for row in numbers]
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", *numbers.shape[::-1], bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_labels_of_few_bits_are_what_the_file_says(tmp_path: Path, bits: int) -> None:
    labels = np.where(2**bits > RIGHT, RIGHT, 0)
    for read in (read_mask, read_labels):
        np.testing.assert_array_equal(read(grey_png(tmp_path / "m.png", bits, labels))[0], labels)


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("kept", [(1, 2, 3), (1, 2, 7), (1, 3, 5)])
def test_labels_that_were_stretched_are_called_so(top: int, kept: tuple[int, ...]) -> None:
    stretched = np.round(np.where(np.isin(RIGHT, kept), RIGHT, 0) * (top / kept[-1])).astype(int)
    with pytest.raises(TileReadError, match=f"stretched labels.* {top} / {kept[-1]}, as"):
        as_instances(stretched)
    with pytest.raises(TileReadError, match="stands far above"):
        as_instances(np.where(RIGHT == 9, top, RIGHT))


@pytest.mark.parametrize("form", ["imagej", "shaped"])
def test_stacks_behind_one_directory_are_no_plane(tmp_path: Path, form: str) -> None:
    for name, pixels in (("m", np.stack([RIGHT] * 5)), ("c", np.zeros((5, PX, PX, 3), np.uint8))):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, truncate=True, imagej=form == "imagej")
    for read, name in ((read_mask, "m"), (read_plane, "m"), (read_header, "m"), (read_colours, "c")):
        with pytest.raises(TileReadError, match=r"ImageJ stack of 5|5 x 64 x 64.* directory of one page"):
            read(tmp_path / f"{name}.tif")
    tifffile.imwrite(tmp_path / "whole.tif", RIGHT[None], truncate=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "whole.tif")[0], RIGHT)


def test_a_refusal_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RIGHT, metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        tag = tif.pages[0].tags["Software"]  # type: ignore[union-attr]
    # Of a kind that no program knows: tifffile leaves it out and says so, and the pixels are read.
    (tmp_path / "odd.tif").write_bytes(content[: tag.offset + 2] + b"\x63" + content[tag.offset + 3 :])
    with pytest.raises(TileReadError, match="truncated"):
        read_mask(tmp_path / "cut.tif")
    assert not caplog.records
    np.testing.assert_array_equal(read_mask(tmp_path / "odd.tif")[0], RIGHT)
    assert {record.name for record in caplog.records} == {"tifffile"}


SEEN = np.random.default_rng(3).integers(0, 255, (20, 30)).astype(np.uint8)
# What lies in the file where the picture is SEEN, by Exif's number of the orientation.
STORED = {
    1: SEEN, 2: SEEN[:, ::-1], 3: SEEN[::-1, ::-1], 4: SEEN[::-1], 5: SEEN.T, 6: np.rot90(SEEN),
    7: SEEN[::-1, ::-1].T, 8: np.rot90(SEEN, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_and_masks_are_turned_as_their_files_say(tmp_path: Path, orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation])
    tag = Image.Exif()
    tag[274] = orientation
    png = saved(tmp_path / "a.png", Image.fromarray(stored), exif=tag)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[(274, 3, 1, orientation, True)], metadata=None)
    for path in (png, tmp_path / "a.tif"):
        assert read_header(path).shape == SEEN.shape
        np.testing.assert_array_equal(read_plane(path), SEEN)
        np.testing.assert_array_equal(read_mask(path)[0], SEEN)


def test_palettes_and_opacity_are_no_counts(tmp_path: Path) -> None:
    grey = np.repeat(SEEN[..., None], 3, 2)
    web = saved(tmp_path / "web.png", Image.fromarray(grey // 3 * 2).quantize(16))
    np.testing.assert_allclose(read_plane(web), SEEN // 3 * 2, atol=16)
    linear = with_palette(SEEN, [v for k in range(256) for v in (0, k, 0)])
    np.testing.assert_array_equal(read_plane(saved(tmp_path / "lut.png", linear)), SEEN)
    with pytest.raises(TileReadError, match="palette: its numbers name colours"):
        read_plane(saved(tmp_path / "c.png", with_palette(SEEN, [v for k in range(256) for v in (k, 255 - k, 0)])))
    tifffile.imwrite(tmp_path / "la.tif", stack(RIGHT, 255), planarconfig="contig", extrasamples=["unassalpha"])
    with pytest.raises(TileReadError, match="alpha"):
        read_header(tmp_path / "la.tif", channels=True)


def published(root: Path, *, overlap: bool = False) -> Path:
    """A tile as DSB2018 publishes it: an RGBA image, and a file for each nucleus."""
    grey = (100 * ON + 20).astype(np.uint8)
    for folder in ("images", "masks"):
        (root / "stem1" / folder).mkdir(parents=True)
    Image.fromarray(stack(grey, grey, grey, 255)).save(root / "stem1/images/stem1.png")
    for k in range(1, 10):
        one = (k == RIGHT) | (overlap & (RIGHT == 1))
        Image.fromarray(one.astype(np.uint8) * 255).save(root / f"stem1/masks/{k}.png")
    return root


def test_one_file_for_each_nucleus_is_one_mask(tmp_path: Path) -> None:
    source = published(tmp_path / "raw")
    ingest(source, tmp_path / "c.zarr", layout="dsb2018")
    cohort = open_cohort(tmp_path / "c.zarr")
    np.testing.assert_array_equal(cohort.images()[n.IMAGE].values[0, 0], 100 * ON + 20)
    report = annotate(source, tmp_path / "c.zarr", layout="dsb2018")
    assert (report.n_added, report.left_out) == (1, ())
    np.testing.assert_array_equal(cohort.annotations()[n.MASK].values[0], RIGHT)
    assert annotate(source, tmp_path / "c.zarr", layout="dsb2018").n_present == 1


def test_without_joining_there_is_no_truth_and_overlaps_are_refused(tmp_path: Path) -> None:
    source = published(tmp_path / "raw", overlap=True)
    ingest(source, tmp_path / "c.zarr", layout="dsb2018")
    pattern = r"(?P<tile>(?P<donor>[^/]+))/masks/[^/]+\.png"
    report = annotate(source, tmp_path / "c.zarr", pattern=pattern)
    assert (report.n_added, len(report.left_out)) == (0, 9)
    assert "--join" in report.left_out[0].reason
    joined = annotate(source, tmp_path / "c.zarr", pattern=pattern, join=True)
    assert joined.n_added == 0
    assert joined.left_out[0].reason.startswith("overlap:")


def test_a_pattern_does_not_rename_the_channel_of_its_layout() -> None:
    assert list(choose_layout("dsb2018", pattern=r"(?P<tile>(?P<donor>[^/]+))\.tif").channels.values()) == ["nuclei"]


def test_a_value_far_above_all_labels_is_asked_about() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[5:9, 5:9], labels[20:26, 20:26], labels[:2] = 1, 2, 255
    with pytest.raises(TileReadError, match="255 stands far above the other labels, 1 to 2"):
        as_instances(labels)
    assert set(np.unique(as_instances(labels, "keep")[0])) == {0, 1, 2, 255}
    close = np.where(labels == 255, 3, labels)
    assert set(np.unique(as_instances(close)[0])) == {0, 1, 2, 3}


def test_a_mask_that_is_one_value_everywhere_is_asked_about() -> None:
    for value in (1, 7, 255):
        full = np.full((40, 40), value, np.uint32)
        with pytest.raises(TileReadError, match=r"whole tile: .* found object \d+ on 100% of the tile"):
            refuse_whole_tile(as_instances(full)[0])
    beside = np.ones((40, 40), np.uint32)
    beside[:3] = 0
    refuse_whole_tile(beside)
    refuse_whole_tile(beside * 0)


def test_what_lies_round_all_cells_is_asked_about() -> None:
    """A frame, or the background of a watershed whose lines are 0, whatever its number is."""
    cells = np.zeros((40, 40), np.uint16)
    cells[5:9, 5:9], cells[20:26, 20:26] = 2, 3
    frame = np.pad(np.zeros((36, 36), bool), 2, constant_values=True)
    apart = ndimage.binary_dilation(cells > 0) == (cells > 0)
    for number in (1, 4, 50):
        for around in (frame, apart & (cells == 0)):
            labels = np.where(around, number, cells)
            with pytest.raises(TileReadError, match=rf"label {number} lies along \d+% of the border, at all"):
                as_instances(labels)
            np.testing.assert_array_equal(as_instances(labels, "keep")[0], labels)
        full = np.where(cells == 0, number, cells + 50)
        with pytest.raises(TileReadError, match=f"no pixel is 0, and label {number} lies along the border"):
            as_instances(full)
    with pytest.raises(TileReadError, match="at all four sides"):
        as_instances((frame | (cells > 0)).astype(np.uint8) * 255)
    three_sides = np.where(frame, 4, cells)
    three_sides[:, :2] = 0
    np.testing.assert_array_equal(as_instances(three_sides)[0], three_sides)


def test_a_mask_without_background_is_asked_about() -> None:
    labels = np.ones((40, 40), np.uint16)
    labels[5:9, 5:9], labels[20:26, 20:26] = 2, 3
    for pieces in (None, "keep", "split"):
        with pytest.raises(TileReadError, match="no pixel is 0, and label 1 lies along the border"):
            as_instances(labels, pieces)  # type: ignore[arg-type]
    every = np.arange(1, 1601, dtype=np.uint32).reshape(40, 40)
    np.testing.assert_array_equal(as_instances(every)[0], every)
