"""Columns that `measure` adds: the same whatever the blocks, resumed, grown, damaged, repaired, shown and exported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pandas as pd
import pytest
from measuring import damage, measure_slowly, set_sides
from scipy import stats
from skimage.measure import regionprops_table
from stores import add_tiles, differences, make_store, stored_values, tile_names

from fintune_xr import names as n
from fintune_xr.analysis.readouts import parse_readout, settled_readout
from fintune_xr.errors import (
    FintuneValueError,
    RunBusyError,
    RunMismatchError,
    SettingsError,
    StoreUnreachableError,
    UnknownNameError,
)
from fintune_xr.pipelines.cli.app import run as command
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.group_tests import compare_groups, group_doubt
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.measure import measure
from fintune_xr.pipelines.steps.readout import associate_readout, readout_doubt
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import measurement_writer as writer
from fintune_xr.store.zarr_io.groups import open_writable
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.tasks import cell_measures

QUIET = ("cluster.dashboard=false",)
INFER = ("device=cpu", *QUIET)
UM = 0.25
ALL = [one.column for one in cell_measures.MEASURES.values()]


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "LEAST_ROWS", 5)
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = make_store(tmp_path_factory.mktemp("template") / "a.zarr", donors=6, tiles=2)
    infer(cohort.url, run="base", model="threshold", overrides=INFER)
    infer(cohort.url, run="nuclei", model="threshold", overrides=("model.min_area_px=105", *INFER))
    return Path(cohort.url)


@pytest.fixture
def cohort(tmp_path: Path, template: Path) -> Cohort:
    return copied(template, tmp_path)


@pytest.fixture(scope="module")
def with_all(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Cohort:
    """With every column, and pixels of a size that is known."""
    cohort = copied(template, tmp_path_factory.mktemp("all"))
    set_sides(cohort, UM)
    new_of(cohort, *cell_measures.MEASURES, "distance:nuclei")
    return cohort


def copied(template: Path, folder: Path) -> Cohort:
    shutil.copytree(template, folder / "a.zarr")
    rows = "".join(f"d{donor},{value},{'ab'[donor % 2]}\n" for donor, value in enumerate((3, 1, 4, 1.5, 9, 2.6)))
    (folder / "clinical.csv").write_text(f"projid,nft,sex\n{rows}")
    return open_cohort(folder / "a.zarr")


def new_of(cohort: Cohort, *columns: str, **options: Any) -> list[int]:
    return [one.n_new for one in measure(cohort.url, run="base", columns=columns, overrides=QUIET, **options)]


def test_values_are_those_of_each_tile(with_all: Cohort) -> None:
    cohort = with_all
    cells, run = cohort.cells("base", lazy=False).load(), cohort.run("base", lazy=False)
    assert cells.sizes[n.CELL] > 3 * writer.LEAST_ROWS
    for tile in range(run.sizes[n.TILE]):
        mask, rows = run[n.MASK].values[tile], np.flatnonzero(cells[n.TILE_INDEX] == tile)
        image = cohort.images()[n.IMAGE].isel({n.TILE: tile}).values
        expected = regionprops_table(mask, image[1], properties=("label", "eccentricity", "perimeter", "intensity_std"))
        np.testing.assert_array_equal(cells[n.LABEL].values[rows], expected["label"])
        np.testing.assert_allclose(cells["eccentricity"].values[rows], expected["eccentricity"], rtol=1e-6)
        np.testing.assert_allclose(cells["perimeter_px"].values[rows], expected["perimeter"], rtol=1e-6)
        np.testing.assert_allclose(cells["sd_intensity"].values[rows, 1], expected["intensity_std"], rtol=1e-6)
    assert check(cohort.url) == []


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("cluster", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_neither_blocks_nor_workers_change_a_value(cohort: Cohort, with_all: Cohort, cluster: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "LEAST_ROWS", 1000)
        new_of(cohort, *ALL, "distance:nuclei", cluster=cluster)
    one, other = (each.cells("base", lazy=False).load() for each in (cohort, with_all))
    assert {*ALL, "distance_px_nuclei"} < set(one.data_vars)
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], other[name], err_msg=str(name))


def test_what_is_there_stays_and_the_rest_is_added(cohort: Cohort) -> None:
    n_cells = cohort.cells("base", lazy=False).sizes[n.CELL]
    assert new_of(cohort, "solidity") == [n_cells]
    assert new_of(cohort, "solidity", "texture", "texture") == [0, n_cells]
    assert new_of(cohort, "solidity", restart=True) == [n_cells]
    assert new_of(cohort, "solidity") == [0]


@pytest.mark.slow
def test_killed_between_commits_it_ends_as_if_never_killed(cohort: Cohort, with_all: Cohort, tmp_path: Path) -> None:
    commits = tmp_path / "commits"
    for wanted in (1, 3):
        process = killing.FORKS.Process(target=measure_slowly, args=(cohort.url, str(commits)))
        process.start()
        deadline = time.monotonic() + 120
        while (not commits.exists() or commits.stat().st_size < wanted) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    n_cells = cohort.cells("base", lazy=False).sizes[n.CELL]
    assert "eccentricity" not in cohort.cells("base", lazy=False)
    assert "eccentricity: it is not finished" in cohort.cells("base").attrs[n.LEFT_OUT_COLUMNS]
    assert 0 < new_of(cohort)[0] < n_cells, "the kill found it under way"
    found, expected = (stored_values(Path(one.url), n.MEASUREMENTS) for one in (cohort, with_all))
    assert [path for path in differences(found, expected) if n.DISTANCE_TO_PX not in path] == []
    assert check(cohort.url) == []


@pytest.mark.parametrize("array", ["value/c.1", "state/c.0", "value/zarr.json"])
def test_damage_is_named_set_back_and_measured_again(cohort: Cohort, array: str) -> None:
    new_of(cohort, "solidity", "perimeter")
    before = cohort.cells("base", lazy=False).load()
    damage(cohort.location.path / n.MEASUREMENTS / "base" / "perimeter_px" / array)
    (problem, *_) = check(cohort.url)
    assert problem.where.startswith("measurements/base/perimeter_px")
    assert "fintune-xr measure --run base --columns perimeter" in problem.remedy
    check(cohort.url, repair=True)
    assert "perimeter_px" not in cohort.cells("base", lazy=False)
    solidity, perimeter = new_of(cohort, "solidity", "perimeter")
    assert solidity == 0
    assert perimeter == (writer.LEAST_ROWS if array == "value/c.1" else before.sizes[n.CELL])
    after = cohort.cells("base", lazy=False).load()
    np.testing.assert_array_equal(after["perimeter_px"], before["perimeter_px"])
    assert check(cohort.url) == []


def test_a_missing_block_is_damage(cohort: Cohort) -> None:
    new_of(cohort, "solidity")
    (cohort.location.path / n.MEASUREMENTS / "base" / "solidity" / "value" / "c.0").unlink()
    assert [problem.where for problem in check(cohort.url)] == ["measurements/base/solidity/value"]
    check(cohort.url, repair=True)
    assert new_of(cohort, "solidity") == [writer.LEAST_ROWS]
    assert check(cohort.url) == []


def test_columns_of_other_cells_are_left_out_and_measured_anew(
    cohort: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    new_of(cohort, "eccentricity", "distance:nuclei")
    infer(cohort.url, run="nuclei", model="threshold", restart=True, overrides=("model.sigma_px=4", *INFER))
    cells = cohort.cells("base")
    assert "eccentricity" in cells
    assert "distance_px_nuclei" not in cells
    assert cells.attrs[n.LEFT_OUT_COLUMNS] == "distance_px_nuclei: the cells of nuclei are others now"
    add_tiles(cohort, tile_names(7, 2)[12:])
    for run in ("base", "nuclei"):
        infer(cohort.url, run=run, overrides=QUIET)
    assert "eccentricity" not in cohort.cells("base")
    n_cells = cohort.cells("base", lazy=False).sizes[n.CELL]
    assert new_of(cohort, "eccentricity", "distance:nuclei") == [n_cells, n_cells]
    assert "eccentricity is measured anew: the cells of base are others now" in capsys.readouterr().err
    assert not cohort.cells("base").attrs.get(n.LEFT_OUT_COLUMNS)
    infer(cohort.url, run="base", model="threshold", restart=True, overrides=INFER)
    assert not cohort.has(f"{n.MEASUREMENTS}/base/eccentricity")


def test_tiles_that_are_segmented_again_to_the_same_cells_leave_columns_as_they_are(cohort: Cohort) -> None:
    new_of(cohort, "eccentricity")
    damage(cohort.location.path / n.RUNS / "base" / n.MASK / "c.3.0.0")
    check(cohort.url, repair=True)
    assert infer(cohort.url, run="base", overrides=QUIET).n_new > 0
    assert new_of(cohort, "eccentricity") == [0]


def test_another_definition_is_noticed(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    new_of(cohort, "eccentricity")
    found = associate_readout(cohort.url, readout="mean:eccentricity", clinical=clinical(cohort), runs=["base"])
    stored = open_writable(cohort.location, f"{n.MEASUREMENTS}/base/eccentricity").attrs
    assert stored[n.IDENTITY][n.DEFINITION][n.VERSION] == 1
    assert "scikit-image" in stored[n.PROVENANCE]["packages"]
    other = cell_measures.CellMeasure("eccentricity", n.ECCENTRICITY, "1", "Another one.", version=2)
    monkeypatch.setattr(cell_measures, "MEASURES", {**cell_measures.MEASURES, "eccentricity": other})
    assert "its definition is another one now" in cohort.cells("base").attrs[n.LEFT_OUT_COLUMNS]
    assert "its definition is another one now" in readout_doubt(cohort, found)
    with pytest.raises(FintuneValueError, match="its definition is another one now"):
        associate_readout(cohort.url, readout="mean:eccentricity", clinical=clinical(cohort))
    assert new_of(cohort, "eccentricity")[0] > 0
    assert readout_doubt(cohort, found) == "its column has been measured anew"


def test_two_writers_and_late_ones_are_refused(cohort: Cohort) -> None:
    wanted = [cell_measures.cell_measure("solidity")]
    with writer.writing_measurements(cohort, "base", wanted) as one:
        with pytest.raises(RunBusyError):
            new_of(cohort, "texture")
        (block, *_) = one.blocks()
    with writer.writing_measurements(cohort, "base", wanted, restart=True):
        pass
    values = {"solidity": np.zeros(block.last - block.first, np.float32)}
    with pytest.raises(RunMismatchError, match="was made anew"):
        writer.write_measured(cohort.location, "base", block, values, one.creations)


def test_lengths_are_in_um_where_pixels_have_a_size(cohort: Cohort, tmp_path: Path) -> None:
    new_of(cohort, "perimeter", "solidity", "texture", "distance:nuclei")
    assert "perimeter_um" not in cohort.cells("base")
    set_sides(cohort, UM, slice(0, 4))
    cells = cohort.cells("base")
    assert cells["perimeter_um"].chunks, "nothing is read before it is asked for"
    assert cells["perimeter_um"].attrs["units"] == "um"
    sides = np.where(cells[n.TILE_INDEX] < 4, UM, np.nan)
    np.testing.assert_allclose(cells["perimeter_um"], cells["perimeter_px"] * sides, rtol=1e-6)
    np.testing.assert_allclose(cells["distance_um_nuclei"], cells["distance_px_nuclei"] * sides, rtol=1e-6)
    assert "solidity_um" not in cells
    path, *_ = export(cohort.url, to="tables", out=tmp_path / "tables", runs=["base"])
    table = pd.read_parquet(path)
    for name in ("perimeter_px", "perimeter_um", "solidity", "distance_px_nuclei", "distance_um_nuclei"):
        np.testing.assert_allclose(table[name], cells[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(table["sd_intensity_DAPI"], cells["sd_intensity"].sel(channel="DAPI"), rtol=1e-6)


def test_columns_are_in_every_export_of_cells(with_all: Cohort, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    cohort = with_all
    expected = cohort.cells("base", lazy=False).load()
    (path,) = export(cohort.url, to="anndata", out=tmp_path, runs=["base"])
    obs = anndata.read_h5ad(path).obs
    np.testing.assert_allclose(obs["solidity"], expected["solidity"])
    np.testing.assert_allclose(obs["sd_intensity_marker"], expected["sd_intensity"].values[:, 1])
    first, *_ = export(cohort.url, to="geojson", out=tmp_path, runs=["base"])
    features = json.loads(Path(first).read_text())["features"]
    told = [feature["properties"]["measurements"]["solidity"] for feature in features]
    np.testing.assert_allclose(sorted(told), sorted(expected["solidity"].values[expected[n.TILE_INDEX] == 0]))


def clinical(cohort: Cohort) -> Path:
    return cohort.location.path.parent / "clinical.csv"


@pytest.mark.parametrize(
    ("readout", "column", "factor", "units"),
    [
        ("mean:eccentricity", "eccentricity", 1, "1"),
        ("median:perimeter", "perimeter_px", UM, "um"),
        ("mean:distance:nuclei", "distance_px_nuclei", UM, "um"),
        ("mean:area_um2", "area_px", UM**2, "um2"),
        ("median:texture.marker", "sd_intensity", 1, "counts"),
    ],
)
def test_readouts_of_measured_columns(with_all: Cohort, readout: str, column: str, factor: float, units: str) -> None:
    cohort = with_all
    found = associate_readout(cohort.url, readout=readout, clinical=clinical(cohort), runs=["base"])
    cells = cohort.cells("base").compute()
    values = cells[column].sel({n.CHANNEL: "marker"}) if n.CHANNEL in cells[column].dims else cells[column]
    frame = pd.DataFrame({"donor": cells.donor, "marker": cells.marker, "value": values.values.astype(float) * factor})
    statistic = readout.partition(":")[0]
    expected = frame.groupby(["donor", "marker"])["value"].agg(statistic).unstack()
    np.testing.assert_allclose(found[n.READOUT].sel({n.RUN: "base"}), expected, rtol=1e-5)
    assert found[n.READOUT].attrs["units"] == units
    outcome = pd.read_csv(clinical(cohort))["nft"]
    for marker in expected:
        if expected[marker].nunique() > 1:
            rho = stats.spearmanr(found[n.READOUT].sel({n.RUN: "base", n.MARKER: marker}), outcome).statistic
            assert float(found[n.RHO].sel({n.MARKER: marker}).squeeze()) == pytest.approx(rho)
    stored = cohort.read(f"{n.READOUTS}/{settled_readout(parse_readout(readout), np.array([UM])).name}")
    assert readout_doubt(cohort, stored) == ""


def test_groups_are_compared_by_measured_columns(with_all: Cohort) -> None:
    asked = {"readout": "mean:perimeter", "clinical": clinical(with_all), "runs": ["base"]}
    found = compare_groups(with_all.url, groups=["sex"], **asked)
    assert found.attrs[n.READOUT] == "mean:perimeter_um"
    assert group_doubt(with_all, found) == ""


def test_um_and_px_are_never_mixed(cohort: Cohort) -> None:
    new_of(cohort, "perimeter")
    found = associate_readout(cohort.url, readout="mean:perimeter", clinical=clinical(cohort), runs=["base"])
    assert found.attrs[n.READOUT] == "mean:perimeter_px"
    assert found[n.READOUT].attrs["units"] == "px"
    set_sides(cohort, UM, slice(0, 3))
    with pytest.raises(FintuneValueError, match=r"9 of 12 tiles do not tell the size .* as perimeter_px"):
        associate_readout(cohort.url, readout="mean:perimeter", clinical=clinical(cohort), runs=["base"])
    with pytest.raises(FintuneValueError, match=r"9 of 12 tiles of .* ask for px: perimeter_px"):
        associate_readout(cohort.url, readout="mean:perimeter_um", clinical=clinical(cohort), runs=["base"])
    set_sides(cohort, UM)
    in_um = associate_readout(cohort.url, readout="mean:perimeter", clinical=clinical(cohort), runs=["base"])
    np.testing.assert_allclose(in_um[n.READOUT], found[n.READOUT] * UM, rtol=1e-6)
    assert readout_doubt(cohort, in_um) == ""
    set_sides(cohort, 2 * UM)
    assert readout_doubt(cohort, in_um) == "the size of pixels is another one now"


def test_the_doors(cohort: Cohort, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FintuneValueError, match="--run base --columns solidity"):
        associate_readout(cohort.url, readout="mean:solidity", clinical=clinical(cohort), runs=["base"])
    with pytest.raises(UnknownNameError, match="no run 'nucleus'"):
        new_of(cohort, "distance:nucleus")
    with pytest.raises(FintuneValueError, match="every cell of base is 0 from itself"):
        new_of(cohort, "distance:base")
    for wrong in (
        "mean:solidty",
        "mean:solidity.marker",
        "mean:texture",
        "mean:",
        "mean:@a",
        "density@",
        "mean:solidity_um",
    ):
        with pytest.raises(SettingsError, match="--readout"):
            parse_readout(wrong)
    assert command(["measure", cohort.url, *QUIET, "--run", "base", "--columns", "solidty"]) == 2
    assert "Did you mean 'solidity'?" in capsys.readouterr().err
    assert command(["measure", cohort.url, *QUIET, "--run", "base", "--columns", "solidity", "texture", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["columns"]
    assert [(row["column"], row["units"]) for row in rows] == [("solidity", "1"), ("sd_intensity", "counts")]
    add_tiles(cohort, tile_names(7, 2)[12:])
    with pytest.raises(FintuneValueError, match="pending"):
        new_of(cohort, "solidity")


def test_a_table_without_a_digest_gets_one(cohort: Cohort) -> None:
    attrs = open_writable(cohort.location, f"{n.CELLS}/base").attrs
    known = attrs[n.DIGEST]
    del attrs[n.DIGEST]
    assert new_of(cohort, "solidity")[0] > 0
    assert open_writable(cohort.location, f"{n.CELLS}/base").attrs[n.DIGEST] == known
    assert "solidity" in cohort.cells("base")
    assert Location.of(cohort.url).sweep() == []


@pytest.mark.parametrize("passing", [ConnectionError, TimeoutError, PermissionError])
def test_storage_that_does_not_answer_is_no_damage(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, passing: type[Exception]
) -> None:
    measure(cohort.url, run="base", columns=["solidity"], overrides=QUIET)
    before = cohort.cells("base")["solidity"].values

    def refuse(*_: object) -> None:
        raise passing("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Location, "array", refuse)
        with pytest.raises(StoreUnreachableError, match="no answer"):
            writer.set_back_damaged(cohort.location, "base")
    np.testing.assert_array_equal(cohort.cells("base")["solidity"].values, before)
