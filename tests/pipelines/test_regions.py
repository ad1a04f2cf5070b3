"""Regions of tissue: masks stored and checked, the region of each cell, areas and readouts, against plain NumPy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import killing
import numpy as np
import pandas as pd
import pytest
import tifffile
from measuring import damage, set_sides
from stores import add_tiles, differences, make_store, stored_values, tile_names

from fintune_xr import names as n
from fintune_xr.analysis.readouts import parse_readout
from fintune_xr.errors import (
    FintuneValueError,
    SettingsError,
    StoreDamagedError,
    StoreNotFoundError,
    UnknownNameError,
)
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.measure import measure
from fintune_xr.pipelines.steps.readout import associate_readout, readout_doubt
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import open_writable

QUIET = ("cluster.dashboard=false",)
UM, PX = 0.5, 64
CODES = {"cortex": 2, "white_matter": 7}
# Donor 5 has no regions at all, donor 4 those of one tile of two.
WITHOUT = ("d4/IBA1/001", "d5/GFAP/000", "d5/IBA1/001")


def codes_of(tile: str) -> np.ndarray:
    """White matter above a slanting line, cortex below it, nothing in the last columns."""
    y, x = np.mgrid[:PX, :PX]
    at = 10 + 7 * int(tile[1]) + x // 4
    codes = np.where(y < at, 7, 2).astype(np.uint8)
    codes[:, PX - 20 :] = 0
    return codes


def write_regions(folder: Path, tiles: list[str]) -> None:
    for tile in tiles:
        (folder / tile).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"{tile}_regions.tif", codes_of(tile))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run, a folder of regions, a legend, a clinical table."""
    folder = tmp_path_factory.mktemp("regions")
    cohort = make_store(folder / "a.zarr", donors=6, tiles=2, px=PX)
    infer(cohort.url, run="base", model="threshold", overrides=("device=cpu", *QUIET))
    set_sides(cohort, UM)
    write_regions(folder / "regions", [tile for tile in tile_names(6, 2) if tile not in WITHOUT])
    (folder / "regions.tsv").write_text("label\tcode\nbackground\t0\nwhite matter\t7\ncortex\t2\n")
    rows = "".join(f"d{donor},{value}\n" for donor, value in enumerate((3, 1, 4, 1.5, 9, 2.6)))
    (folder / "clinical.csv").write_text(f"projid,nft\n{rows}")
    return folder


@pytest.fixture(scope="module")
def cohort(place: Path) -> Cohort:
    store = str(place / "a.zarr")
    legend = ("--as", "regions", "--legend", str(place / "regions.tsv"))
    assert command(["annotate", str(place / "regions"), store, *legend]) == 0
    measure(store, run="base", columns=["region", "eccentricity"], overrides=QUIET)
    return open_cohort(store)


@pytest.fixture
def fresh(place: Path, cohort: Cohort, tmp_path: Path) -> Cohort:
    shutil.copytree(cohort.url, tmp_path / "b.zarr")
    return open_cohort(tmp_path / "b.zarr")


def test_masks_and_areas(cohort: Cohort) -> None:
    regions = cohort.regions()
    assert set(regions[n.TILE].values) == set(tile_names(6, 2)) - set(WITHOUT)
    assert regions[n.REGION_MASK].chunks, "nothing is read before it is asked for"
    for tile in regions[n.TILE].values:
        one = regions.sel(tile=tile)
        np.testing.assert_array_equal(one[n.REGION_MASK], codes_of(tile))
        for name, code in CODES.items():
            n_px = np.count_nonzero(codes_of(tile) == code)
            assert one[n.REGION_PX].sel(region=name) == n_px
            assert float(one[n.REGION_MM2].sel(region=name)) == pytest.approx(n_px * UM**2 / 1e6)
    assert regions.sel(donor="d0", marker="GFAP").sizes[n.TILE] == 1
    assert check(cohort.url) == []


def expected_regions(cohort: Cohort) -> np.ndarray:
    """By the stored centres of the cells."""
    cells = cohort.cells("base", lazy=False).load()
    tiles = cohort.images()[n.TILE].values[cells[n.TILE_INDEX].values]
    named = {0: "none", **{code: name for name, code in CODES.items()}}
    places = np.floor(np.stack([cells[n.CENTROID_Y], cells[n.CENTROID_X]], axis=1) + 0.5).astype(int)
    return np.array([
        "" if tile in WITHOUT else named[int(codes_of(tile)[y, x])] for tile, (y, x) in zip(tiles, places, strict=True)
    ])  # fmt: skip


