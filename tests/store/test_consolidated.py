"""Consolidated metadata, which zarr's own function adds to a store: plain xarray never hears of what has been."""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xarray as xr
import zarr
from stores import add_tiles, make_store

from fintune_xr import names as n
from fintune_xr.store import cohort as cohorts
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.create import remove_run
from fintune_xr.store.zarr_io import groups

LIST = "consolidated_metadata"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """A store with a run, its cells and positivity, whose metadata somebody has consolidated."""
    with tarfile.open(Path(__file__).parents[1] / "data" / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    consolidate(tmp_path / "a.zarr")
    return open_cohort(tmp_path / "a.zarr")


def consolidate(store: Path, path: str | None = None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(store, path=path)


def is_consolidated(store: Path, path: str = "") -> bool:
    return LIST in json.loads((store / path / "zarr.json").read_text())


def group_paths(store: Path) -> Iterator[str]:
    for file in sorted(store.rglob("zarr.json")):
        if json.loads(file.read_text())["node_type"] == "group":
            yield file.parent.relative_to(store).as_posix().replace(".", "")


def test_every_group_of_a_consolidated_store_opens_without_a_warning(cohort: Cohort) -> None:
    paths = list(group_paths(cohort.location.path))
    assert {"", n.IMAGES, n.QUARANTINE, f"{n.RUNS}/a", f"{n.CELLS}/a", f"{n.POSITIVITY}/a"} <= {*paths}
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opened = xr.open_zarr(cohort.url, group=path)
            xr.testing.assert_identical(opened.load(), xr.open_zarr(cohort.url, group=path, consolidated=False).load())


def replace_positivity(cohort: Cohort) -> None:
    path = f"{n.POSITIVITY}/a"
    stored = groups.open_unindexed(cohort.location, path, None, lazy=False)
    groups.replace_group(cohort.location, path, stored.isel(rule=slice(1)), None)


def append_tiles(cohort: Cohort) -> None:
    px = cohort.images().sizes[n.Y]
    add_tiles(cohort, ["d9/GFAP/000", "d9/GFAP/001"], px=px)


def say_of_images(cohort: Cohort) -> None:
    groups.open_writable(cohort.location, n.IMAGES).attrs["remark"] = "new"


CHANGES: list[Callable[[Cohort], None]] = [
    append_tiles,
    replace_positivity,
    say_of_images,
    lambda cohort: remove_run(cohort, "a"),
    lambda cohort: groups.remove_group(cohort.location, f"{n.CELLS}/a"),
    lambda cohort: groups.open_column(cohort.location, f"{n.RUNS}/a/{n.STATE}").attrs.update(remark="new"),
]


@pytest.mark.parametrize("change", CHANGES, ids=["append", "replace", "attrs", "remove run", "remove", "array"])
def test_whatever_changes_a_store_takes_away_what_repeats_it(cohort: Cohort, change: Callable[[Cohort], None]) -> None:
    store = cohort.location.path
    assert is_consolidated(store)
    change(cohort)
    assert not is_consolidated(store)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated")
        for path in group_paths(store):
            plain = xr.open_zarr(store, group=path)
            xr.testing.assert_identical(plain, xr.open_zarr(store, group=path, consolidated=False))


def test_of_a_group_that_repeats_its_own_arrays_too(cohort: Cohort) -> None:
    consolidate(cohort.location.path, n.IMAGES)
    append_tiles(cohort)
    assert not is_consolidated(cohort.location.path, n.IMAGES)
    assert xr.open_zarr(f"{cohort.url}/{n.IMAGES}", consolidated=False).sizes[n.TILE] == cohort.images_group().n_tiles


def test_what_only_reads_leaves_it_there(cohort: Cohort) -> None:
    assert cohort.images().sizes[n.TILE] == cohort.images_group().n_tiles
    cohort.cells("a").load()
    assert is_consolidated(cohort.location.path)


def test_a_list_that_another_program_left_behind_is_not_believed(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    cohort = make_store(store, donors=1, tiles=2, px=16)
    consolidate(store)
    old = (store / "zarr.json").read_bytes()
    add_tiles(cohort, ["d9/GFAP/000"], px=16)
    (store / "zarr.json").write_bytes(old)
    root = zarr.open_group(open_cohort(store).location.zarr(), mode="r")
    assert root[f"{n.IMAGES}/{n.IMAGE}"].shape[0] == 3
    cohorts.set_root_attrs(cohort, remark="new")
    assert not is_consolidated(store)
    assert json.loads((store / "zarr.json").read_text())["attributes"]["remark"] == "new"
