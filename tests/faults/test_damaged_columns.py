"""Bytes of small arrays that are not what was written: one error that names the store, whatever the codecs raise."""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fintune_xr import names as n
from fintune_xr.errors import FintuneError, StoreDamagedError
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.check import check
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.coordinates import read_coordinates
from fintune_xr.store.zarr_io.groups import open_column

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "a.zarr"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_level(file: Path, level: int) -> None:
    """Of the compression."""
    codecs = json.loads(file.read_text())["codecs"]
    (blosc,) = (codec for codec in codecs if codec["name"] == "blosc")
    blosc["configuration"]["clevel"] = level
    change(file, codecs=codecs)


def numbers_for_text(store: Path) -> None:
    """What follows is taken for the lengths of texts, and asks for any amount of memory."""
    shutil.copy(store / "clinical/outcome_value/c.0.0", store / "clinical/outcome/c.0")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "label of tiles": lambda store: flip(store / "images/tile/c.0"),
    "names of files": lambda store: flip(store / "images/source/c.0.0"),
    "description of the tiles": lambda store: (store / "images/tile/zarr.json").unlink(),
    "chunks of no rows": lambda store: change(
        store / "clinical/outcome_value/zarr.json",
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 1]}},
    ),
    "fill value that is text": lambda store: change(store / "analysis/rho/zarr.json", fill_value="x"),
    "array in place of a group": lambda store: shutil.copy(
        store / "images/tile/zarr.json", store / "annotations/zarr.json"
    ),
    "numbers in place of text": numbers_for_text,
    "rows without end": lambda store: change(store / "analysis/reason/zarr.json", shape=[2**40, 1, 8]),
    "codecs that write nothing": lambda store: change_level(store / "runs/a/n_positive/zarr.json", -1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_names_what_is_damaged_and_goes_on(store: Path, damage: str) -> None:
    DAMAGE[damage](store)
    assert check(store)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_report_of_a_damaged_store_is_made_without_that_or_refused_in_one_sentence(store: Path, damage: str) -> None:
    DAMAGE[damage](store)
    page = store.parent / "r.html"
    with contextlib.suppress(FintuneError):
        page = report(store, out=page)
        assert page.is_file()


def test_text_that_asks_for_all_memory_is_damage(store: Path) -> None:
    numbers_for_text(store)
    with pytest.raises(StoreDamagedError, match="clinical"):
        open_cohort(store).read(n.CLINICAL).load()


def test_rows_that_break_off_inside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\n1,2\n3\r\x00,4\n5\r,6\n")
    with pytest.raises(FintuneError, match=r"a\.csv"):
        read_coordinates(tmp_path / "a.csv")


def test_rows_without_end_are_one_problem(store: Path) -> None:
    DAMAGE["rows without end"](store)
    (problem,) = check(store)
    assert problem.where == "analysis/reason"
    assert "1,099,511,627,776 chunks" in problem.what


def test_codecs_that_write_nothing_are_told_before_anything_is_written(store: Path) -> None:
    DAMAGE["codecs that write nothing"](store)
    before = (store / "runs/a/n_positive/c.0").read_bytes()
    with pytest.raises(StoreDamagedError, match="n_positive cannot be written: the codecs"):
        open_column(open_cohort(store).location, "runs/a/n_positive")
    assert (store / "runs/a/n_positive/c.0").read_bytes() == before
    (problem,) = check(store)
    assert problem.where == "runs/a/n_positive"
