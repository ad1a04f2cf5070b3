"""Nothing is lost without a word, and nothing counts twice."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Table
from fintune_xr.analysis.report.sections.cohort import quarantine_section
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.report.extra_files import lines_by_verb
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.same_bytes import tiles_of_same_bytes, twin_lines
from fintune_xr.store.raw.extra_files import extra_lines
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.readers import read_header
from fintune_xr.store.raw.scan import scan


def tile(folder: Path, stem: str, seed: int, name: str = "{}_b0c{}.tif") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for c in (0, 1):
        pixels = np.random.default_rng(10 * seed + c).integers(0, 999, (24, 24)).astype(np.uint16)
        tifffile.imwrite(folder / name.format(stem, c), pixels)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for seed in (1, 2):
        tile(tmp_path / f"raw/d{seed}/GFAP", "t1", seed)
    return tmp_path / "raw"


@pytest.mark.parametrize("name", ["{}_B0C{}.tif", "{}-b0c{}.tif", "{}_ch{}.tif", "{}_b0c{}.png"])
def test_files_of_other_names_are_told_with_an_example(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    tile(raw / "d6/GFAP", "t1", 6, name)
    ingest(raw, tmp_path / "c.zarr")
    assert f"e.g. d6/GFAP/{name.format('t1', 0)}" in capsys.readouterr().err
    [lines] = open_cohort(tmp_path / "c.zarr").images(lazy=False).attrs["passed_over"].values()
    assert [line.startswith("passed over: 2 x") for line in lines] == [True]


@pytest.mark.parametrize(
    "place",
    [
        "d2/GFAP/._{}",
        "__MACOSX/d2/GFAP/{}",
        "d1/GFAP/.ipynb_checkpoints/{}",
        ".cache/d1/GFAP/{}",
        "d1/@eaDir/{}",
        "#recycle/d2/GFAP/{}",
        "~snapshot/d2/GFAP/{}",
        "d1/GFAP/~${}",
    ],
)
def test_hidden_files_are_companions(raw: Path, tmp_path: Path, place: str) -> None:
    for c in (0, 1):
        file = raw / place.format(f"t1_b0c{c}.tif")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\0\5\x16\7" + bytes(400))
    report = ingest(raw, tmp_path / "c.zarr")
    assert (report.n_added, report.left_out) == (2, ())


@pytest.mark.parametrize("how", [shutil.copy, lambda a, b: Path(b).symlink_to(a)])
def test_the_same_bytes_under_two_tiles_are_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: object
) -> None:
    (raw / "d3/GFAP").mkdir(parents=True)
    for c in (0, 1):
        how(raw / f"d1/GFAP/t1_b0c{c}.tif", raw / f"d3/GFAP/t1 copy_b0c{c}.tif")  # type: ignore[operator]
    ingest(raw, tmp_path / "c.zarr")
    assert "the same image under 2 tiles: d1/GFAP/t1, d3/GFAP/t1 copy" in capsys.readouterr().err
    assert tiles_of_same_bytes(open_cohort(tmp_path / "c.zarr")) == [("d1/GFAP/t1", "d3/GFAP/t1 copy")]


def test_the_same_pixels_saved_anew_are_a_problem_of_check(raw: Path, tmp_path: Path) -> None:
    ingest(raw, tmp_path / "before.zarr")
    assert check(tmp_path / "before.zarr") == []
    (raw / "d3/GFAP").mkdir(parents=True)
    for c in (0, 1):
        pixels = tifffile.imread(raw / f"d1/GFAP/t1_b0c{c}.tif")
        tifffile.imwrite(raw / f"d3/GFAP/other_b0c{c}.tif", pixels, compression="zlib")
    ingest(raw, tmp_path / "c.zarr")
    [problem] = check(tmp_path / "c.zarr")
    assert str(problem).startswith("images: the same image under 2 tiles: d1/GFAP/t1, d3/GFAP/other. What is there")
    assert run(["check", str(tmp_path / "c.zarr")]) == 1


def test_tiles_that_show_nothing_are_no_copies(tmp_path: Path) -> None:
    for donor in "12":
        (tmp_path / f"raw/d{donor}/GFAP").mkdir(parents=True)
        for c in (0, 1):
            tifffile.imwrite(tmp_path / f"raw/d{donor}/GFAP/t_b0c{c}.tif", np.zeros((24, 24), np.uint16))
    tile(tmp_path / "raw/d3/GFAP", "t1", 1)
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    assert tiles_of_same_bytes(open_cohort(tmp_path / "c.zarr")) == []


def test_pages_of_one_file_are_no_copies(raw: Path, tmp_path: Path) -> None:
    ingest(raw, tmp_path / "c.zarr")
    assert twin_lines(open_cohort(tmp_path / "c.zarr")) == []


def test_reasons_are_told_at_once(tmp_path: Path) -> None:
    tile(tmp_path / "raw/d1/GFAP", "t1", 1)
    (tmp_path / "raw/d1/GFAP/t1_b0c1.tif").unlink()
    with pytest.raises(FintuneValueError, match=r"t1_b0c0\.tif: unpaired: no file for channel marker"):
        ingest(tmp_path / "raw", tmp_path / "c.zarr")


def test_annotating_can_be_tried(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(raw, tmp_path / "c.zarr")
    for name in ("d1/GFAP/t1_masks.tif", "d3/GFAP/t1_masks.tif", "d2/GFAP/t1_label.tif"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / "masks" / name, np.eye(24, dtype=np.uint8))
    tried = annotate(tmp_path / "masks", tmp_path / "c.zarr", dry_run=True)
    cohort = open_cohort(tmp_path / "c.zarr")
    assert not cohort.has(n.ANNOTATIONS)
    report = annotate(tmp_path / "masks", tmp_path / "c.zarr")
    assert (tried.n_added, tried.left_out) == (report.n_added, report.left_out)
    assert (report.n_added, len(report.left_out)) == (1, 1)
    assert "e.g. d2/GFAP/t1_label.tif" in capsys.readouterr().err
    assert annotate(tmp_path / "masks", tmp_path / "c.zarr", dry_run=True).n_present == 1
    told = lines_by_verb(open_cohort(tmp_path / "c.zarr"))
    assert list(told) == ["annotate"]
    assert "e.g. d2/GFAP/t1_label.tif" in told["annotate"][0]
    assert "left out d3/GFAP/t1_masks.tif: unpaired" in told["annotate"][1]
    section = quarantine_section(cohort.quarantine().load(), told)
    [table] = [part for part in section.parts if isinstance(part, Table)]
    assert table.data["passed over"].tolist() == told["annotate"]


@pytest.mark.parametrize(
    ("suffix", "remedy"),
    [
        (".czi", "bfconvert"), (".lif", "microscopes.*bfconvert"), (".nd2", "microscopes.*bfconvert"),
        (".vsi", "bfconvert"), (".svs", "QuPath"),
        (".ndpi", "QuPath"), (".dm4", "dm2mrc"), (".eer", "relion_run_motioncorr"), (".mrcs", "newstack"),
        (".gz", "gunzip"), (".bz2", "bunzip2"), (".cbox", "cryolo_predict"),
    ],
)  # fmt: skip
def test_formats_that_are_not_read_are_named_with_how_to_convert_them(
    raw: Path, tmp_path: Path, suffix: str, remedy: str
) -> None:
    (tmp_path / "alone").mkdir()
    for folder in (raw, tmp_path / "alone"):
        (folder / f"A 1{suffix.upper()}").write_bytes(b"x")
    for layout in ("rosmap", "micrographs"):
        with pytest.raises(FintuneValueError, match=rf"\n  \{suffix}: .*{remedy}"):
            scan(tmp_path / "alone", choose_layout(layout))
    (line,) = extra_lines(scan(raw, choose_layout("rosmap")).ignored)
    assert line.startswith(f"passed over: 1 x {suffix}, e.g. A 1{suffix.upper()}; ")
    assert re.search(remedy, line)


def test_the_density_of_a_screen_is_no_size_of_a_pixel(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((8, 8), np.uint8))
    for name, dpi in (("a.png", 96), ("b.jpg", 72), ("c.png", 25400)):
        picture.save(tmp_path / name, dpi=(dpi, dpi))
        header = read_header(tmp_path / name)
        assert (header.pixel_size_a, header.doubt) == (0.0, "")


@pytest.mark.parametrize("layout", ["rosmap", "planes"])
def test_a_tile_whose_channels_are_the_same_plane_is_left_out(tmp_path: Path, layout: str) -> None:
    """A file that was copied under both names: the marker would be DAPI. A tile that shows nothing may be alike."""
    noise = np.random.default_rng(0).integers(0, 900, (2, 24, 20)).astype(np.uint16)
    tiles = {"twice": noise[[0, 0]], "two": noise, "black": noise * 0, "flat": noise * 0 + 7}
    for name, planes in tiles.items():
        files = {f"{name}.tif": planes} if layout == "planes" else {f"{name}_b0c{c}.tif": planes[c] for c in (0, 1)}
        for file, pixels in files.items():
            path = tmp_path / "raw/d1/GFAP" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)
    report = ingest(tmp_path / "raw", tmp_path / "c.zarr", layout=layout)
    assert [one.reason for one in report.left_out] == [
        "same plane: channels DAPI and marker hold the same pixels. Is one file there under both names? Put the right "
        "one in its place."
    ]
    assert report.n_added == 3
