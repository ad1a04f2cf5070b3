"""Picks and pixel sizes for RELION: what its files hold, in the pixels of the micrographs as other readers see them."""

from __future__ import annotations

import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import tifffile
from em_files import DIAMETER, centres, picture, write_mrc

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.readers import MICROGRAPH_DTYPES, read_header
from fintune_xr.store.runs.picks import open_picks, picks_of
from fintune_xr.store.zarr_io.groups import remove_group
from fintune_xr.tasks.detection import tile_points

SHAPE = (131, 146)
NAMES = ("a", "b")


def sized(path: Path, size: float | tuple[float, float, float]) -> Path:
    """The MRC with a voxel size in its header, written by mrcfile."""
    with mrcfile.open(path, mode="r+") as file:
        file.voxel_size = size
    return path


def micrographs(root: Path, *, size: float = 1.77, binning: int = 1) -> Cohort:
    """Two MRCs with annotated particles in a store, and picks of dark blobs."""
    for name in NAMES:
        sized(write_mrc(root / f"raw/{name}.mrc", picture(name, SHAPE)[::-1]), size)
        rows = "".join(f"{x},{y},{DIAMETER}\n" for y, x in centres(name, SHAPE))
        (root / f"raw/{name}.csv").write_text("x,y,diameter\n" + rows)
    ingest(root / "raw", root / "c.zarr", layout="micrographs", binning=binning)
    annotate(root / "raw", root / "c.zarr")
    pick(root / "c.zarr", run="blobs", model="log", part="all", border=4)
    return open_cohort(root / "c.zarr")


