"""A kind of cohort and a task of its own, added by rows of the tables alone, go from ingest to report."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import killing
import numpy as np
import pandas as pd
import pytest
import tifffile
import toy_task
from toy_task import LEVEL, SIDE_PX, WEIGHT

import fintune_xr as fx
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.models import registry
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.evaluate import score_table

WEIGHED = {"a": 3, "b": 5, "c": 1, "d": 16, "e": 8, "f": 2}


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The rows of the toy, in tables that are as before afterwards."""
    for table, name, row in toy_task.ROWS:
        monkeypatch.setitem(table, name, row)
    monkeypatch.setattr(registry, "KINDS", toy_task.MODELS)
    registry.kinds.cache_clear()
    yield
    registry.kinds.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store of six tiles with as many bright pixels as they weigh, and their weights."""
    for tile, weight in WEIGHED.items():
        for channel in (0, 1):
            path = tmp_path / "raw" / "d1" / "GFAP" / f"{tile}_b0c{channel}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            plane = np.full((SIDE_PX, SIDE_PX), ord(tile) % 50 + channel, np.uint16)
            plane[5, :weight] = LEVEL + 1
            tifffile.imwrite(path, plane)
    assert fx.ingest(tmp_path / "raw", tmp_path / "c.zarr", kind="toy").n_added == len(WEIGHED)
    listed = tmp_path / "weights.csv"
    pd.DataFrame({"tile": tiles_of(str(tmp_path / "c.zarr")), WEIGHT: WEIGHED.values()}).to_csv(listed, index=False)
    assert fx.annotate(listed, tmp_path / "c.zarr").n_added == len(WEIGHED)
    return str(tmp_path / "c.zarr")


def tiles_of(store: str) -> list[str]:
    return [str(tile) for tile in fx.open_cohort(store).images(lazy=False)[n.TILE].values]


def test_a_task_is_rows_of_tables(store: str, tmp_path: Path) -> None:
    """From ingest to report, with a kill in the middle of infer, which is continued."""
    process = killing.FORKS.Process(target=toy_task.infer_and_die, args=(store, 2))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    states = fx.open_cohort(store).run("r", lazy=False)[n.STATE].values
    assert (states == n.DONE).sum() == 2, "killed in the middle"
    assert cli.run(["infer", store, "--run", "r", "--model", "scales", "--cluster", "threads", "device=cpu"]) == 0
    run = fx.open_cohort(store).run("r", lazy=False)
    assert (run[n.STATE].values == n.DONE).all()
    assert run[WEIGHT].values.tolist() == list(WEIGHED.values())
    scores = fx.evaluate(store, split="all")
    assert scores.attrs[n.TASK] == "weighing"
    assert score_table(scores)[WEIGHT].tolist() == list(WEIGHED.values())
    page = fx.report(store, out=tmp_path / "r.html").read_text()
    assert f"They weigh {sum(WEIGHED.values())} in all; scales are wrong of 0." in page
    written = pd.read_csv(tmp_path / "r_tables" / "weights.tsv", sep="\t")
    assert written[WEIGHT].sum() == sum(WEIGHED.values())
    assert fx.check(store) == []


def test_exports_and_verbs_are_those_of_the_task(store: str, tmp_path: Path) -> None:
    assert fx.export(store, to="weights", out=tmp_path / "out")[0].read_text() == " ".join(tiles_of(store))
    with pytest.raises(FintuneValueError, match=r"expected a cohort .* of kind 'toy', whose annotations are weights"):
        fx.export(store, to="star", out=tmp_path / "out")
    with pytest.raises(FintuneValueError, match=r"pick: expected .* Weigh it"):
        fx.pick(store, run="r")
