"""The table of points: stored, opened, and read tile by tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from micrographs import make_micrographs

from fintune_xr import names as n
from fintune_xr.errors import StoreNotFoundError, UnknownNameError
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.tasks.detection import POINTS, Points, points_table, tile_points


def particles(*rows: tuple[float, float, float]) -> Points:
    """Points of these y, x and diameters."""
    table = np.array(rows, float).reshape(-1, 3)
    return Points(table[:, :2], table[:, 2])


def em_cohort(where: Path) -> Cohort:
    """An EM cohort without tiles."""
    return create_cohort(where, kind="em", channels=[n.MICROGRAPH], tile_shape=(32, 32), dtype="uint16")


TILES = {"grid/m0": particles((1, 2, 5), (3.5, 4.25, 5)), "grid/m1": particles(), "grid/m2": particles((30, 0, 6))}
FILES = {tile: f"{tile}.csv" for tile in (*TILES, "empty")}


def test_nothing_is_annotated_yet(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="fintune-xr annotate COORDINATES"):
        em_cohort(tmp_path / "c.zarr").annotations()


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_stored_comes_back(tmp_path: Path, lazy: bool) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=("",) * 3, px=32)
    cohort.write(n.ANNOTATIONS, points_table(TILES, source=FILES, sha256=FILES), POINTS)
    found = cohort.annotations(lazy=lazy).load()
    assert found[n.TILE].values.tolist() == list(TILES)
    assert found.sel({n.TILE: "grid/m2"})[n.SOURCE].item() == "grid/m2.csv"
    for tile, points in TILES.items():
        one = tile_points(found, tile)
        np.testing.assert_array_equal(one.yx, points.yx)
        np.testing.assert_array_equal(one.diameter_px, points.diameter_px)


def test_a_tile_without_particles_is_not_one_without_annotation(tmp_path: Path) -> None:
    table = points_table({"empty": particles()}, source=FILES, sha256=FILES)
    cohort = em_cohort(tmp_path / "c.zarr")
    cohort.write(n.ANNOTATIONS, table, POINTS)
    found = cohort.annotations(lazy=False)
    assert len(tile_points(found, "empty")) == 0
    with pytest.raises(UnknownNameError, match=r"no annotated tile 'emty'.*Did you mean 'empty'"):
        tile_points(found, "emty")