@pytest.fixture(scope="module", params=[1, 2])
def picked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two micrographs of odd sizes as they are, and with 2 x 2 pixels joined. Read only."""
    return micrographs(tmp_path_factory.mktemp("relion"), binning=request.param)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (1.06, 1.06), ((1.77, 1.77, 5.0), 1.77), (0.0, 0.0), (-1.5, 0.0), (0.001, 0.0), (5000.0, 0.0),
        ((1.0, 1.5, 1.0), 0.0), (float("nan"), 0.0), (float("inf"), 0.0),
    ],
)  # fmt: skip
def test_a_pixel_is_as_large_as_its_header_says_or_unknown(
    tmp_path: Path, size: float | tuple[float, float, float], told: float
) -> None:
    path = sized(write_mrc(tmp_path / "a.mrc", picture("a", (40, 52))), size)
    assert read_header(path, dtypes=MICROGRAPH_DTYPES).pixel_size_a == pytest.approx(told, rel=1e-6)
    with mrcfile.open(path) as file:
        x = float(file.voxel_size.x)
        assert told == 0 or told == pytest.approx(x, rel=1e-6)


def test_the_cell_is_divided_by_its_samples_in_either_byte_order(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.ones((20, 30), ">i2"))
        file.header.mx, file.header.my = 60, 40
        file.header.cella.x, file.header.cella.y = 90.0, 60.0
    assert read_header(tmp_path / "a.mrc", dtypes=MICROGRAPH_DTYPES).pixel_size_a == 1.5


def test_stored_pixels_are_larger_by_the_binning(picked: Cohort) -> None:
    images = picked.images(lazy=False)
    np.testing.assert_allclose(images[n.PIXEL_SIZE_A].values, 1.77 * images.attrs["binning"], rtol=1e-6)
    assert images[n.PIXEL_SIZE_A].attrs["units"] == "angstrom"


def test_coordinates_are_pixels_of_the_original_array(picked: Cohort, tmp_path: Path) -> None:
    paths = export(picked.url, to="relion", out=tmp_path)
    assert [path.name for path in paths] == ["a_autopick.star", "b_autopick.star", "autopick.star"]
    for name, path in zip(NAMES, paths[:2], strict=True):
        blocks = starfile.read(path, always_dict=True)
        assert list(blocks) == [""]
        table = blocks[""]
        assert table.columns.tolist() == ["rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"]
        pixels = mrcfile.read(Path(picked.url).parent / f"raw/{name}.mrc")
        # Dark pixels of the array around each pick, weighed: their centre is the pick's, in whole px of that array.
        for x, y in table[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy():
            rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
            near = (rows - y) ** 2 + (columns - x) ** 2 <= 4**2
            assert pixels[near].mean() < pixels.mean() - 5
        true = centres(name, SHAPE)
        in_array = np.column_stack([SHAPE[0] - 1 - true[:, 0], true[:, 1]])
        found = table[["rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
        nearest = np.linalg.norm(in_array[:, None] - found[None], axis=2).min(axis=1)
        assert np.median(nearest) < 1
        shift = np.median([found[np.linalg.norm(found - one, axis=1).argmin()] - one for one in in_array], axis=0)
        assert np.abs(shift).max() < 0.4


def test_the_list_pairs_micrographs_with_their_files(
    picked: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", picked.url, "--to", "relion", "--out", "AutoPick"]) == 0
    blocks = starfile.read(tmp_path / "AutoPick/blobs/autopick.star", always_dict=True)
    assert list(blocks) == ["coordinate_files"]
    table = blocks["coordinate_files"]
    assert table.columns.tolist() == ["rlnMicrographName", "rlnMicrographCoordinates"]
    assert table["rlnMicrographName"].tolist() == ["a.mrc", "b.mrc"]
    assert table["rlnMicrographCoordinates"].tolist() == [f"AutoPick/blobs/{name}_autopick.star" for name in NAMES]
    counts = [len(starfile.read(path)) for path in table["rlnMicrographCoordinates"]]
    picks = open_picks(picked, "blobs")
    assert counts == [len(picks_of(picks, at)) for at in range(2)]


def test_optics_say_the_pixel_size_of_the_files(picked: Cohort, tmp_path: Path) -> None:
    (path,) = export(picked.url, to="star", out=tmp_path)
    blocks = starfile.read(path, always_dict=True)
    assert list(blocks) == ["optics", "particles"]
    (group,) = blocks["optics"].to_dict("records")
    assert group == {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnMicrographPixelSize": 1.77}
    assert set(blocks["particles"]["rlnOpticsGroup"]) == {1}
    single = pd.concat(starfile.read(one) for one in export(picked.url, to="relion", out=tmp_path)[:2])
    for column in ("rlnCoordinateX", "rlnCoordinateY"):
        np.testing.assert_array_equal(blocks["particles"][column], single[column])


def test_annotate_reads_the_folder_back(picked: Cohort, tmp_path: Path) -> None:
    export(picked.url, to="relion", out=tmp_path / "out")
    ingest(Path(picked.url).parent / "raw", tmp_path / "c.zarr", layout="micrographs")
    report = annotate(tmp_path / "out", tmp_path / "c.zarr", diameter=DIAMETER)
    assert (report.n_added, report.left_out) == (2, ())
    again = open_cohort(tmp_path / "c.zarr").annotations(lazy=False).load()
    binning = picked.images(lazy=False).attrs["binning"]
    for at, tile in enumerate(picked.images()[n.TILE].values.tolist()):
        expected = (picks_of(open_picks(picked, "blobs"), at).yx + 0.5) * binning - 0.5
        np.testing.assert_allclose(tile_points(again, tile).yx, expected, atol=0.006)


def test_sizes_that_differ_are_said_and_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    micrographs(tmp_path, size=1.77)
    sized(write_mrc(tmp_path / "raw/c.mrc", picture("c", SHAPE)[::-1]), 1.06)
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    assert "stored pixels are of 2 sizes, 1.06, 1.77 angstrom" in capsys.readouterr().err
    pick(tmp_path / "c.zarr", run="blobs", model="log", part="all")
    (path,) = export(tmp_path / "c.zarr", to="star", out=tmp_path / "out")
    blocks = starfile.read(path, always_dict=True)
    rows = blocks["particles"].merge(blocks["optics"], on="rlnOpticsGroup")
    found = set(zip(rows["rlnMicrographName"], rows["rlnMicrographPixelSize"], strict=True))
    assert found == {("a.mrc", 1.77), ("b.mrc", 1.77), ("c.mrc", 1.06)}
    with pytest.raises(FintuneValueError, match=r"--pixel-size-a 1.06: the file of set/particles/a says 1.77 angstrom"):
        export(tmp_path / "c.zarr", to="star", out=tmp_path / "out", pixel_size_a=1.06)


def test_an_unknown_size_is_not_made_up_but_may_be_told(tmp_path: Path) -> None:
    cohort = micrographs(tmp_path, size=0.0)
    assert cohort.images(lazy=False)[n.PIXEL_SIZE_A].values.tolist() == [0, 0]
    (path,) = export(cohort.url, to="star", out=tmp_path / "out")
    assert list(starfile.read(path, always_dict=True)) == ["particles"]
    export(cohort.url, to="star", out=tmp_path / "out", pixel_size_a=1.32)
    assert starfile.read(path, always_dict=True)["optics"]["rlnMicrographPixelSize"].tolist() == [1.32]
    with pytest.raises(FintuneValueError, match="--pixel-size-a: expected angstrom above 0"):
        export(cohort.url, to="star", out=tmp_path / "out", pixel_size_a=-1.0)


def test_a_store_of_before_is_read_added_to_and_exported(tmp_path: Path) -> None:
    cohort = micrographs(tmp_path)
    shutil.rmtree(cohort.location.path / n.IMAGES / n.PIXEL_SIZE_A)
    attrs = cohort.location.path / n.IMAGES / "zarr.json"
    attrs.write_text(attrs.read_text().replace(f" {n.PIXEL_SIZE_A}", ""))
    write_mrc(tmp_path / "raw/c.mrc", picture("c", SHAPE)[::-1])
    assert ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs").n_added == 1
    images = open_cohort(cohort.url).images(lazy=False)
    assert n.PIXEL_SIZE_A not in images.coords
    assert images.sizes[n.TILE] == 3
    (path,) = export(cohort.url, to="star", out=tmp_path / "out")
    assert list(starfile.read(path, always_dict=True)) == ["particles"]
    remove_group(cohort.location, n.PICKS)
    assert check(cohort.url) == []


def test_rows_of_a_tiff_count_as_relion_reads_it(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw/a.tif", picture("a", SHAPE))
    rows = "".join(f"{x},{y},{DIAMETER}\n" for y, x in centres("a", SHAPE))
    (tmp_path / "raw/a.csv").write_text("x,y,diameter\n" + rows)
    ingest(tmp_path / "raw", tmp_path / "c.zarr", layout="micrographs")
    annotate(tmp_path / "raw", tmp_path / "c.zarr")
    pick(tmp_path / "c.zarr", run="blobs", model="log", part="all", border=4)
    path = export(tmp_path / "c.zarr", to="relion", out=tmp_path / "out")[0]
    as_read = tifffile.imread(tmp_path / "raw/a.tif")[::-1]
    for x, y in starfile.read(path)[["rlnCoordinateX", "rlnCoordinateY"]].round().to_numpy(int):
        assert as_read[y - 2 : y + 3, x - 2 : x + 3].mean() < as_read.mean() - 5
