"""Corners and centres, doubles, fractions and foreign files of coordinates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fintune_xr.errors import TileReadError
from fintune_xr.store.annotations.micrograph_frames import Micrograph, Reading, to_stored
from fintune_xr.store.raw.coordinates import Particles, read_coordinates
from fintune_xr.store.raw.coordinates.delimited_text import parse_csv, parse_tabs
from fintune_xr.store.raw.coordinates.json_lists import parse_json
from fintune_xr.store.raw.coordinates.particles import CENTRES, CORNERS
from fintune_xr.store.raw.coordinates.star import UNSHIFTED, parse_star
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


def test_the_last_two_axes_of_napari_are_rows_and_columns() -> None:
    assert parse_csv("index,axis-0,axis-1\n0,5,7\n1,8,9\n")[""].yx.tolist() == [[5, 7], [8, 9]]
    assert parse_csv("index,axis-0,axis-1,axis-2\n0,3.0,5,7\n1,3.0,8,9\n")[""].yx.tolist() == [[5, 7], [8, 9]]
    with pytest.raises(TileReadError, match="several planes: 'plane' tells rows apart, 3, 4"):
        parse_csv("index,axis-0,axis-1,axis-2\n0,3,5,7\n1,4,8,9\n")


def test_corners_of_shapes_of_napari_are_no_particles() -> None:
    with pytest.raises(TileReadError, match="corners of shapes that napari saved"):
        parse_csv("index,shape-type,vertex-index,axis-0,axis-1\n0,ellipse,0,1,1\n0,ellipse,1,1,9\n")


def test_imagej_tells_centroid_and_corner_beside_each_other() -> None:
    head = " ,Area,X,Y,BX,BY,Width,Height"
    assert parse_csv(f"{head}\n1,50,10,20,6,17,8,6\n")[""].yx.tolist() == [[20, 10]]


@pytest.mark.parametrize("name", ["z", "Slice", "frame", "Z-Coordinate", "micrograph_id", "ImageNumber"])
def test_particles_of_several_planes_or_pictures_do_not_share_a_micrograph(name: str) -> None:
    with pytest.raises(TileReadError, match=f"several .*: '{name}' tells rows apart, 1, 2"):
        parse_csv(f"x,y,{name}\n3,4,1\n5,6,2\n")
    with pytest.raises(TileReadError, match=f"several .*: '{name}' tells rows apart, 1, 2"):
        parse_json(json.dumps([{"x": 3, "y": 4, name: 1}, {"x": 5, "y": 6, name: 2}]))
    assert len(parse_csv(f"x,y,{name}\n3,4,1\n5,6,1\n")[""]) == 2


@pytest.mark.parametrize("name", ["micrograph", "filename", "Image", "image_name"])
def test_a_column_of_files_says_whose_particles_are(name: str) -> None:
    found = parse_csv(f"{name},x,y,image_id\na.mrc,1,2,1\nb.mrc,3,4,2\n")
    assert {micrograph: one.yx.tolist() for micrograph, one in found.items()} == {"a.mrc": [[2, 1]], "b.mrc": [[4, 3]]}


def star(columns: str, rows: str) -> str:
    loop = "\n".join(f"_rln{name} #{at}" for at, name in enumerate(columns.split(), start=1))
    return f"data_particles\n\nloop_\n{loop}\n{rows}\n"


@pytest.mark.parametrize(
    ("columns", "rows", "told"),
    [
        ("CoordinateX CoordinateY CoordinateZ", "1 2 3\n4 5 6", "several planes: 'rlnCoordinateZ'"),
        ("CoordinateX CoordinateY TomoName", "1 2 TS_01\n4 5 TS_02", "several micrographs: 'rlnTomoName'"),
        (
            "CoordinateX CoordinateY ImageName",
            "1 2 1@a.mrcs\n4 5 1@b.mrcs",
            "several micrographs: particles are in 2 st",
        ),
    ],
)
def test_rows_of_a_star_are_of_one_picture(columns: str, rows: str, told: str) -> None:
    with pytest.raises(TileReadError, match=told):
        parse_star(star(columns, rows))


def test_a_star_of_stacks_with_names_of_micrographs_is_read() -> None:
    found = parse_star(
        star("CoordinateX CoordinateY ImageName MicrographName", "1 2 1@a.mrcs a.mrc\n4 5 1@b.mrcs b.mrc")
    )
    assert {name: one.yx.tolist() for name, one in found.items()} == {"a.mrc": [[2, 1]], "b.mrc": [[5, 4]]}


@pytest.mark.parametrize(("shift", "told"), [("0.0", CENTRES), ("15.5", UNSHIFTED)])
def test_shifts_of_a_refinement_are_named(shift: str, told: str) -> None:
    found = parse_star(star("CoordinateX CoordinateY OriginXAngst", f"1 2 0.0\n4 5 {shift}"))[""]
    assert found.meaning == told


@pytest.mark.parametrize("text", ["10.0\t20.0\n30.0\t40.0\n", "10.0 20.0\n30.0 40.0\n"])
def test_numbers_without_names_of_columns_are_told_from_notes(text: str) -> None:
    with pytest.raises(TileReadError, match="the first row holds numbers, expected names of columns, such as x and y"):
        parse_tabs(text)


def test_boxes_of_eman2_are_named() -> None:
    with pytest.raises(TileReadError, match=r"as EMAN2 writes centres\. Save the boxes as BOX"):
        parse_json(json.dumps({"boxes": [[20.0, 30.0, "manual"]]}))


def cryosparc(tmp_path: Path, shape: tuple[int, int]) -> Particles:
    kinds = [("location/micrograph_path", "S8"), ("location/micrograph_shape", "u4", (2,))]
    kinds += [("location/center_x_frac", "f4"), ("location/center_y_frac", "f4")]
    table = np.array([(b"a.mrc", shape, 0.25, 0.5)], kinds)
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, table)
    return read_coordinates(tmp_path / "a.cs")[0]["a.mrc"]


def test_fractions_are_of_a_picture_of_the_same_shape(tmp_path: Path) -> None:
    micrograph = Micrograph("a", "d", "m", 100, 200, 201, 402, False, 2)
    points = to_stored(cryosparc(tmp_path, (200, 400)), micrograph, Reading(diameter=8.0), "image")
    np.testing.assert_allclose(points.yx, [[(100.5 + 0.5) / 2 - 0.5, (100.5 + 0.5) / 2 - 0.5]], atol=1e-4)
    with pytest.raises(TileReadError, match="fractions are of micrographs of 400 x 200 px, a is 201 x 402"):
        to_stored(cryosparc(tmp_path, (400, 200)), micrograph, Reading(diameter=8.0), "image")


def star_of(rows: str, *, optics: str = "", columns: str = "") -> str:
    names = "_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n" + columns
    return f"{optics}\ndata_particles\n\nloop_\n{names}{rows}\n"


OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnMicrographPixelSize #2\n_rlnImagePixelSize #3\n1 2.5 5\n2 1.25 5\n"
)
OF_GROUP = "_rlnOpticsGroup\n"


@pytest.mark.parametrize("name", ["mic#1.mrc", "#1.mrc", "donor's_1.mrc", "a'b'c.mrc", "mic#1#.mrc"])
@pytest.mark.parametrize("is_last", [False, True])
def test_signs_within_a_name_of_a_star_are_letters(name: str, is_last: bool) -> None:
    text = star_of(f"Micrographs/{name} 10 20\nMicrographs/b.mrc 30 40")
    if is_last:
        text = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2 # a comment\n_rlnMicrographName #3\n"
        text += f"10 20 Micrographs/{name}\n30 40 Micrographs/b.mrc # and one here\n"
    found = parse_star(text)
    assert {name: one.yx.tolist() for name, one in found.items()} == {
        f"Micrographs/{name}": [[20, 10]], "Micrographs/b.mrc": [[40, 30]],
    }  # fmt: skip


def test_a_star_tells_the_pixels_that_it_counts_in() -> None:
    found = parse_star(star_of("a.mrc 1 2 1\na.mrc 3 4 1\nb.mrc 5 6 2", optics=OPTICS, columns=OF_GROUP))
    assert {name: one.pixel_size_a for name, one in found.items()} == {"a.mrc": 2.5, "b.mrc": 1.25}
    with pytest.raises(TileReadError, match=r"pixels of a.mrc are of several sizes, 1.25 and 2.5 A"):
        parse_star(star_of("a.mrc 1 2 1\na.mrc 3 4 2", optics=OPTICS, columns=OF_GROUP))
    only_images = OPTICS.replace("_rlnMicrographPixelSize", "_rlnVoltage")
    assert parse_star(star_of("a.mrc 1 2 1", optics=only_images, columns=OF_GROUP))["a.mrc"].pixel_size_a == 0
    assert parse_star(star_of("a.mrc 1 2"))["a.mrc"].pixel_size_a == 0


def micrograph(pixel_size_a: float = 1.25) -> Micrograph:
    return Micrograph("t", "d", "m", 64, 80, 64, 80, is_turned=False, binning=1, pixel_size_a=pixel_size_a)


def test_pixels_of_another_size_are_asked_about() -> None:
    found = parse_star(star_of("a.mrc 10 20 1", optics=OPTICS, columns=OF_GROUP))["a.mrc"]
    with pytest.raises(TileReadError, match=r"pixels of 2.5 A, those of t are of 1.25 A.* --scale 2 reads them so"):
        to_stored(found, micrograph(), Reading(diameter=9), "image")
    # Pixels of a binned picture are blocks of pixels, whose centres lie half a pixel further on.
    np.testing.assert_allclose(to_stored(found, micrograph(), Reading(scale=2, diameter=9), "image").yx, [[40.5, 20.5]])
    for own, how in ((1.25, Reading(unit="px")), (2.4, Reading()), (0, Reading())):
        assert to_stored(found, micrograph(own), how, "image").yx.tolist() == [[20, 10]]


IN_UNIT = [
    ('{"unit": "%s", "particles": [{"x": 25, "y": 50, "diameter": 10}]}', parse_json),
    ('{"particles": [{"x": 25, "y": 50, "diameter": 10, "unit": "%s"}]}', parse_json),
    ('{"units": "%s", "a": {"boxes": [[20, 45, 10, 10]]}}', parse_json),
    ("x,y,diameter,unit\n25,50,10,%s\n", parse_csv),
]


@pytest.mark.parametrize(("form", "parse"), IN_UNIT)
@pytest.mark.parametrize(
    ("unit", "times"), [("px", 1), ("pixels", 1), ("angstrom", 0.8), ("Å", 0.8), ("nm", 8), ("µm", 8000)]
)
def test_a_unit_that_a_file_of_particles_states_is_obeyed(form: str, parse: Any, unit: str, times: float) -> None:
    (found,) = parse(form % unit).values()
    points = to_stored(found, micrograph(), Reading(diameter=10), "image")
    np.testing.assert_allclose(points.yx, [[50 * times, 25 * times]])
    np.testing.assert_allclose(points.diameter_px, 10 * times)
    other: Any = "angstrom" if times == 1 else "px"
    with pytest.raises(TileReadError, match=f"--unit says {other}"):
        to_stored(found, micrograph(), Reading(unit=other, diameter=10), "image")
    if times != 1:
        with pytest.raises(TileReadError, match="does not tell the size of its pixels"):
            to_stored(found, micrograph(0), Reading(), "image")


def test_units_that_are_unknown_or_several_are_refused() -> None:
    (found,) = parse_csv("x,y,unit\n1,2,cubit\n").values()
    with pytest.raises(TileReadError, match=r"in 'cubit'. Say what that is"):
        to_stored(found, micrograph(), Reading(diameter=1), "image")
    assert to_stored(found, micrograph(), Reading(unit="px", diameter=1), "image").yx.tolist() == [[2, 1]]
    with pytest.raises(TileReadError, match="rows are in several units, px, nm"):
        parse_csv("x,y,unit\n1,2,px\n1,3,nm\n")


def test_pixels_and_binning_that_a_file_of_particles_states() -> None:
    for text, parse in (
        ('{"apix": 2.5, "particles": [{"x": 10, "y": 20}]}', parse_json),
        ('{"pixel_size": 2.5, "boxes": [[5, 15, 10, 10]]}', parse_json), ("x,y,pixel_size_A\n10,20,2.5\n", parse_csv),
    ):  # fmt: skip
        (found,) = parse(text).values()
        with pytest.raises(TileReadError, match=r"--scale 2 reads them so"):
            to_stored(found, micrograph(), Reading(diameter=9), "image")
        assert to_stored(found, micrograph(2.5), Reading(diameter=9), "image").yx.tolist() == [[20, 10]]
    for text, parse in (
        ('{"binning": 4, "particles": [{"x": 10, "y": 20}]}', parse_json), ("x,y,bin\n10,20,4\n", parse_csv),
    ):  # fmt: skip
        with pytest.raises(TileReadError, match="counts in a picture binned by 4"):
            parse(text)
        assert len(next(iter(parse(text.replace("4", "1")).values()))) == 1
