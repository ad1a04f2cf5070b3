"""Disc targets: against brute force, and against the masks that come with real micrographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.io import imread

from fintune_xr.errors import FintuneValueError
from fintune_xr.pixels.discs import disc_target

SHAPE = (23, 31)
CENTRES = st.lists(st.tuples(st.floats(-12, 40), st.floats(-12, 40), st.floats(0.1, 25)), max_size=6)


def brute_force(points: np.ndarray, diameters: np.ndarray, shape: tuple[int, int], rim: float) -> np.ndarray:
    """Every pixel against every disc."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside, near = np.zeros(shape, bool), np.zeros(shape, bool)
    for (cy, cx), diameter in zip(points, diameters, strict=True):
        distance = (y - cy) ** 2 + (x - cx) ** 2
        inside |= distance <= (diameter / 2) ** 2
        near |= distance <= (diameter / 2 + rim) ** 2
    return np.where(inside, 1, np.where(near, -1, 0))


@given(CENTRES, st.sampled_from([0.0, 0.7, 3.0]))
def test_every_pixel_is_as_brute_force_says(discs: list[tuple[float, float, float]], rim: float) -> None:
    table = np.array(discs, float).reshape(-1, 3)
    target = disc_target(table[:, :2], table[:, 2], SHAPE, rim_px=rim)
    assert target.dtype == np.int8
    np.testing.assert_array_equal(target, brute_force(table[:, :2], table[:, 2], SHAPE, rim))


def test_a_pixel_at_exactly_half_the_diameter_is_inside() -> None:
    target = disc_target(np.array([[5, 5]]), np.array([6]), (11, 11))
    assert target[5, 8] == target[2, 5] == 1
    assert target[5, 9] == target[8, 6] == 0


def test_the_rim_of_one_disc_leaves_the_inside_of_another() -> None:
    target = disc_target(np.array([[5, 5], [5, 9]]), np.array([4, 4]), (11, 15), rim_px=3)
    assert target[5, 7] == 1
    assert target[5, 2] == -1
    assert set(np.unique(target)) == {-1, 0, 1}


def test_a_tile_without_particles_is_background_not_unknown() -> None:
    assert not disc_target(np.empty((0, 2)), np.empty(0), (4, 4)).any()


@pytest.mark.parametrize(
    ("points", "diameters", "rim", "message"),
    [
        ([[1, 1], [2, 2]], [3], 0, "one diameter for each point, got 1 for 2"),
        ([[1, np.nan]], [3], 0, "finite points and diameters above 0"),
        ([[1, 1]], [0], 0, "diameters above 0"),
        ([[1, 1]], [2], -1, "rim_px: expected 0 or more"),
    ],
)
def test_what_is_no_disc_is_refused(
    points: list[list[float]], diameters: list[float], rim: float, message: str
) -> None:
    with pytest.raises(FintuneValueError, match=message):
        disc_target(np.array(points), np.array(diameters), (9, 9), rim_px=rim)


def test_real_masks_are_drawn_exactly(real_data: Path) -> None:
    folder = real_data / "cryosegnet-empiar10017"
    for tables in ("coordinates", "coordinates_from_masks"):
        table = next((folder / tables).glob("*.csv"))
        mask = imread(folder / "masks" / f"{table.stem}_mask.png") > 0
        rows = pd.read_csv(table)
        drawn = disc_target(rows[["Y-Coordinate", "X-Coordinate"]].to_numpy(), rows["Diameter"].to_numpy(), mask.shape)
        np.testing.assert_array_equal(drawn == 1, mask)
