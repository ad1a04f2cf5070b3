"""Scan: which files become tiles, which are left out and why, and what is never opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.raw import scan as scan_module
from fintune_xr.store.raw import sources
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.pairing import natural_key
from fintune_xr.store.raw.scan import Scan, check_sizes, left_out_table, scan, scan_table

ROSMAP = choose_layout("rosmap")


def write(root: Path, path: str, shape: tuple[int, ...] = (12, 16), dtype: str = "uint16", **options: Any) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path))
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(file, np.random.default_rng(seed).integers(1, 200, shape).astype(dtype), **options)
    return file


def pair(root: Path, tile: str, **options: Any) -> None:
    for channel in (0, 1):
        write(root, f"{tile}_b0c{channel}.tif", **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for tile in ("d2/GFAP/t1", "d2/GFAP/t10", "d2/GFAP/t9", "d10/IBA1/t1", "d10/GFAP/t1"):
        pair(tmp_path, tile)
        (tmp_path / f"{tile}_b0c0_metadata.xml").write_text("<meta/>")
    return tmp_path


def reasons(found: Scan) -> dict[str, str]:
    return {item.path: item.reason for item in found.left_out}


def test_tiles_come_in_natural_order_with_planes_in_channel_order(folder: Path) -> None:
    found = scan(folder, ROSMAP)
    assert [tile.tile for tile in found.tiles] == [
        "d2/GFAP/t1", "d2/GFAP/t9", "d2/GFAP/t10", "d10/GFAP/t1", "d10/IBA1/t1",
    ]  # fmt: skip
    first = found.tiles[0]
    assert [plane.path for plane in first.planes] == ["d2/GFAP/t1_b0c0.tif", "d2/GFAP/t1_b0c1.tif"]
    assert (first.donor, first.marker, first.dtype) == ("d2", "GFAP", "uint16")
    assert (first.height, first.width) == (12, 16)
    assert found.left_out == ()
    assert found.ignored == {".xml": 5}


def test_the_result_does_not_depend_on_the_number_of_workers(folder: Path) -> None:
    assert scan(folder, ROSMAP, workers=1) == scan(folder, ROSMAP, workers=7)


def test_progress_comes_to_all_files_however_many_are_handed_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tile in range(11):
        pair(tmp_path, f"d/GFAP/t{tile}")
    monkeypatch.setattr(scan_module, "_ROUNDS", 1)
    calls: list[tuple[int, int]] = []
    found = scan(tmp_path, ROSMAP, workers=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(7, 22), (14, 22), (21, 22), (22, 22)]
    assert [tile.tile for tile in found.tiles] == [f"d/GFAP/t{tile}" for tile in range(11)]


def test_of_files_that_say_what_they_are_tifffile_looks_for_no_series(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tifffile.TiffFile, "series", property(lambda _: pytest.fail("all series were looked for")))
    assert len(scan(folder, ROSMAP).tiles) == 5


def test_only_files_that_fit_are_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "d2/GFAP/overview.tif")
    write(folder, "d2/GFAP/t1_b0c1_masks.tif")
    write(folder, "d2/GFAP/t1_b0c2.tif")
    opened: list[str] = []
    open_path = Path.open

    def recorded(self: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(self.name)
        return open_path(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", recorded)
    found = scan(folder, ROSMAP)
    assert len(opened) == 10
    assert all(name.endswith(("_b0c0.tif", "_b0c1.tif")) for name in opened)
    assert found.ignored == {
        ".xml": 5, "channel '2', not in the layout": 1, "image whose name does not fit the layout": 1,
        "mask or other product of segmentation": 1,
    }  # fmt: skip


def test_everything_that_can_be_wrong_with_a_tile_is_left_out_with_its_reason(folder: Path) -> None:
    write(folder, "d3/GFAP/alone_b0c0.tif")
    pair(folder, "d3/GFAP/cut")
    cut = folder / "d3/GFAP/cut_b0c1.tif"
    cut.write_bytes(cut.read_bytes()[:-50])
    pair(folder, "d3/GFAP/empty")
    (folder / "d3/GFAP/empty_b0c0.tif").write_bytes(b"")
    pair(folder, "d3/GFAP/text")
    (folder / "d3/GFAP/text_b0c1.tif").write_text("<?xml version='1.0'?>")
    pair(folder, "d3/GFAP/twice")
    write(folder, "d3/GFAP/twice_b0c1.tiff")
    write(folder, "d3/GFAP/shape_b0c0.tif")
    write(folder, "d3/GFAP/shape_b0c1.tif", (12, 17))
    pair(folder, "d3/GFAP/dtype", dtype="uint8")
    pair(folder, "d3/GFAP/float", dtype="float32")
    write(folder, "d3/GFAP/pages_b0c0.tif")
    write(folder, "d3/GFAP/pages_b0c1.tif", (3, 12, 16))
    write(folder, "d3/GFAP/rgb_b0c0.tif")
    write(folder, "d3/GFAP/rgb_b0c1.tif", (12, 16, 3), "uint8", photometric="rgb")
    found = scan(folder, ROSMAP)
    expected = {
        "alone_b0c0.tif": "unpaired: no file for channel marker",
        "cut_b0c1.tif": "truncated: expected",
        "empty_b0c0.tif": "zero bytes",
        "text_b0c1.tif": "unreadable: expected a TIFF",
        "twice_b0c1.tiff": "duplicate: same tile and channel as d3/GFAP/twice_b0c1.tif",
        "shape_b0c1.tif": "wrong shape: expected 12 x 16 as in d3/GFAP/shape_b0c0.tif, found 12 x 17",
        "dtype_b0c0.tif": "wrong dtype: expected uint16, found uint8",
        "float_b0c0.tif": "wrong dtype: expected uint8 or uint16, found float32",
        "pages_b0c1.tif": "wrong shape: expected one plane, found 3 pages",
        "rgb_b0c1.tif": "wrong shape: expected one grey plane",
    }
    found_reasons = reasons(found)
    assert sorted(found_reasons) == sorted(f"d3/GFAP/{name}" for name in expected)
    for name, reason in expected.items():
        assert found_reasons[f"d3/GFAP/{name}"].startswith(reason)
    assert {item.donor for item in found.left_out} == {"d3"}
    assert len(found.tiles) == 5


def test_a_tile_with_two_faults_is_one_item_with_both(folder: Path) -> None:
    pair(folder, "d3/GFAP/bad", dtype="float32")
    (item,) = scan(folder, ROSMAP).left_out
    assert item.tile == "d3/GFAP/bad"
    assert item.reason.count("float32") == 2
    assert "(d3/GFAP/bad_b0c1.tif)" in item.reason


def test_the_dtype_may_be_told(folder: Path) -> None:
    found = scan(folder, ROSMAP, dtype="uint8")
    assert found.tiles == ()
    assert found.dtype == ""
    assert len(found.left_out) == 5
    assert all(item.reason.startswith("wrong dtype: expected uint8, found uint16") for item in found.left_out)


def test_a_few_strays_are_left_out_and_mixed_sizes_are_refused(tmp_path: Path) -> None:
    for tile in range(40):
        pair(tmp_path, f"d1/GFAP/t{tile}")
    pair(tmp_path, "d1/GFAP/thumbnail", shape=(4, 4))
    found = check_sizes(scan(tmp_path, ROSMAP))
    assert reasons(found) == {
        "d1/GFAP/thumbnail_b0c0.tif": "wrong shape: expected within a factor of 2 of 12 x 16, found 4 x 4"
    }
    for tile in range(10):
        pair(tmp_path, f"d2/GFAP/t{tile}", shape=(12, 33))
    mixed = scan(tmp_path, ROSMAP)
    assert mixed.left_out == ()
    with pytest.raises(FintuneValueError, match=r"(?s)12 x 16: 40 .*12 x 33: 10 .*one store per size"):
        check_sizes(mixed)


def test_sizes_within_a_factor_of_two_are_fine(tmp_path: Path) -> None:
    pair(tmp_path, "d1/GFAP/a", shape=(10, 10))
    pair(tmp_path, "d1/GFAP/b", shape=(20, 13))
    assert len(check_sizes(scan(tmp_path, ROSMAP)).tiles) == 2


def test_the_table_counts_tiles_and_left_out_per_donor_and_marker(folder: Path) -> None:
    write(folder, "d2/IBA1/alone_b0c0.tif")
    found = scan(folder, ROSMAP)
    table = scan_table(found)
    assert table[["donor", "marker", "tiles", "left_out"]].to_numpy().tolist() == [
        ["d2", "GFAP", 3, 0], ["d2", "IBA1", 0, 1], ["d10", "GFAP", 1, 0], ["d10", "IBA1", 1, 0],
    ]  # fmt: skip
    assert left_out_table(found)["path"].tolist() == ["d2/IBA1/alone_b0c0.tif"]


def test_a_folder_without_fitting_names_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c.tif")
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(FintuneValueError, match=r"fits layout 'rosmap'.*1 \.csv, 1 image whose"):
        scan(tmp_path, ROSMAP)
    with pytest.raises(FintuneValueError, match="expected a folder of images, found none"):
        scan(tmp_path / "none", ROSMAP)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    pair(tmp_path / "elsewhere", "GFAP/t")
    source = tmp_path / "source"
    source.mkdir()
    (source / "d1").symlink_to(tmp_path / "elsewhere")
    (source / "loop").symlink_to(source)
    (source / "broken_b0c0.tif").symlink_to(tmp_path / "gone")
    (source / "d2" / "GFAP").mkdir(parents=True)
    (source / "d2" / "GFAP" / "x_b0c0.tif").symlink_to(tmp_path / "gone.tif")
    found = scan(source, ROSMAP)
    assert [tile.tile for tile in found.tiles] == ["d1/GFAP/t"]
    assert "No such file" in reasons(found)["d2/GFAP/x_b0c0.tif"]


@pytest.mark.skipif(os.name == "nt", reason="file names are text on Windows")
def test_odd_file_names(tmp_path: Path) -> None:
    pair(tmp_path, "d ü\n1/GFAP/[t] #%20")
    odd = tmp_path / "d2" / "GFAP" / os.fsdecode(b"t\xff_b0c0.tif")
    odd.parent.mkdir(parents=True)
    try:
        odd.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = scan(tmp_path, ROSMAP)
    assert [tile.tile for tile in found.tiles] == ["d ü\n1/GFAP/[t] #%20"]
    assert "file name: expected UTF-8" in reasons(found)["d2/GFAP/t\\xff_b0c0.tif"]


def test_pages_become_tiles(tmp_path: Path) -> None:
    write(tmp_path, "MAX_pg6-3CF1_20--t1-3.tif", (3, 8, 8), "uint8")
    write(tmp_path, "MAX_pg6-3CF1_20--t1-3-labelMasks.tif", (3, 8, 8))
    found = scan(tmp_path, choose_layout("microglia"))
    assert [(tile.tile, str(tile.planes[0])) for tile in found.tiles] == [
        (f"pg6/microglia/MAX_pg6-3CF1_20--t1-3_p{page}", f"MAX_pg6-3CF1_20--t1-3.tif#{page}") for page in range(3)
    ]


@pytest.mark.parametrize(
    ("layout", "folder", "expected"),
    [
        ("deepflash", "deepflash-hippocampus", ["00/Parv/00", "01/Parv/01", "02/Parv/02"]),
        ("cellfinder", "cellfinder-brain", [f"brain/unknown/{plane:04}" for plane in range(10, 20)]),
    ],
)
def test_real_two_channel_folders(real_data: Path, layout: str, folder: str, expected: list[str]) -> None:
    found = check_sizes(scan(real_data / folder, choose_layout(layout)))
    assert [tile.tile for tile in found.tiles] == expected
    assert found.left_out == ()


def test_real_single_channel_folders(real_data: Path) -> None:
    frames = check_sizes(scan(real_data / "microglia-morphometry", choose_layout("microglia")))
    assert [tile.donor for tile in frames.tiles] == ["pg6", "pg6", "pg6", "pg22"]
    nuclei = scan(real_data / "dsb2018-fluo", choose_layout("dsb2018"))
    assert len(nuclei.tiles) == 11
    with pytest.raises(FintuneValueError, match="1040 x 1388: 1 tile"):
        check_sizes(nuclei)


def test_a_source_behind_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    pair(tmp_path, "d1/GFAP/t")
    memory = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.tif"):
        memory.pipe_file(f"/cohort/{path.relative_to(tmp_path)}", path.read_bytes())
    assert [tile.tile for tile in scan("memory://cohort", ROSMAP).tiles] == ["d1/GFAP/t"]
    with pytest.raises(FintuneValueError, match="found nothing"):
        sources.list_files("memory://nowhere")


@given(st.lists(st.text(max_size=8), max_size=6))
def test_natural_order_is_total(texts: list[str]) -> None:
    backwards = texts[::-1]
    assert sorted(texts, key=natural_key) == sorted(backwards, key=natural_key)
    assert len({natural_key(text) for text in texts}) == len(set(texts))


def test_channels_that_nobody_named_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "d1/GFAP/t1_DAPI.tif")
    pattern = r"(?P<donor>[^/]+)/(?P<marker>[^/]+)/(?P<tile>[^/]+)_(?P<channel>DAPI)\.tif"
    with pytest.raises(FintuneValueError, match=r"1 channel 'DAPI', not in the layout.*--channels"):
        scan(tmp_path, choose_layout("custom", pattern=pattern))
