"""Particle coordinates from files into the store: formats, frames, binning, and what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import starfile
from em_files import picture, write_mrc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError, UnknownNameError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pixels.discs import disc_target
from fintune_xr.store.annotations.micrograph_frames import Micrograph, Reading, first_of_close, merge_limit
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.coordinates import Particles, read_coordinates
from fintune_xr.tasks.detection import Points, tile_points

SHAPE = (64, 80)
XYD = [(10, 12, 9), (70, 30, 9), (33, 60, 9)]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def csv_text(rows: list[tuple[float, ...]] = XYD) -> str:
    return "X-Coordinate,Y-Coordinate,Diameter\n" + "".join(f"{x},{y},{d}\n" for x, y, d in rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two PNGs, to be copied."""
    return cohort_of(tmp_path_factory.mktemp("em")).location.path


@pytest.fixture
def cohort(tmp_path: Path, made: Path) -> Cohort:
    """A copy of it, to be annotated."""
    shutil.copytree(made, tmp_path / "c.zarr")
    return open_cohort(tmp_path / "c.zarr")


def cohort_of(root: Path, *, kind: str = "png", binning: int = 1, pixel_size_a: float = 0.0) -> Cohort:
    """A store of two micrographs of this format."""
    for name in ("a", "b"):
        pixels = picture(name, SHAPE)
        if kind == "mrc":
            write_mrc(root / f"raw/{name}.mrc", pixels[::-1], pixel_size_a=pixel_size_a)
        else:
            (root / "raw").mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"raw/{name}.png")
    ingest(root / "raw", root / "c.zarr", layout="micrographs", binning=binning)
    return open_cohort(root / "c.zarr")


def stored(cohort: Cohort, name: str = "a") -> np.ndarray:
    """Points of a tile as x, y, diameter, sorted."""
    one = tile_points(cohort.annotations(lazy=False).load(), f"set/particles/{name}")
    return np.array(sorted(zip(one.yx[:, 1], one.yx[:, 0], one.diameter_px, strict=True)))