def test_the_region_of_a_cell_is_that_of_its_centre(cohort: Cohort, tmp_path: Path) -> None:
    expected, cells = expected_regions(cohort), cohort.cells("base")
    assert {"", "cortex", "white_matter", "none"} == set(expected)
    assert cells[n.REGION].values.tolist() == expected.tolist()
    assert cells[n.REGION_CODE].attrs["flag_meanings"] == "cortex white_matter"
    mine = cells.sel(donor="d0")
    assert mine.to_dataframe().reset_index()["donor"].unique().tolist() == ["d0"]
    path, tiles = export(cohort.url, to="tables", out=tmp_path)
    assert pd.read_parquet(path)["region"].tolist() == expected.tolist()
    told = pd.read_csv(tiles, sep="\t").set_index("tile")
    assert told["area_mm2_cortex"].isna().sum() == len(WITHOUT)
    area = np.count_nonzero(codes_of("d1") == 2) * UM**2 / 1e6
    assert told["area_mm2_cortex"]["d1/GFAP/000"] == pytest.approx(area)
    (table,) = export(cohort.url, to="anndata", out=tmp_path, runs=["base"])
    assert pytest.importorskip("anndata").read_h5ad(table).obs["region"].tolist() == expected.tolist()
    first, *_ = export(cohort.url, to="geojson", out=tmp_path, runs=["base"])
    features = json.loads(Path(first).read_text())["features"]
    assert {one["properties"]["metadata"]["region"] for one in features} <= {"cortex", "white_matter", "none"}


@pytest.mark.parametrize(("readout", "region"), [("density", "cortex"), ("count", "white_matter")])
def test_numbers_of_cells_by_region(cohort: Cohort, place: Path, readout: str, region: str) -> None:
    """Tiles without regions are missing, and no tile of zero cells."""
    found = associate_readout(
        cohort.url, readout=f"{readout}@{region}", clinical=place / "clinical.csv", runs=["base"]
    )[n.READOUT].sel({n.RUN: "base"})
    cells = cohort.cells("base")
    for donor in (f"d{number}" for number in range(6)):
        for number, marker in enumerate(("GFAP", "IBA1")):
            tile = f"{donor}/{marker}/{number:03d}"
            value = float(found.sel({n.DONOR: donor, n.MARKER: marker}))
            if tile in WITHOUT:
                assert np.isnan(value)
                continue
            n_cells = np.count_nonzero((cells.tile.values == tile) & (cells[n.REGION].values == region))
            mm2 = np.count_nonzero(codes_of(tile) == CODES[region]) * UM**2 / 1e6
            assert value == pytest.approx(n_cells / (mm2 if readout == "density" else 1))
    assert found.attrs["units"] == ("mm-2" if readout == "density" else "1")


