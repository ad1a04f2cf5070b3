"""Picks for other programs: the pixels that they are written in, and the way back."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from em_files import centres, picture, write_mrc
from micrographs import make_micrographs
from probability_runs import plausible_maps, store_run

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.pick import pick
from fintune_xr.pixels.discs import disc_target
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.picks import open_picks, picks_of
from fintune_xr.tasks.detection import tile_points

SHAPE = (130, 145)
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two MRCs whose sizes binning by 4 does not divide, with picks of dark blobs."""
    root = tmp_path_factory.mktemp("em")
    for name in NAMES:
        write_mrc(root / f"10017/micrographs/{name}.mrc", picture(name, SHAPE)[::-1])
        rows = "".join(f"{x},{y},12\n" for y, x in centres(name, SHAPE))
        (root / "points").mkdir(exist_ok=True)
        (root / f"points/{name}.csv").write_text("x,y,diameter\n" + rows)
    ingest(root, root / "c.zarr", layout="cryoppp", binning=4)
    annotate(root / "points", root / "c.zarr")
    pick(root / "c.zarr", run="blobs", model="log", part="all")
    return open_cohort(root / "c.zarr")


def points(cohort: Cohort, name: str) -> np.ndarray:
    """Stored points of a micrograph, sorted."""
    yx = tile_points(cohort.annotations(lazy=False).load(), f"10017/particles/{name}").yx
    return yx[np.lexsort(yx.T)]


@pytest.mark.parametrize(("to", "frame", "near"), [
    ("star", None, 0.01), ("box", None, 0.26), ("csv", None, 0.01), ("star", "image", 0.01), ("csv", "file", 0.01),
])  # fmt: skip
def test_annotate_reads_back_what_was_written(
    picked: Cohort, tmp_path: Path, to: str, frame: str | None, near: float
) -> None:
    paths = export(picked.url, to=to, out=tmp_path / "out", frame=frame)  # type: ignore[arg-type]
    assert {path.parent.name for path in paths} == {"blobs"}
    root = Path(picked.url).parent
    ingest(root, tmp_path / "again.zarr", layout="cryoppp", binning=4)
    again = open_cohort(tmp_path / "again.zarr")
    report = annotate(tmp_path / "out", again.url, diameter=12, frame=frame)  # type: ignore[arg-type]
    assert (report.n_added, report.left_out) == (2, ())
    for at, name in enumerate(NAMES):
        yx = picks_of(open_picks(picked, "blobs"), at).yx
        found = points(again, name)
        assert len(found) == len(yx)
        distance = np.linalg.norm(found[:, None] - yx[None], axis=2)
        assert distance.min(axis=1).max() <= near * np.sqrt(2)
        assert distance.min(axis=0).max() <= near * np.sqrt(2)