FORMS: dict[str, tuple[str, str]] = {
    "CSV of CryoPPP": ("a.csv", csv_text()),
    "long form": (
        "a.csv",
        "X-Coordinate,Y-Coordinate,Class Number,Diameter,Defocus U\n"
        + "".join(f"{x},{y},1,{d},1.5e4\n" for x, y, d in XYD),
    ),
    "plain CSV": ("a.csv", "x, y, diameter\n" + "".join(f"{x}, {y}, {d}\n" for x, y, d in XYD)),
    "CSV with micrographs": (
        "all.csv",
        "micrograph_name,x_coord,y_coord,diameter\n" + "".join(f"mics/a.mrc,{x},{y},{d}\n" for x, y, d in XYD),
    ),
    "CSV of Windows": ("a.csv", "\ufeff" + csv_text().replace("\n", "\r\n")),
    "JSON list": ("a.json", json.dumps([{"x": x, "y": y, "diameter": d} for x, y, d in XYD])),
    "JSON with diameter": (
        "a.json", json.dumps({"diameter": 9, "particles": [{"x": x, "y": y} for x, y, _ in XYD]}),
    ),
    "JSON by micrograph": ("all.json", json.dumps({"a": [{"x": x, "y": y, "diameter": d} for x, y, d in XYD]})),
    "JSON boxes": ("a.json", json.dumps({"boxes": [[x - 7, y - 7, 14, 14] for x, y, _ in XYD]})),
    "BOX": ("a.box", "".join(f"{x - 7}\t{y - 7}\t14\t14\n" for x, y, _ in XYD)),
    "BOX with a fifth field": ("a.box", "".join(f"{x - 7} {y - 7} 14 14 -3\n" for x, y, _ in XYD)),
    "STAR": (
        "a.star",
        "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n" + "".join(f"{x} {y}\n" for x, y, _ in XYD),
    ),
    "STAR of RELION 3.1": (
        "particles.star",
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 1.77\n\ndata_particles\n\nloop_\n"
        "_rlnCoordinateX #1\n_rlnMicrographName #2\n_rlnCoordinateY #3\n"
        + "".join(f"{x} MotionCorr/job002/a.mrc {y}\n" for x, y, _ in XYD),
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(cohort: Cohort, tmp_path: Path, form: str) -> None:
    name, text = FORMS[form]
    report = annotate(write(tmp_path / "points" / name, text), cohort.url, diameter=9)
    assert (report.n_added, report.left_out) == (1, ())
    np.testing.assert_array_equal(stored(cohort), sorted(XYD))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "expected a row of column names, found nothing"),
        ("a.csv", "X,Z\n1,2\n", "expected columns X-Coordinate and Y-Coordinate"),
        ("a.csv", csv_text() + "5,six,9\n", "row 5: expected a number as Y-Coordinate, found 'six'"),
        ("a.csv", csv_text() + "5,nan,9\n", "row 5: expected a number as Y-Coordinate, found 'nan'"),
        ("a.csv", csv_text() + "5,6\n", "row 5: expected 3 fields, found 2"),
        ("a.csv", csv_text() + "5,6,0\n", "row 5: expected a Diameter above 0"),
        ("a.csv", csv_text() + "5,6,\n", "row 5: expected a number as Diameter, found ''"),
        ("a.box", "1 2 3\n", "row 1: expected x, y, width, height"),
        ("a.box", "1 2 3 0\n", "row 1: expected a height above 0"),
        ("a.json", "{", "expected JSON"),
        ("a.json", "7", "expected a list of particles or boxes, found int"),
        ("a.json", '[{"x": 1}]', "particle 1: expected"),
        ("a.json", '[{"x": 1, "y": true}]', "particle 1: expected a number as y, found True"),
        ("a.json", '{"a": [{"x": 1, "y": 2, "diameter": -1}]}', "a: particle 1: expected a diameter above 0"),
        ("a.json", '{"boxes": [[1, 2, 3]]}', "box 1: expected .x, y, width, height."),
        ("a.star", "nothing here", "expected a loop with rlnCoordinateX and rlnCoordinateY"),
        ("a.star", "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n3 x\n", "particle 2: expected a"),
        ("a.dat", "1 2", "expected .csv, .tsv, .txt, .star, .box, .json, .cs, found .dat"),
    ],
)
def test_what_is_malformed_is_told_with_its_row(tmp_path: Path, name: str, text: str, reason: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(TileReadError, match=reason) as error:
        read_coordinates(path)
    assert error.value.path == str(path)


def test_a_malformed_file_is_left_out_and_the_others_stay(cohort: Cohort, tmp_path: Path) -> None:
    write(tmp_path / "points/a.csv", csv_text() + "1,two,9\n")
    write(tmp_path / "points/b.csv", csv_text())
    (tmp_path / "points/c.csv").write_bytes(b"\xff\xfe\x00")
    report = annotate(tmp_path / "points", cohort.url)
    assert report.n_added == 1
    assert [item.path for item in report.left_out] == ["a.csv", "c.csv"]
    assert cohort.annotated_tiles() == ["set/particles/b"]


def test_an_empty_file_says_that_there_are_no_particles(cohort: Cohort, tmp_path: Path) -> None:
    annotate(write(tmp_path / "a.csv", "X-Coordinate,Y-Coordinate,Diameter\n"), cohort.url)
    assert cohort.annotated_tiles() == ["set/particles/a"]
    assert len(stored(cohort)) == 0


def test_points_outside_are_named(cohort: Cohort, tmp_path: Path) -> None:
    write(tmp_path / "points/a.csv", csv_text([(10, 12, 9), (80, 12, 9), (5, -3, 9)]))
    report = annotate(tmp_path / "points", cohort.url)
    assert report.n_added == 0
    reason = report.left_out[0].reason
    assert "2 of 3 points lie outside the micrograph of 64 x 80 px: (x 80, y 12), (x 5, y -3)" in reason
    assert "--scale" in reason


def test_a_diameter_is_asked_for(cohort: Cohort, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,y\n10,12\n")
    with pytest.raises(FintuneValueError, match=r"a.csv does not tell the diameter .* --diameter"):
        annotate(path, cohort.url)
    annotate(path, cohort.url, diameter=11)
    assert stored(cohort).tolist() == [[10, 12, 11]]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"diameter": 0}, "--diameter: expected"),
        ({"scale": -1}, "--scale: expected"),
        ({"frame": "upside"}, "no frame for --frame 'upside'; known: file, image"),
    ],
)
def test_lengths_and_frames_that_make_no_sense(
    cohort: Cohort, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises((FintuneValueError, UnknownNameError), match=told):
        annotate(write(tmp_path / "a.csv", csv_text()), cohort.url, **wrong)


def test_files_are_paired_by_name(cohort: Cohort, tmp_path: Path) -> None:
    write(tmp_path / "p/a_autopick.csv", csv_text())
    write(tmp_path / "p/zzz.csv", csv_text())
    write(tmp_path / "p/more/a.csv", csv_text())
    report = annotate(tmp_path / "p", cohort.url)
    assert report.n_added == 1
    reasons = {item.path: item.reason for item in report.left_out}
    assert reasons["more/a.csv"] == "duplicate: same micrograph as a_autopick.csv"
    assert reasons["zzz.csv"] == "unpaired: the store has no micrograph zzz"


def test_run_again_changed_and_read_otherwise(cohort: Cohort, tmp_path: Path) -> None:
    path = write(tmp_path / "p/a.csv", csv_text())
    annotate(tmp_path / "p", cohort.url)
    assert annotate(tmp_path / "p", cohort.url).n_present == 1
    otherwise = annotate(tmp_path / "p", cohort.url, scale=0.5)
    assert "another --frame, --scale, --diameter or --merge-closer" in otherwise.left_out[0].reason
    write(path, csv_text(XYD[:2]))
    changed = annotate(tmp_path / "p", cohort.url)
    assert "changed since it was stored" in changed.left_out[0].reason
    assert len(stored(cohort)) == 3
    annotate(tmp_path / "p", cohort.url, restart=True)
    assert len(stored(cohort)) == 2


def test_points_are_added_in_the_order_of_the_micrographs(cohort: Cohort, tmp_path: Path) -> None:
    annotate(write(tmp_path / "b.csv", csv_text(XYD[:1])), cohort.url)
    annotate(write(tmp_path / "a.csv", csv_text()), cohort.url)
    assert cohort.annotated_tiles() == ["set/particles/a", "set/particles/b"]
    assert (len(stored(cohort)), len(stored(cohort, "b"))) == (3, 1)


@pytest.mark.parametrize(("kind", "turned"), [("png", False), ("mrc", True)])
def test_rows_of_an_mrc_count_from_the_bottom(tmp_path: Path, kind: str, turned: bool) -> None:
    cohort = cohort_of(tmp_path, kind=kind)
    star = write(tmp_path / "a.star", FORMS["STAR"][1])
    annotate(star, cohort.url, diameter=9)
    expected = sorted((x, SHAPE[0] - 1 - y if turned else y, d) for x, y, d in XYD)
    np.testing.assert_array_equal(stored(cohort), expected)
    annotate(star, cohort.url, diameter=9, frame="image", restart=True)
    np.testing.assert_array_equal(stored(cohort), sorted(XYD))


@given(st.sampled_from([1, 2, 3, 5, 8]), st.sampled_from([0.25, 1.0, 2.0]), st.integers(0, 1000))
def test_discs_stay_on_their_pixels_when_pixels_are_joined(binning: int, scale: float, seed: int) -> None:
    from fintune_xr.store.annotations.micrograph_frames import Micrograph, Reading, to_file, to_stored

    rng = np.random.default_rng(seed)
    micrograph = Micrograph("a", "s", "p", 96 // binning, 96 // binning, 96, 96, True, binning)
    yx = rng.uniform(10, 86, (4, 2)) / scale
    particles = Particles(yx, np.full(4, 24.0 / scale))
    for frame in ("image", "file"):
        points = to_stored(particles, micrograph, Reading(scale=scale), frame)
        np.testing.assert_allclose(points.diameter_px, 24 / binning)
        back = to_file(points.yx, micrograph, frame)
        np.testing.assert_allclose(back, (yx + 0.5) * scale - 0.5)
    # The disc drawn on small pixels and joined has the same centre of mass as the one drawn on large pixels.
    points = to_stored(Particles(yx[:1], particles.diameter[:1]), micrograph, Reading(scale=scale), "image")
    whole = disc_target((yx[:1] + 0.5) * scale - 0.5, np.array([24.0]), (96, 96))
    joined = disc_target(points.yx, points.diameter_px, (96 // binning, 96 // binning))
    centre = (np.argwhere(whole == 1).mean(axis=0) + 0.5) / binning - 0.5
    np.testing.assert_allclose(np.argwhere(joined == 1).mean(axis=0), centre, atol=0.51)


def test_points_on_rows_that_binning_left_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = cohort_of(tmp_path, binning=30)
    report = annotate(write(tmp_path / "a.csv", csv_text()), cohort.url)
    assert (report.n_points, report.n_cut) == (1, 2)
    assert "2 points lie on rows or columns that binning left out" in capsys.readouterr().err


def test_masks_and_particles_are_not_mixed(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no layout of coordinates 'cryopp'.*Did you mean 'cryoppp'"):
        annotate(tmp_path, cohort.url, layout="cryopp")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.png").touch()
    with pytest.raises(FintuneValueError, match="fits layout 'coordinates'"):
        annotate(tmp_path / "raw", cohort.url)


def test_a_set_of_cryoppp(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mrc(tmp_path / f"10017/micrographs/{name}.mrc", picture(name, SHAPE)[::-1])
        write_mrc(tmp_path / f"10081/micrographs/{name}.mrc", picture(f"other{name}", SHAPE)[::-1])
        write(tmp_path / f"10017/ground_truth/particle_coordinates/{name}.csv", csv_text())
    write(tmp_path / "10017/ground_truth/empiar-10017_particles_selected.star", FORMS["STAR"][1])
    ingest(tmp_path, tmp_path / "c.zarr", layout="cryoppp")
    report = annotate(tmp_path, tmp_path / "c.zarr", layout="cryoppp")
    assert (report.n_added, report.left_out) == (2, ())
    assert open_cohort(tmp_path / "c.zarr").annotated_tiles() == ["10017/particles/a", "10017/particles/b"]
    ambiguous = annotate(tmp_path / "10017/ground_truth/particle_coordinates", tmp_path / "c.zarr")
    assert "ambiguous: a fits 2 micrographs" in ambiguous.left_out[0].reason


def test_real_coordinates_lie_on_the_dark_particles(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "cryosegnet-empiar10017"
    ingest(folder / "mrc_binned4", tmp_path / "c.zarr", layout="micrographs")
    cohort = open_cohort(tmp_path / "c.zarr")
    annotate(folder / "coordinates", cohort.url, scale=0.25)
    annotate(folder / "coordinates_from_masks", cohort.url, scale=0.25)
    points = cohort.annotations(lazy=False).load()
    assert len(cohort.annotated_tiles()) == 2
    for tile in cohort.annotated_tiles():
        raw = cohort.images(lazy=False)[n.IMAGE].sel({n.TILE: tile}).values[0].astype(float)
        image = raw - ndimage.gaussian_filter(raw, 40)
        one = tile_points(points, tile)
        inside = disc_target(one.yx, one.diameter_px, image.shape) == 1
        # Upside down the discs would lie anywhere: inside and outside would be alike.
        contrast = (image[inside].mean() - image[~inside].mean()) / image.std()
        turned = (image[inside[::-1]].mean() - image[~inside[::-1]].mean()) / image.std()
        assert contrast < -0.15
        assert abs(turned) < 0.05


def test_the_star_of_the_real_set_counts_from_the_top(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "cryosegnet-empiar10017"
    star, _ = read_coordinates(folder / "sample.star")
    table, _ = read_coordinates(next((folder / "coordinates").glob("*.csv")))
    ((name, found),) = star.items()
    assert name == "Falcon_2012_06_12-14_33_35_0.mrc"
    np.testing.assert_array_equal(found.yx, table[""].yx)
    assert len(pd.DataFrame(starfile.read(folder / "sample.star"))) == len(found)


def test_angstrom_are_divided_by_the_size_of_a_pixel(tmp_path: Path) -> None:
    text = "x,y,diameter\n" + "".join(f"{1.25 * x},{1.25 * y},{1.25 * d}\n" for x, y, d in XYD)
    (tmp_path / "told").mkdir()
    cohort = cohort_of(tmp_path / "told", kind="mrc", pixel_size_a=1.25)
    file = write(tmp_path / "points/a.csv", text)
    assert annotate(file, cohort.url, unit="angstrom").n_added == 1
    np.testing.assert_allclose(stored(cohort), sorted(XYD))
    unknown = cohort_of(tmp_path, kind="mrc")
    assert "does not tell the size of its pixels" in annotate(file, unknown.url, unit="angstrom").left_out[0].reason


def test_points_that_fill_a_corner_alone_are_asked_about(cohort: Cohort, tmp_path: Path) -> None:
    height, width = SHAPE
    rows = [(0.6 * width * i / 15, 0.6 * height * ((7 * i) % 16) / 15, 9) for i in range(16)]
    file = write(tmp_path / "points/a.csv", csv_text(rows))
    with pytest.raises(FintuneValueError, match=r"all 16 points lie in the first 60% of the rows .*--unit angstrom"):
        annotate(file, cohort.url)
    assert annotate(file, cohort.url, scale=1.5, dry_run=True).n_points == 16
    assert annotate(file, cohort.url, unit="px").n_points == 16


def test_points_outside_are_left_away_where_it_is_asked_for(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "points/a.csv", csv_text([*XYD, (SHAPE[1], 5, 9), (-3, 5, 9)]))
    assert "--drop-outside" in annotate(file, cohort.url).left_out[0].reason
    report = annotate(file, cohort.url, drop_outside=True)
    assert (report.n_added, report.n_points, report.n_outside) == (1, 3, 2)
    assert "2 points lie outside their micrograph" in capsys.readouterr().err
    np.testing.assert_array_equal(stored(cohort), sorted(XYD))
    most = write(tmp_path / "points/b.csv", csv_text([(5, 5, 9), (SHAPE[1], 5, 9), (-3, 5, 9)]))
    assert "2 of 3 points lie outside" in annotate(most, cohort.url, drop_outside=True).left_out[0].reason


NEAR = [*XYD, (10.3, 12.2, 9), (70, 32, 9), (33, 60, 8)]
"""XYD, with each of its points again: 0.36 px and 2 px apart, and at the same place with another diameter."""


def test_points_close_together_are_named_and_merged_where_it_is_asked_for(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "points/a.csv", csv_text(NEAR))
    assert annotate(file, cohort.url).n_points == 6
    said = capsys.readouterr().err
    assert "6 points lie closer to another than half their diameter, the closest 0 diameters" in said
    assert "--merge-closer" in said
    reason = annotate(file, cohort.url, merge_closer=1.0).left_out[0].reason
    assert "another --frame, --scale, --diameter or --merge-closer" in reason
    merged = annotate(file, cohort.url, merge_closer=1.0, restart=True)
    assert (merged.n_points, merged.n_merged, merged.n_close) == (4, 2, 2)
    assert "2 points lie closer to another than asked, and are left away" in capsys.readouterr().err
    np.testing.assert_array_equal(stored(cohort), sorted([*XYD, (70, 32, 9)]))
    assert annotate(file, cohort.url, merge_closer=2.01, restart=True).n_points == 3
    assert "closer" not in capsys.readouterr().err.replace("closer to another than asked", "")
    np.testing.assert_array_equal(stored(cohort), sorted(XYD))
    with pytest.raises(FintuneValueError, match="--merge-closer: expected a length above 0, got 0"):
        annotate(file, cohort.url, merge_closer=0.0)


def test_particles_beside_each_other_are_not_named(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two that touch, and two that overlap by half."""
    file = write(tmp_path / "points/a.csv", csv_text([(10, 10, 9), (19, 10, 9), (40, 40, 9), (40, 44.6, 9)]))
    assert annotate(file, cohort.url).n_close == 0
    assert "closer" not in capsys.readouterr().err


@given(
    places=st.lists(st.tuples(st.integers(0, 63), st.integers(0, 79)), max_size=40),
    limit=st.sampled_from([0.5, 1.0, 3.0, 200.0]),
    binning=st.sampled_from([1, 2]),
)
def test_of_points_closer_than_asked_the_first_is_kept(
    places: list[tuple[int, int]], limit: float, binning: int
) -> None:
    """By hand, one by one: a point stays where no earlier one that stays is nearer. Lengths are those of the file."""
    frame = Micrograph("t", "d", "m", 64 // binning, 80 // binning, 64, 80, is_turned=False, binning=binning)
    points = Points(np.array(places, float).reshape(-1, 2) / binning, np.full(len(places), 9.0 / binning))
    told = Particles(points.yx * binning, points.diameter_px * binning)
    found = first_of_close(points, merge_limit(told, frame, Reading(merge_closer=limit)))
    kept: list[tuple[int, int]] = []
    for one in places:
        if all(np.hypot(*np.subtract(one, other)) >= limit for other in kept):
            kept.append(one)
    assert (found.yx * binning).tolist() == [[float(y), float(x)] for y, x in kept]


def test_fractions_of_cryosparc_are_parts_of_the_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = cohort_of(tmp_path, kind="mrc")
    height, width = SHAPE
    columns = [
        ("location/micrograph_path", "S40"),
        ("location/center_x_frac", "<f8"),
        ("location/center_y_frac", "<f8"),
    ]
    rows = [(b"J1/a.mrc", x / width, (height - 1 - y) / height) for x, y, _ in XYD]
    (tmp_path / "points").mkdir()
    with (tmp_path / "points/picked.cs").open("wb") as file:
        np.save(file, np.array(rows, columns))
    assert annotate(tmp_path / "points", cohort.url, diameter=9).n_added == 1
    np.testing.assert_allclose(stored(cohort), sorted(XYD))
    said = " ".join(capsys.readouterr().err.split())
    assert "1 table holds fractions of the micrograph's sides, rows counted as the micrograph's file has them" in said


def test_micrographs_without_a_particle_are_named(
    cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "points/b.csv", csv_text([]))
    folder = write(tmp_path / "points/a.csv", csv_text()).parent
    assert annotate(folder, cohort.url).n_added == 2
    assert "1 of 2 annotated tiles have annotations without an object, e.g. " in capsys.readouterr().err
    unused = open_cohort(cohort.url).images(lazy=False).attrs[n.UNUSED_ANNOTATIONS]
    assert any("without an object" in line for lines in unused.values() for line in lines)
