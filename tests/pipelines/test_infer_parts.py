"""A run over parts of the split: the other tiles stay pending, and come later as if they had come at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from stores import annotate, assert_same_run, make_store, run_values

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, StoreDamagedError, UnknownNameError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import create
from fintune_xr.text import text_array, texts

SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu", "positivity=mixture")


@pytest.fixture(autouse=True)
def three_tiles_in_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "tiles_per_shard", lambda _: 3)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Eight tiles of four donors; the first tile of each is annotated."""
    made = make_store(tmp_path / "c.zarr", donors=4, tiles=2)
    names = texts(made.images()[n.TILE])
    mask = np.zeros((64, 64), np.uint32)
    mask[10:20, 10:20] = 1
    annotate(made, dict.fromkeys(names[::2], mask))
    split(made.url, fractions=(0.5, 0.25, 0.25))
    return made


def test_only_tiles_of_the_parts_are_done_and_the_rest_follows(cohort: Cohort, tmp_path: Path) -> None:
    whole = shutil.copytree(cohort.url, tmp_path / "whole.zarr")
    infer(whole, run="r", model="threshold", overrides=SETTINGS)
    parts = text_array(cohort.images()[n.SPLIT])
    summary = infer(cohort.url, run="r", model="threshold", overrides=SETTINGS, parts=(n.VAL, n.TEST))
    assert (summary.n_done, summary.n_new, summary.n_tiles) == (2, 2, 8)
    state = cohort.run("r")[n.STATE].values
    np.testing.assert_array_equal(state == n.DONE, np.isin(parts, (n.VAL, n.TEST)))
    assert evaluate(cohort.url, runs=("r",), split=n.TEST).sizes[n.TILE] == 1
    assert check(cohort.url) == []
    with pytest.raises(FintuneValueError, match=r"6 of 8 tiles pending.*or name other runs"):
        positivity(cohort.url, run="r")
    assert infer(cohort.url, run="r", parts=(n.TEST,)).n_new == 0
    assert infer(cohort.url, run="r", parts=(n.TRAIN,)).n_new == 2
    assert infer(cohort.url, run="r").n_new == 4
    assert_same_run(run_values(open_cohort(whole), "r"), run_values(cohort, "r"))
    assert cohort.positivity("r").equals(open_cohort(whole).positivity("r"))
    assert check(cohort.url) == []


def test_a_lost_shard_with_finished_tiles_is_no_shard_of_pending_ones(cohort: Cohort) -> None:
    infer(cohort.url, run="r", model="threshold", overrides=SETTINGS, parts=(n.VAL,))
    for shard in Path(cohort.url).glob("runs/r/mask/c.*"):
        shard.unlink()
    with pytest.raises(StoreDamagedError, match="expected a shard, found nothing"):
        infer(cohort.url, run="r")


def test_parts_must_be_parts_of_a_split(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no part of the split 'tests'.*Did you mean 'test'"):
        infer(cohort.url, run="r", model="threshold", parts=("tests",))
    bare = make_store(tmp_path / "bare.zarr", donors=1, tiles=1)
    with pytest.raises(SplitError, match="no split yet"):
        infer(bare.url, run="r", model="threshold", parts=(n.TEST,))
