"""Descriptions of arrays and groups that are none: one clear error whatever zarr would have said of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fintune_xr.errors import FintuneError, StoreDamagedError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.store.cohort import open_cohort

DATA = Path(__file__).parents[1] / "data"
ARRAY = "runs/a/n_cells/zarr.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "a.zarr"


def broken(store: Path, path: str, text: str) -> str:
    """What stood in a file of the store before `text` took its place."""
    before = (store / path).read_text()
    (store / path).write_text(text)
    return before


def with_value(text: str, key: str, value: Any) -> str:
    told = json.loads(text)
    told[key] = value
    return json.dumps(told)


@pytest.mark.parametrize(
    ("key", "value"),
    [("shape", [{}]), ("data_type", 3), ("chunk_grid", []), ("codecs", None), ("node_type", "tree"), ("attributes", 7)],
)
def test_a_description_with_one_wrong_value(sound: Path, key: str, value: Any) -> None:
    before = (sound / ARRAY).read_text()
    broken(sound, ARRAY, with_value(before, key, value))
    try:
        with pytest.raises(FintuneError):
            open_cohort(sound).run("a").load()
        assert any(ARRAY.rpartition("/")[0] in str(problem) for problem in check(sound))
    finally:
        broken(sound, ARRAY, before)
    open_cohort(sound).run("a").load()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "\x00\xff"])
def test_a_root_that_is_no_description(sound: Path, text: str) -> None:
    before = broken(sound, "zarr.json", text)
    try:
        with pytest.raises(StoreDamagedError, match=r"zarr\.json.*no description"):
            open_cohort(sound)
    finally:
        broken(sound, "zarr.json", before)


def test_an_array_in_the_place_of_the_root(sound: Path) -> None:
    before = broken(sound, "zarr.json", (sound / ARRAY).read_text())
    try:
        with pytest.raises(StoreDamagedError, match="check"):
            open_cohort(sound)
    finally:
        broken(sound, "zarr.json", before)
