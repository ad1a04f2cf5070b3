"""Corners and centres, doubles, fractions and foreign files of coordinates."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.delimited import parse_csv
from fintune_xr.store.raw.coordinates.json_lists import parse_json
from fintune_xr.store.raw.coordinates.star import parse_star


@pytest.mark.parametrize("head", ["x,y,width,height", "x,y,w,h", "X-Coordinate,Y-Coordinate,Width,Height"])
def test_a_box_is_told_by_its_corner(head: str) -> None:
    np.testing.assert_array_equal(parse_csv(f"{head}\n10,20,8,6\n")[""].yx, [[23, 14]])


def test_with_a_diameter_x_and_y_are_the_centre() -> None:
    np.testing.assert_array_equal(parse_csv("x,y,width,height,diameter\n10,20,8,6,9\n")[""].yx, [[20, 10]])


def test_doubles_count_once() -> None:
    found = parse_csv("x,y\n1,2\n1,2\n3,4\n1,2\n")[""]
    assert (found.yx.tolist(), found.n_twice) == ([[2, 1], [4, 3]], 2)


def test_fractions_are_no_pixels() -> None:
    with pytest.raises(TileReadError, match="fractions"):
        parse_csv("x,y\n0.25,0.5\n0.75,0.125\n")
    assert len(parse_csv("x,y\n0,0\n1,1\n")[""]) == 2


def test_foreign_json_is_named() -> None:
    for content, program in (({"shapes": []}, "LabelMe"), ({"images": [], "annotations": []}, "COCO")):
        with pytest.raises(TileReadError, match=program):
            parse_json(json.dumps(content))


def test_all_blocks_of_a_star_are_read_and_names_are_text() -> None:
    block = "data_{}\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n{}\n\n"
    found = parse_star(block.format("a", "1.0 2.0 007") + block.format("b", "3.0 4.0 007\n5.0 6.0 12"))
    assert {name: len(one) for name, one in found.items()} == {"007": 2, "12": 1}
