"""Points that lie on what micrographs show, turned ones, those of others and corners of boxes are told apart."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fintune_xr as fx
from fintune_xr.pipelines.detection.point_placement import point_placement, point_placement_lines
from fintune_xr.tasks.detection import Points
from tests.support.em_files import centres, picture, write_mrc

PX = 320
NAMES = [f"m{at}" for at in range(4)]
PLANES = {name: picture(name, (PX, PX)) for name in NAMES}
POINTS = {name: Points(centres(name, (PX, PX)), np.full(len(centres(name, (PX, PX))), 14.0)) for name in NAMES}
LAST = PX - 1
TURNS = {
    "left for right": lambda y, x: (y, LAST - x), "upside down": lambda y, x: (LAST - y, x),
    "180": lambda y, x: (LAST - y, LAST - x), "rows for columns": lambda y, x: (x, y),
    # What is done to points that were saved turned the other way.
    "90° clockwise": lambda y, x: (LAST - x, y), "90° counterclockwise": lambda y, x: (x, LAST - y),
    "other diagonal": lambda y, x: (LAST - x, LAST - y),
}  # fmt: skip


def lines(points: dict[str, Points]) -> list[str]:
    return point_placement_lines({name: point_placement(PLANES[name], one) for name, one in points.items()})


def moved(one: Points, yx: np.ndarray) -> Points:
    return replace(one, yx=np.asarray(yx, np.float64))


def test_points_on_what_is_shown_say_nothing_whichever_is_dark() -> None:
    assert lines(POINTS) == []
    dark = {name: point_placement(-PLANES[name], POINTS[name]) for name in NAMES}
    assert point_placement_lines(dark) == []
    flat = {name: point_placement(np.zeros((PX, PX)), POINTS[name]) for name in NAMES}
    assert point_placement_lines(flat) == []


@pytest.mark.parametrize("turn", TURNS)
def test_turned_points_are_named_with_what_turns_them_back(turn: str) -> None:
    [line] = lines({name: moved(one, np.stack(TURNS[turn](*one.yx.T), axis=1)) for name, one in POINTS.items()})
    assert line.startswith("in 4 of the 4 micrographs looked at")
    assert f"{turn}" in line


def test_points_of_another_micrograph_are_named() -> None:
    [line] = lines({**POINTS, "m2": POINTS["m0"]})
    assert "in 1 of the 4 micrographs looked at, no channel tells points" in line
    assert ": m2." in line


def test_corners_taken_for_centres_are_asked_about() -> None:
    [line] = lines({name: moved(one, one.yx - 7) for name, one in POINTS.items()})
    assert "px below and" in line
    assert "to the right of the points" in line


def test_large_particles_are_looked_at_in_larger_pixels() -> None:
    planes = {name: np.kron(plane, np.ones((4, 4))) for name, plane in PLANES.items()}
    large = {name: Points(4 * one.yx + 1.5, 4 * one.diameter_px) for name, one in POINTS.items()}
    looked = {name: point_placement(planes[name], one) for name, one in large.items()}
    assert {one.px for one in looked.values() if one} == {5}
    assert point_placement_lines(looked) == []
    turned = {name: moved(one, [4 * PX - 1, 0] + one.yx * [-1, 1]) for name, one in large.items()}
    [line] = point_placement_lines({name: point_placement(planes[name], one) for name, one in turned.items()})
    assert "mirrored upside down" in line
    corners = {name: point_placement(planes[name], moved(one, one.yx - 28)) for name, one in large.items()}
    [line] = point_placement_lines(corners)
    down, right = (int(found) for found in re.findall(r"(\d+) px", line))
    assert max(abs(down - 28), abs(right - 28)) <= 5


def test_annotate_says_that_rows_were_counted_from_the_other_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "points").mkdir()
    for name in NAMES[:2]:
        write_mrc(tmp_path / "mics" / f"{name}.mrc", PLANES[name][::-1])
        rows = "\n".join(f"{x},{LAST - y}" for y, x in POINTS[name].yx)
        (tmp_path / "points" / f"{name}.csv").write_text(f"x,y\n{rows}\n")
    fx.ingest(tmp_path / "mics", tmp_path / "s.zarr", layout="micrographs", kind="em")
    fx.annotate(tmp_path / "points", tmp_path / "s.zarr", diameter=14.0)
    assert "mirrored upside down" in "".join(capsys.readouterr())
    fx.annotate(tmp_path / "points", tmp_path / "s.zarr", diameter=14.0, frame="file", restart=True)
    assert "mirrored" not in "".join(capsys.readouterr())