def test_a_mean_by_region(cohort: Cohort, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["associate", cohort.url, "--clinical", str(place / "clinical.csv"), "--run", "base"]
    assert command([*asked, "--readout", "mean:eccentricity", "--region", "cortex"]) == 0
    stored = cohort.read(f"{n.READOUTS}/mean_eccentricity@cortex")
    cells = cohort.cells("base").compute()
    frame = pd.DataFrame({name: cells[name].values for name in ("donor", "marker", "region", "eccentricity")})
    expected = frame[frame.region == "cortex"].astype({"eccentricity": float}).groupby(["donor", "marker"])
    for (donor, marker), value in expected["eccentricity"].mean().items():
        found = stored[n.READOUT].sel({n.RUN: "base", n.DONOR: donor, n.MARKER: marker})
        assert float(found) == pytest.approx(value, rel=1e-5)
    assert int(stored[n.READOUT].notnull().sum()) == expected.ngroups
    assert readout_doubt(cohort, stored) == ""
    assert command([*asked, "--region", "cortex"]) == 2
    assert "Name another --readout" in capsys.readouterr().err
    assert command([*asked, "--readout", "density", "--region", "cortx"]) == 2
    assert "no region 'cortx'; known: cortex, white_matter. Did you mean 'cortex'?" in capsys.readouterr().err


def test_other_regions_are_noticed(fresh: Cohort, place: Path, tmp_path: Path) -> None:
    asked = {"readout": "density@cortex", "clinical": place / "clinical.csv", "runs": ["base"]}
    before = associate_readout(fresh.url, **asked)
    write_regions(tmp_path / "more", list(WITHOUT[:1]))
    report = annotate(tmp_path / "more", fresh.url, kind="regions", legend=place / "regions.tsv")
    assert (report.n_added, report.n_present) == (1, 0)
    assert "the regions are others now" in readout_doubt(fresh, before)
    assert n.REGION not in fresh.cells("base").coords
    with pytest.raises(FintuneValueError, match=r"the regions are others now.*--columns region"):
        associate_readout(fresh.url, **asked)
    measure(fresh.url, run="base", columns=["region"], overrides=QUIET)
    after = associate_readout(fresh.url, **asked)
    changed = after[n.READOUT].notnull() & before[n.READOUT].isnull()
    assert int(changed.sum()) == 1
    assert bool(changed.sel({n.RUN: "base", n.DONOR: "d4", n.MARKER: "IBA1"}))


def test_masks_that_do_not_fit_are_left_out(fresh: Cohort, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    write_regions(folder, [*WITHOUT, "d0/GFAP/000", "d9/GFAP/000"])
    tifffile.imwrite(folder / f"{WITHOUT[1]}_regions.tif", codes_of("d5")[:, :-1])
    strange = codes_of("d5")
    strange[3, 4] = 9
    tifffile.imwrite(folder / f"{WITHOUT[2]}_regions.tif", strange)
    changed = codes_of("d0")
    changed[0, 0] = 2
    tifffile.imwrite(folder / "d0/GFAP/000_regions.tif", changed)
    report = annotate(folder, fresh.url, kind="regions", legend=place / "regions.tsv")
    assert report.n_added == 1
    reasons = sorted(one.reason.partition(":")[0] for one in report.left_out)
    assert reasons == ["changed", "code 9 is not in the legend", "unpaired", "wrong shape"]
    other = tmp_path / "other.tsv"
    other.write_text("cortex\t7\nwhite matter\t2\n")
    with pytest.raises(SettingsError, match="other codes or names"):
        annotate(place / "regions", fresh.url, kind="regions", legend=other)
    again = annotate(place / "regions", fresh.url, kind="regions", legend=other, restart=True)
    assert again.n_added == 9
    assert fresh.regions()[n.REGION].values.tolist() == ["white_matter", "cortex"]


def test_damage_is_named(fresh: Cohort) -> None:
    damage(fresh.location.path / n.REGION_MASKS / n.REGION_MASK / "c.0.0.0")
    assert any(problem.where.startswith(n.REGION_MASKS) for problem in check(fresh.url))


def test_other_areas_than_those_of_the_masks_are_named(fresh: Cohort) -> None:
    area = open_writable(fresh.location, n.REGION_MASKS)[n.REGION_PX]
    area[2, 0] = 5
    (problem,) = check(fresh.url)
    assert "1 tile(s) have regions of other areas" in problem.what


def test_half_written_regions_are_refused_and_finished(fresh: Cohort, place: Path) -> None:
    """Killed at every change of the store by `annotate` it ends as if it had not been."""
    whole = stored_values(Path(fresh.url), n.REGION_MASKS)
    tokens = ["annotate", str(place / "regions"), fresh.url, "--as", "regions", "--restart"]
    tokens += ["--legend", str(place / "regions.tsv")]
    seen = killing.FORKS.Value("i", 0, lock=False)
    for dies_at in (9, 14, 25):
        seen.value = 0
        process = killing.FORKS.Process(target=killing.run_command, args=(tokens, fresh.url, dies_at, seen))
        process.start()
        process.join(120)
        assert process.exitcode == killing.DIED
        if open_cohort(fresh.url).has(f"{n.REGION_MASKS}/{n.REGION_MASK}"):
            with pytest.raises((StoreDamagedError, StoreNotFoundError)):
                fresh.regions()
        assert annotate(place / "regions", fresh.url, kind="regions", legend=place / "regions.tsv").left_out == ()
        assert differences(stored_values(Path(fresh.url), n.REGION_MASKS), whole) == []
        assert check(fresh.url) == []


def test_the_doors(fresh: Cohort, place: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="none was named"):
        annotate(place / "regions", fresh.url, kind="regions")
    with pytest.raises(SettingsError, match="neither pieces nor marks"):
        annotate(place / "regions", fresh.url, kind="regions", legend=place / "regions.tsv", pieces="split")
    nothing = tmp_path / "none.tsv"
    nothing.write_text("none\t3\n")
    with pytest.raises(SettingsError, match="none of them called 'none'"):
        annotate(place / "regions", fresh.url, kind="regions", legend=nothing)
    assert parse_readout("density@cortex").text == "density@cortex"
    with pytest.raises(SettingsError):
        parse_readout("mean:region")
    bare = make_store(tmp_path / "bare.zarr")
    infer(bare.url, run="base", model="threshold", overrides=("device=cpu", *QUIET))
    with pytest.raises(StoreNotFoundError, match="--as regions"):
        measure(bare.url, run="base", columns=["region"], overrides=QUIET)
    with pytest.raises(FintuneValueError, match="--columns region"):
        associate_readout(bare.url, readout="count@cortex", clinical=place / "clinical.csv")
    add_tiles(fresh, tile_names(7, 2)[12:])
    assert fresh.regions().sizes[n.TILE] == 9
    with pytest.raises(UnknownNameError, match="no measure of cells 'regions'"):
        measure(fresh.url, run="base", columns=["regions"], overrides=QUIET)
