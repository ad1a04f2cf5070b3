"""The size of a pixel is read where a file tells it, and nowhere made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.analysis.figures.scale_bar import bar_um
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pixels.pixel_side import resolution
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.pixel_sides import side_of_tile
from fintune_xr.store.raw.readers import Header, read_header

How = dict[str, Any]


def ome(x: float, y: float | None = None, unit: str = "um") -> How:
    sides = {"PhysicalSizeX": x, "PhysicalSizeY": y or x, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"ome": True, "metadata": {"axes": "YX", **sides}}


def imagej(side: float, unit: str) -> How:
    return {"imagej": True, "resolution": (1 / side, 1 / side), "metadata": {"unit": unit}}


def per_cm(x_um: float, y_um: float | None = None) -> How:
    return {"resolution": (1e4 / x_um, 1e4 / (y_um or x_um)), "resolutionunit": "CENTIMETER", "metadata": None}


def dpi(dots: float) -> How:
    return {"resolution": (dots, dots), "resolutionunit": "INCH", "metadata": None}


def file(path: Path, how: How, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 999, (24, 24)).astype(np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", **how)
    return path


@pytest.mark.parametrize(
    ("how", "um"),
    [
        (ome(0.325), 0.325), (ome(325.0, unit="nm"), 0.325), (ome(1.06, unit="Å"), 1.06e-4),
        (imagej(0.325, "um"), 0.325), (imagej(0.5, "micron"), 0.5), (imagej(106.0, "nm"), 0.106), (per_cm(0.25), 0.25),
        (dpi(25400 / 0.65), 0.65), (dpi(72), 0), (dpi(300), 0), (dpi(1200), 0), (imagej(1.0, "pixel"), 0), ({}, 0),
        ({"metadata": None, "resolution": (4.0, 4.0), "resolutionunit": "NONE"}, 0), (ome(0.3, 0.6), 0),
        (per_cm(0.3, 0.6), 0), ({**ome(0.325), **per_cm(0.65), "metadata": ome(0.325)["metadata"]}, 0),
        ({**ome(0.325), **per_cm(0.326), "metadata": ome(0.325)["metadata"]}, 0.325),
    ],
)  # fmt: skip
def test_the_side_of_a_pixel_as_a_tiff_tells_it(tmp_path: Path, how: How, um: float) -> None:
    header = read_header(file(tmp_path / "a.tif", how))
    assert header.pixel_size_a == pytest.approx(um * 1e4, rel=1e-3)
    is_doubtful = how in (ome(0.3, 0.6), per_cm(0.3, 0.6)) or ("ome" in how and not um)
    assert bool(header.doubt) == is_doubtful


def planes(folder: Path, stem: str, one: How, other: How) -> None:
    for c, how in enumerate((one, other)):
        file(folder / f"d{stem}/GFAP/t_b0c{c}.tif", how, seed=2 * ord(stem) + c)


def test_sizes_are_stored_and_conflicts_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    planes(raw, "1", ome(0.325), ome(0.325))
    planes(raw, "2", ome(0.325), {})
    planes(raw, "3", ome(0.325), ome(0.65))
    planes(raw, "4", {}, {})
    planes(raw, "5", per_cm(0.5), per_cm(0.5))
    ingest(raw, tmp_path / "c.zarr")
    images = open_cohort(tmp_path / "c.zarr").images(lazy=False)
    assert images[n.MPP].values.tolist() == pytest.approx([0.325, 0.325, 0, 0, 0.5])
    said = " ".join(capsys.readouterr().err.split())
    assert "size of pixels not taken from 1 of 5 tiles, e.g. d3/GFAP/t: two sizes of pixels for one tile" in said
    assert "stored pixels are of 2 sizes, 0.325, 0.5 um" in said
    assert "2 of 5 tiles do not tell the size of their pixels" in said
    assert "size of pixels not taken" in str(images.attrs[n.PASSED_OVER])


def test_a_name_and_a_file_of_two_sizes_tell_none(tmp_path: Path) -> None:
    place = tmp_path / "raw/images/TCGA-A1-A0SK-DX1_xmin0_ymin0_MPP-0.2500.tif"
    for name, side in (("TCGA-A1-A0SK-DX1", 0.25), ("TCGA-A2-A0D2-DX1", 0.5)):
        place = tmp_path / f"raw/images/{name}_xmin0_ymin0_MPP-0.2500.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        colours = np.random.default_rng(int(side * 4)).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        tifffile.imwrite(place, colours, photometric="rgb", **per_cm(side))
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="bcss")
    assert open_cohort(tmp_path / "c.zarr").images(lazy=False)[n.MPP].values.tolist() == [0.25, 0]


@pytest.mark.parametrize(
    ("how", "um", "told"),
    [
        (ome(1.0), 0, "1 um is what programs write where nobody told them"),
        (imagej(1.0, "micron"), 0, "1 um is what programs write"), (per_cm(1.0), 0, "1 um is what programs write"),
        (ome(325.0), 0, r"325 um is no size of a pixel here, expected 0.005 to 20 um. Is it 325 nm\?"),
        (imagej(325.0, "um"), 0, r"Is it 325 nm\?"), (ome(3250.0), 0, r"Is it 3250 nm\?"),
        (ome(3.25e-7), 0, r"Is it 3.25e-07 m\?"), (ome(3.25e-4), 0, r"Is it 0.000325 mm\?"),
        (ome(0.325), 0.325, ""), (ome(1.02), 1.02, ""), (ome(0.98), 0.98, ""), (ome(12.0), 12.0, ""), ({}, 0, ""),
    ],
)  # fmt: skip
def test_sizes_that_can_hardly_be_meant_are_asked_about(
    tmp_path: Path, how: How, um: float, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    planes(tmp_path / "raw", "1", how, how)
    planes(tmp_path / "raw", "2", {}, {})
    ingest(tmp_path / "raw", tmp_path / "c.zarr")
    assert open_cohort(tmp_path / "c.zarr").images(lazy=False)[n.MPP].values.tolist() == pytest.approx([um, 0])
    said = " ".join(capsys.readouterr().err.split())
    assert ("size of pixels not taken from 1 of 2 tiles" in said) == bool(told)
    assert re.search(told, said)


def header(side_um: float, doubt: str = "") -> Header:
    return Header(8, 8, "uint16", pixel_size_a=side_um * 1e4, doubt=doubt)


@given(st.floats(0.005, 20).filter(lambda side: abs(side - 1) > 1e-5), st.sampled_from(["if", "he"]))
def test_sizes_of_microscopes_are_taken(side_um: float, kind: str) -> None:
    assert side_of_tile([("a", header(side_um))], 0.0, kind) == (pytest.approx(side_um * 1e4), "")
    assert side_of_tile([("a", header(side_um))], side_um, kind) == (pytest.approx(side_um * 1e4), "")


@given(st.floats(0.05, 1000))
def test_sizes_of_micrographs_are_taken(side_a: float) -> None:
    assert side_of_tile([("a", header(side_a / 1e4))], 0.0, "em") == (pytest.approx(side_a), "")
    assert side_of_tile([("a", header(side_a))], 0.0, "oct")[1] == ""


@given(st.floats(1e-9, 1e9).filter(lambda side: not 0.005 <= side <= 20) | st.just(1.0), st.sampled_from([0.0, 0.5]))
def test_a_name_overrules_sizes_that_can_hardly_be_meant(side_um: float, named_um: float) -> None:
    side, doubt = side_of_tile([("a", header(side_um)), ("b", header(side_um))], named_um, "if")
    assert (side, bool(doubt)) == (named_um * 1e4, not named_um)


def test_a_name_says_no_size_that_no_microscope_has() -> None:
    assert side_of_tile([("a", header(0.325))], 325, "if")[1].startswith("325 um is no size of a pixel here")
    assert side_of_tile([], 1.0, "if") == (1e4, "")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint16), **resolution(0.325))
    assert read_header(tmp_path / "a.tif").pixel_size_a == pytest.approx(3250, rel=1e-4)
    assert resolution(0.0) == {}


def test_a_scale_bar_is_a_round_length_of_up_to_a_third() -> None:
    for width_um in (0.01, 0.7, 3.4, 166.4, 5000.0):
        bar = bar_um(width_um)
        assert 0.1 * width_um < bar <= 0.3 * width_um
        assert float(f"{bar:.6e}"[0]) in (1, 2, 5)
        assert float(f"{bar:.6e}"[1:8]) == 0
