"""Corners and centres, doubles, fractions and foreign files of coordinates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates import Particles, read_coordinates
from fintune_xr.store.raw.coordinates.delimited_text import parse_csv, parse_tabs
from fintune_xr.store.raw.coordinates.json_lists import parse_json
from fintune_xr.store.raw.coordinates.particles import CENTRES, CORNERS
from fintune_xr.store.raw.coordinates.star import parse_star
from fintune_xr.store.raw.readers.drawings.json_documents import parse_json as parse_document


@pytest.mark.parametrize("head", ["x,y,width,height", "x,y,w,h", "X-Coordinate,Y-Coordinate,Width,Height"])
def test_a_box_is_told_by_its_corner(head: str) -> None:
    np.testing.assert_array_equal(parse_csv(f"{head}\n10,20,8,6\n")[""].yx, [[23, 14]])


def test_with_a_diameter_x_and_y_are_the_centre() -> None:
    np.testing.assert_array_equal(parse_csv("x,y,width,height,diameter\n10,20,8,6,9\n")[""].yx, [[20, 10]])


def test_doubles_count_once() -> None:
    found = parse_csv("x,y\n1,2\n1,2\n3,4\n1,2\n")[""]
    assert (found.yx.tolist(), found.n_twice) == ([[2, 1], [4, 3]], 2)


KINDS = ["1,2,0\n3,4,1\n5,6,1\n", "1,2,noise\n3,4,particle\n5,6,particle\n", "1,2,\n3,4,x\n5,6,x\n"]


@pytest.mark.parametrize("name", ["label", "Class", "is_particle"])
@pytest.mark.parametrize("rows", KINDS)
def test_rows_of_several_kinds_are_not_all_particles(name: str, rows: str) -> None:
    with pytest.raises(TileReadError, match=f"several kinds: '{name}' tells rows apart"):
        parse_csv(f"x,y,{name}\n{rows}")
    with pytest.raises(TileReadError, match=f"several kinds: '{name}' tells rows apart"):
        values = [line.split(",") for line in rows.split()]
        parse_json(json.dumps([{"x": int(x), "y": int(y), name: kind} for x, y, kind in values]))


def test_rows_of_one_kind_and_numbers_of_particles_are_no_kinds() -> None:
    assert len(parse_csv("x,y,label\n1,2,particle\n \n,,\n3,4,particle\n")[""]) == 2
    assert len(parse_csv("x,y,label\n1,2,1\n3,4,2\n5,6,3\n")[""]) == 3


@pytest.mark.parametrize("head", ["x,y,X,Y", "x,x,y,width", "X-Coordinate,Y-Coordinate,x_coordinate,size"])
def test_a_column_that_is_there_twice_is_refused(head: str) -> None:
    with pytest.raises(TileReadError, match="are there twice"):
        parse_csv(f"{head}\n1,2,30,40\n")


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(TileReadError, match="'x' is there twice"):
        parse_json('[{"x": 1, "y": 2, "x": 3}]')
    with pytest.raises(TileReadError, match="'shapes' is there twice"):
        parse_document(b'{"shapes": [], "shapes": [1]}')


def read(folder: Path, name: str, text: str) -> Particles:
    (folder / name).write_text(text)
    [found] = read_coordinates(folder / name)[0].values()
    return found


STAR = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"


@pytest.mark.parametrize(("name", "head"), [("a.csv", "x,y\n"), ("a.txt", "x\ty\n"), ("a.star", STAR)])
def test_fractions_are_no_pixels(tmp_path: Path, name: str, head: str) -> None:
    gap = {"a.csv": ",", "a.txt": "\t"}.get(name, " ")
    with pytest.raises(TileReadError, match="fractions"):
        read(tmp_path, name, f"{head}0.25{gap}0.5\n0.75{gap}0.125\n")
    assert len(read(tmp_path, name, f"{head}0{gap}0\n1{gap}1\n")) == 2


@pytest.mark.parametrize(
    ("head", "row", "centre", "meaning"),
    [
        ("xmin,ymin,xmax,ymax", "10,20,18,26", (23, 14), CORNERS),
        ("left,top,width,height", "10,20,8,6", (23, 14), CORNERS),
        ("x_center,y_center,width,height", "10,20,8,6", (20, 10), CENTRES),
        ("index,axis-0,axis-1", "0,20,10", (20, 10), CENTRES),
        ("x,y", "10,20", (20, 10), CENTRES),
    ],
)
def test_the_columns_say_what_a_position_is(head: str, row: str, centre: tuple[int, int], meaning: str) -> None:
    found = parse_csv(f"{head}\n{row}\n")[""]
    assert (found.yx.tolist(), found.meaning) == ([list(centre)], meaning)


@pytest.mark.parametrize("head", ["x_A,y_A", "X (Å),Y (Å)", "x_angstrom,y_angstrom", "x_nm,y_nm", "x_um,y_um"])
def test_columns_of_lengths_in_the_specimen_are_no_pixels(head: str) -> None:
    with pytest.raises(TileReadError, match=r"not in px: the columns .*--unit angstrom"):
        parse_csv(f"{head}\n10,20\n")


def test_a_table_of_topaz_names_micrographs_and_scores() -> None:
    found = parse_tabs("image_name\tx_coord\ty_coord\tscore\na\t1\t2\t3.5\na\t4\t5\t-2\nb\t6\t7\t\n")
    assert {name: one.yx.tolist() for name, one in found.items()} == {"a": [[2, 1], [5, 4]], "b": [[7, 6]]}
    assert found["a"].lowest_score == -2
    assert np.isnan(found["b"].lowest_score)


CS = [("location/micrograph_path", "S40"), ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")]


def test_a_table_of_cryosparc_holds_fractions_by_micrograph(tmp_path: Path) -> None:
    with (tmp_path / "picked.cs").open("wb") as file:
        np.save(file, np.array([(b"S1/a.mrc", 0.25, 0.5), (b"S1/b.mrc", 0.75, 0.125)], CS))
    found, _ = read_coordinates(tmp_path / "picked.cs")
    held = {name: one.yx.tolist() for name, one in found.items()}
    assert held == {"S1/a.mrc": [[0.5, 0.25]], "S1/b.mrc": [[0.125, 0.75]]}
    assert all(one.is_fraction for one in found.values())


def test_other_tables_of_numpy_are_refused(tmp_path: Path) -> None:
    for content, reason in ((np.zeros(3, CS[:2]), "expected the columns"), (np.array([{}], object), "unreadable")):
        with (tmp_path / "a.cs").open("wb") as file:
            np.save(file, content, allow_pickle=True)
        with pytest.raises(TileReadError, match=reason):
            read_coordinates(tmp_path / "a.cs")


def test_foreign_json_is_named() -> None:
    for content, program in (({"shapes": []}, "LabelMe"), ({"images": [], "annotations": []}, "COCO")):
        with pytest.raises(TileReadError, match=program):
            parse_json(json.dumps(content))


def test_all_blocks_of_a_star_are_read_and_names_are_text() -> None:
    block = "data_{}\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n{}\n\n"
    found = parse_star(block.format("a", "1.0 2.0 007") + block.format("b", "3.0 4.0 007\n5.0 6.0 12"))
    assert {name: len(one) for name, one in found.items()} == {"007": 2, "12": 1}
