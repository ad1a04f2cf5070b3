"""Stores and checkpoints that version 0.1.0 wrote before the rooms were divided by task: still read, and continued."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.models.registry import kind_named, resolve_checkpoint
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.split import require_split

DATA = Path(__file__).parents[1] / "data"
CPU = ("device=cpu", "cluster.dashboard=false")
# Array and the run that is finished, and with what.
PIXELS = {"cells": n.MASK, "particles": n.PROBABILITY}
FINISHED = {"cells": ("a", "threshold"), "particles": ("p", "models/t")}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    for name in PIXELS:
        with tarfile.open(DATA / f"{name}.tar.gz") as archive:
            archive.extractall(folder / name, filter="data")
    return folder


@pytest.fixture(params=list(PIXELS))
def old(request: pytest.FixtureRequest, unpacked: Path, tmp_path: Path) -> Path:
    """A folder with a store, its models and, for cells, the clinical table."""
    shutil.copytree(unpacked / request.param, tmp_path / request.param)
    return tmp_path / request.param


def test_every_part_opens_and_the_store_is_sound(old: Path) -> None:
    cohort = open_cohort(old / "a.zarr")
    assert cohort.kind == {"cells": "if", "particles": "em"}[old.name]
    assert cohort.images()[n.IMAGE].load().sizes[n.TILE] == 7
    assert require_split(cohort)
    assert len(cohort.annotated_tiles()) == cohort.annotations().sizes[n.TILE] == 7
    assert cohort.metrics(n.TEST).sizes[n.RUN] == 1
    run, _ = FINISHED[old.name]
    assert (cohort.run(run, lazy=False)[n.STATE] == n.DONE).all()
    assert cohort.cells(run, lazy=False).sizes[n.CELL] == cohort.run(run, lazy=False)[n.N_CELLS].sum() > 0
    if old.name == "cells":
        assert cohort.analysis().sizes[n.DONOR] == 5
        assert cohort.bootstrap("tiles_80").sizes[n.RESAMPLE] == 20
        counted = cohort.positivity("a")[n.N_POSITIVE].sel({n.RULE: "fixed_50"})
        np.testing.assert_array_equal(counted, cohort.run("a", lazy=False)[n.N_POSITIVE])
        assert counted.sum() == 16
    assert check(cohort.url) == []


def pixels(cohort: Cohort, run: str, kind: str) -> xr.Dataset:
    return cohort.run(run, lazy=False)[[PIXELS[kind], n.N_CELLS, n.STATE]].load()


def test_a_run_that_was_half_done_is_continued(old: Path) -> None:
    cohort = open_cohort(old / "a.zarr")
    before = cohort.run("half", lazy=False)
    done = np.flatnonzero(before[n.STATE].values == n.DONE)
    # Shards of tiles that are all pending are not there yet.
    before = before[[PIXELS[old.name], n.N_CELLS]].isel({n.TILE: done}).load()
    assert 0 < done.size < 7
    summary = infer(cohort.url, run="half", model=old / "models" / "t", overrides=CPU)
    assert (summary.n_done, summary.n_new) == (7, 7 - done.size)
    after = pixels(cohort, "half", old.name)
    for name in (PIXELS[old.name], n.N_CELLS):
        np.testing.assert_array_equal(after[name].values[done], before[name].values)
    assert cohort.cells("half", lazy=False).sizes[n.CELL] == after[n.N_CELLS].sum()
    assert check(cohort.url) == []


def test_a_run_made_anew_is_the_one_that_was_stored(old: Path) -> None:
    cohort = open_cohort(old / "a.zarr")
    run, model = FINISHED[old.name]
    as_before = ("model.background_px=0", "model.min_area_px=20", "model.level=background")
    settings = as_before if old.name == "cells" else ()
    infer(cohort.url, run="again", model=old / model if "/" in model else model, overrides=[*settings, *CPU])
    stored, again = pixels(cohort, run, old.name), pixels(cohort, "again", old.name)
    # Masks are equal. Of probabilities, stored in units of 1/65535, PyTorch promises no more on another processor than
    # the one that made this store: the last unit may differ.
    for name in stored.data_vars:
        most = 1 if name == PIXELS["particles"] else 0
        differences = again[name].values.astype(np.int64) - stored[name].values.astype(np.int64)
        assert np.abs(differences).max() <= most


def test_scores_made_anew_are_those_that_were_stored(old: Path) -> None:
    cohort = open_cohort(old / "a.zarr")
    stored = cohort.metrics(n.TEST).load()
    again = evaluate(cohort.url, runs=FINISHED[old.name][:1], resamples=20)
    counts = [name for name in map(str, stored.data_vars) if name.rpartition("_")[2] in (n.TP, n.FP, n.FN)]
    assert counts
    for name in counts:
        np.testing.assert_array_equal(again[name].values, stored[name].values)


def test_a_report_is_made_of_it(old: Path) -> None:
    page = report(old / "a.zarr", out=old / "report.html").read_text()
    assert FINISHED[old.name][0] in page


def test_the_checkpoint_loads(old: Path) -> None:
    checkpoint = resolve_checkpoint(old / "models" / "t")
    kind = kind_named(checkpoint.kind)
    assert kind.name == {"cells": "flow_unet", "particles": "particle_unet"}[old.name]
    assert checkpoint == resolve_checkpoint(old / "models" / "t" / "model.pt")