def test_rows_of_a_star_are_rows_of_the_mrc(picked: Cohort, tmp_path: Path) -> None:
    (path,) = export(picked.url, to="star", out=tmp_path, runs=["blobs"])
    assert path == tmp_path / "blobs" / "particles.star"
    table = pd.DataFrame(starfile.read(path))
    assert set(table) == {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"}
    root = Path(picked.url).parent
    for source, rows in table.groupby("rlnMicrographName"):
        pixels = mrcfile.read(root / str(source))
        yx = rows[["rlnCoordinateY", "rlnCoordinateX"]].to_numpy()
        for turned, is_right in ((yx, True), (np.column_stack([SHAPE[0] - 1 - yx[:, 0], yx[:, 1]]), False)):
            inside = disc_target(turned, np.full(len(turned), 8.0), SHAPE) == 1
            contrast = pixels[~inside].mean() - pixels[inside].mean()
            assert (contrast > 8) == is_right


def test_a_csv_is_cryoppps_and_a_box_is_emans(picked: Cohort, tmp_path: Path) -> None:
    paths = export(picked.url, to="csv", out=tmp_path)
    assert sorted(path.name for path in paths) == ["a.csv", "b.csv"]
    table = pd.read_csv(paths[0])
    assert table.columns.tolist() == ["X-Coordinate", "Y-Coordinate", "Diameter", "Score"]
    assert set(table["Diameter"]) == {12}
    true = centres("a", SHAPE)
    nearest = np.linalg.norm(table[["Y-Coordinate", "X-Coordinate"]].to_numpy()[:, None] - true[None], axis=2)
    assert (nearest.min(axis=0) < 4).mean() > 0.9
    box = np.loadtxt(export(picked.url, to="box", out=tmp_path)[0])
    assert (box[:, 2:] == 18).all()
    np.testing.assert_allclose(box[:, 0] + 9, table["X-Coordinate"], atol=0.51)
    np.testing.assert_allclose(SHAPE[0] - 1 - (box[:, 1] + 9), table["Y-Coordinate"], atol=0.51)


def test_a_micrograph_without_picks_has_a_file_without_rows(picked: Cohort, tmp_path: Path) -> None:
    pick(picked.url, run="none", model="log", threshold=1e6)
    for to, rows in (("csv", 1), ("box", 0)):
        for path in export(picked.url, to=to, out=tmp_path, runs=["none"]):
            assert len(path.read_text().splitlines()) == rows
    (star,) = export(picked.url, to="star", out=tmp_path, runs=["none"])
    assert "_rlnCoordinateX" in star.read_text()


def test_wrong_use_is_told(picked: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no kind of export 'stars'"):
        export(picked.url, to="stars", out=tmp_path)
    with pytest.raises(UnknownNameError, match=r"no picks of a run 'unet'; known: .* Make them: .* --run unet$"):
        export(picked.url, to="star", out=tmp_path, runs=["unet"])
    ingest(Path(picked.url).parent, tmp_path / "c.zarr", layout="cryoppp")
    with pytest.raises(FintuneValueError, match=r"no picks to export. Run: fintune-xr pick"):
        export(tmp_path / "c.zarr", to="box", out=tmp_path)


def test_runs_of_probabilities_have_tables_and_no_masks(tmp_path: Path) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=(n.VAL, n.TEST), px=64)
    store_run(cohort, "unet", plausible_maps(cohort))
    with pytest.raises(FintuneValueError, match=r"holds maps of probability and no masks. .* --to star"):
        export(cohort.url, to="masks", out=tmp_path)
    cells, tiles = export(cohort.url, to="tables", out=tmp_path)
    stored = cohort.cells("unet", lazy=False).load()
    np.testing.assert_array_equal(pd.read_parquet(cells)["score"], stored[n.SCORE].values)
    assert pd.read_csv(tiles, sep="\t")["n_cells"].sum() == stored.sizes[n.CELL]


def test_real_coordinates_make_the_whole_round(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "cryosegnet-empiar10017"
    ingest(folder / "mrc_binned4", tmp_path / "c.zarr", layout="micrographs", binning=2)
    annotate(folder / "coordinates", tmp_path / "c.zarr", scale=0.25)
    cohort = open_cohort(tmp_path / "c.zarr")
    pick(cohort.url, run="blobs", model="log", part="all")
    export(cohort.url, to="star", out=tmp_path / "out")
    ingest(folder / "mrc_binned4", tmp_path / "again.zarr", layout="micrographs", binning=2)
    annotate(tmp_path / "out", tmp_path / "again.zarr", diameter=27)
    again = open_cohort(tmp_path / "again.zarr").annotations(lazy=False).load()
    for at, tile in enumerate(cohort.images()[n.TILE].values.tolist()):
        np.testing.assert_allclose(tile_points(again, tile).yx, picks_of(open_picks(cohort, "blobs"), at).yx, atol=0.01)


def test_micrographs_of_two_sets_that_share_a_name_do_not_share_a_file(tmp_path: Path) -> None:
    for number, group in enumerate(("10017", "10081")):
        write_mrc(tmp_path / f"{group}/micrographs/a.mrc", picture(f"{number}", SHAPE)[::-1])
    points_folder = tmp_path / "10017/ground_truth/particle_coordinates"
    points_folder.mkdir(parents=True)
    (points_folder / "a.csv").write_text("x,y,diameter\n50,60,12\n")
    ingest(tmp_path, tmp_path / "c.zarr", layout="cryoppp", binning=4)
    annotate(tmp_path, tmp_path / "c.zarr", layout="cryoppp")
    pick(tmp_path / "c.zarr", run="blobs", model="log", part="all")
    paths = export(tmp_path / "c.zarr", to="csv", out=tmp_path / "out")
    assert sorted(path.name for path in paths) == ["10017__particles__a.csv", "10081__particles__a.csv"]
    ingest(tmp_path, tmp_path / "d.zarr", layout="cryoppp")
    assert annotate(tmp_path / "out", tmp_path / "d.zarr").n_added == 2
