"""An annotation goes to the tile that its path names, or to none: a bare file name overrules no folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout
from fintune_xr.store.annotations.tile_index import StoredTile, TileIndex
from fintune_xr.store.cohort import open_cohort
from tests.support.em_files import write_mrc

TILES = ("00100001/GFAP/field_05", "00100001/GFAP/x_cp", "00100001/GFAP/x", "00100003/GFAP/only", "00100003/Iba/007")


def index(*tiles: str) -> TileIndex:
    return TileIndex.of(StoredTile(tile, *tile.split("/")[:2]) for tile in tiles or TILES)


def paired(path: str, pattern: str | None = None, *tiles: str) -> tuple[str, ...]:
    layout = choose_mask_layout(pattern=pattern)
    return index(*tiles).of_mask(path, layout.readings(path), is_told=layout.told).tiles


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("00100002/GFAP/field_05_masks.tif", ""),
        ("00100002/field_05_masks.tif", ""),
        ("00100001/IBA1/field_05_masks.tif", ""),
        ("IBA1/field_05_masks.tif", ""),
        ("00100003/GFAP/field_05_masks.tif", ""),
        ("masks/00100002/GFAP/field_05_masks.tif", ""),
        ("00100002/masks/field_05_masks.tif", ""),
        ("elsewhere/field_05_masks.tif", ""),
        ("00100003_GFAP_only_masks.tif", ""),
        ("00100002/GFAP/00100001__GFAP__field_05_masks.tif", ""),
        ("7_masks.tif", ""),
        ("field_05_masks.tif", "00100001/GFAP/field_05"),
        ("train/masks/field_05_masks.tif", "00100001/GFAP/field_05"),
        ("masks/00100001/GFAP/field_05_masks.tif", "00100001/GFAP/field_05"),
        ("00100001/masks/field_05_masks.tif", "00100001/GFAP/field_05"),
        ("test_cells/00100001__GFAP__field_05_masks.tif", "00100001/GFAP/field_05"),
        ("00100001/GFAP/x_cp_masks.tif", "00100001/GFAP/x_cp"),
        ("00100001/GFAP/x_Masks.TIF", "00100001/GFAP/x"),
        ("007_masks.tif", "00100003/Iba/007"),
    ],
)
def test_a_path_that_names_somebody_else_is_never_overruled(path: str, tile: str) -> None:
    assert paired(path) == ((tile,) if tile else ())


def test_a_name_that_begins_with_another_donor_is_of_no_other() -> None:
    assert paired("d1_GFAP_x_masks.tif", None, "d2/GFAP/d1_GFAP_x", "d1/GFAP/y") == ()


def test_a_pattern_alone_says_what_the_path_names() -> None:
    pattern = r"any/(?P<donor>[^/]+)/(?P<tile>[^/]+)_masks\.tif"
    tiles = ("a/unknown/t", "b/unknown/t")
    assert paired("any/b/t_masks.tif", pattern, *tiles) == ("b/unknown/t",)
    assert paired("any/c/t_masks.tif", pattern, *tiles) == ()


@given(
    st.permutations(["d1", "d2", "d3"]), st.sampled_from(["GFAP", "IBA1"]), st.sampled_from(["t1", "t2", "007", "7"])
)
def test_no_mask_of_one_donor_or_marker_goes_to_another(donors: list[str], marker: str, name: str) -> None:
    stored = index(*(f"{donor}/{m}/{t}" for donor in donors[:2] for m in ("GFAP", "IBA1") for t in ("t1", "007")))
    for donor in donors:
        path = f"{donor}/{marker}/{name}_masks.tif"
        found = stored.of_mask(path, choose_mask_layout().readings(path)).tiles
        assert found in ((), (f"{donor}/{marker}/{name}",))


def test_names_are_one_in_both_spellings() -> None:
    tile = "Müller1/GFAP/t"
    for stored, asked in (("NFC", "NFD"), ("NFD", "NFC")):
        path = unicodedata.normalize(asked, f"{tile}_masks.tif")
        assert paired(path, None, unicodedata.normalize(stored, tile)) == (unicodedata.normalize(stored, tile),)


def star(path: Path, *micrographs: str) -> Path:
    head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "".join(f"{10 + i}.0 20.0 {name}\n" for i, name in enumerate(micrographs)))
    return path


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for seed, name in enumerate(("setA/001", "setB/001", "setB/007")):
        write_mrc(tmp_path / f"raw/{name}.mrc", np.random.default_rng(seed).normal(size=(48, 48)).astype(np.float32))
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    return tmp_path / "c.zarr"


@pytest.mark.parametrize(
    ("micrograph", "tile"),
    [
        ("setA/001.mrc", "setA"), ("MotionCorr/job002/setB/001.mrc", "setB"), ("/data/me/setB/001.mrc", "setB"),
        ("setC/001.mrc", ""), ("setA/007.mrc", ""), ("001.mrc", ""), ("setB/7.mrc", ""), ("setB/007", "setB"),
        ("MotionCorr/job002/007.mrc", "setB"),
    ],
)  # fmt: skip
def test_the_folder_of_a_named_micrograph_decides(sets: Path, tmp_path: Path, micrograph: str, tile: str) -> None:
    report = annotate(star(tmp_path / "p/all.star", micrograph), sets, diameter=8)
    assert (report.n_added, len(report.left_out)) == ((1, 0) if tile else (0, 1))
    if tile:
        stem = Path(micrograph).stem
        assert open_cohort(sets).annotations()[n.TILE].values.tolist() == [f"{tile}/particles/{stem}"]


def test_the_folder_of_a_file_decides_as_well(sets: Path, tmp_path: Path) -> None:
    for name in ("setA/001", "setB/001", "setC/001"):
        (tmp_path / f"p/{name}.csv").parent.mkdir(parents=True)
        (tmp_path / f"p/{name}.csv").write_text("x,y\n5,5\n")
    report = annotate(tmp_path / "p", sets, diameter=8)
    assert (report.n_added, [item.path for item in report.left_out]) == (2, ["setC/001.csv"])
    assert "the path names 'setC'" in report.left_out[0].reason


def test_micrographs_of_two_folders_are_not_one(tmp_path: Path) -> None:
    write_mrc(tmp_path / "raw/001.mrc", np.zeros((48, 48), np.float32))
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    report = annotate(star(tmp_path / "all.star", "setA/001.mrc", "setB/001.mrc"), tmp_path / "c.zarr", diameter=8)
    assert (report.n_added, [item.reason.split(":")[0] for item in report.left_out]) == (0, ["ambiguous"] * 2)
