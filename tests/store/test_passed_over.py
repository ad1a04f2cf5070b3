"""Nothing is lost without a word, and nothing counts twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Table
from fintune_xr.analysis.report.sections.cohort import quarantine_section
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.report.passed_over import passed_over
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.ingest.same_bytes import tiles_of_same_bytes, told_twice


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
    ["d2/GFAP/._{}", "__MACOSX/d2/GFAP/{}", "d1/GFAP/.ipynb_checkpoints/{}", ".cache/d1/GFAP/{}", "d1/@eaDir/{}"],
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
    assert told_twice(open_cohort(tmp_path / "c.zarr")) == []


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
    told = passed_over(open_cohort(tmp_path / "c.zarr"))
    assert list(told) == ["annotate"]
    assert "e.g. d2/GFAP/t1_label.tif" in told["annotate"][0]
    assert "left out d3/GFAP/t1_masks.tif: unpaired" in told["annotate"][1]
    section = quarantine_section(cohort.quarantine().load(), told)
    [table] = [part for part in section.parts if isinstance(part, Table)]
    assert table.data["passed over"].tolist() == told["annotate"]
