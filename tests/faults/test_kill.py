"""Kill -9 at random moments, then the same command again: nothing is lost and nothing differs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import killing
import numpy as np
import psutil
import pytest
import tifffile
import xarray as xr
from child_deaths import kill_at_random, started, to_the_end
from stores import assert_same_run, make_store, run_values, tile_names, tile_pixels

from fintune_xr import names as n
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pipelines.steps.check import check
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort, open_cohort

# Many runs one after another: on a machine that is busy with something else they take their time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# More than fifty in all. The scheduler lives in the coordinator's process and dies with it, on a cluster as well.
COORDINATOR_KILLS, WORKER_KILLS, INGEST_KILLS = 24, 18, 10
KILLS_PER_RUN = 9


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = make_store(tmp_path_factory.mktemp("template") / "a.zarr", donors=4, tiles=6)
    return Path(cohort.url)


@pytest.fixture(scope="module")
def whole(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, float]:
    """The run as it is without interruption, and how long it takes once everything is imported."""
    place = shutil.copytree(tiles, tmp_path_factory.mktemp("whole") / "a.zarr")
    to_the_end(killing.run_infer, str(place), "threads")
    shutil.rmtree(place)
    shutil.copytree(tiles, place)
    status, seconds = to_the_end(killing.run_infer, str(place), "threads")
    assert status == 0
    return open_cohort(place), seconds


def assert_as_uninterrupted(store: Path, whole: Cohort) -> None:
    cohort = open_cohort(store)
    assert (cohort.run("r")[n.STATE] == n.DONE).all()
    assert_same_run(run_values(whole, "r"), run_values(cohort, "r"))
    xr.testing.assert_equal(cohort.positivity("r"), whole.positivity("r"))
    assert check(store) == []
    assert not list(store.rglob(f"*{PARTIAL_SUFFIX}"))
    assert [entry.name for entry in (store / n.STAGING).iterdir()] == ["zarr.json"]


def test_killing_the_coordinator(tiles: Path, whole: tuple[Cohort, float], tmp_path: Path) -> None:
    store = shutil.copytree(tiles, tmp_path / "a.zarr")
    expected, seconds = whole

    def again() -> None:
        # Half of the time the finished run is kept and grown over; here it is thrown away.
        shutil.rmtree(store)
        shutil.copytree(tiles, store)

    kill_at_random(killing.run_infer, str(store), "threads", seconds=seconds, kills=COORDINATOR_KILLS, again=again)
    status, _ = to_the_end(killing.run_infer, str(store), "threads")
    assert status == 0
    assert_as_uninterrupted(store, expected)


def workers_of(process: Any) -> list[psutil.Process]:
    """Worker processes that have started; Dask's resource tracker and half-started ones are left out."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


def test_killing_workers(tiles: Path, whole: tuple[Cohort, float], tmp_path: Path) -> None:
    """Also while they start: then their nannies give up, and others take their place."""
    store, rng, kills = tmp_path / "a.zarr", stream(7, "kill", "workers"), 0
    while kills < WORKER_KILLS:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(tiles, store)
        with started(killing.run_infer, str(store), "processes") as process:
            while process.is_alive() and not list((store / n.RUNS / "r" / n.MASK).glob("c.*[0-9]")):
                process.join(timeout=0.01)
            for _ in range(KILLS_PER_RUN):
                process.join(timeout=float(rng.uniform(0.05, 0.8)))
                kills += kill_one_of(process, rng)
            process.join()
        assert process.exitcode == 0
        assert_as_uninterrupted(store, whole[0])


def kill_one_of(process: Any, rng: np.random.Generator) -> int:
    """1 where a worker process was there to be killed, else 0."""
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = workers_of(process)
        if workers:
            workers[int(rng.integers(len(workers)))].kill()
            return 1
    return 0


def test_killing_the_coordinator_takes_its_workers_along(
    tiles: Path, whole: tuple[Cohort, float], tmp_path: Path
) -> None:
    store = shutil.copytree(tiles, tmp_path / "a.zarr")
    shards = store / n.RUNS / "r" / n.MASK
    # Without it the run may have ended before a busy machine lets this process look.
    hold = tmp_path / "hold"
    hold.touch()
    with started(killing.run_infer, str(store), "processes", str(hold)) as process:
        while process.is_alive() and not list(shards.glob("c.*[0-9]")):
            process.join(timeout=0.01)
        workers = workers_of(process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        _, alive = psutil.wait_procs(workers, timeout=120)
    assert workers
    assert not alive
    assert (open_cohort(store).run("r")[n.STATE] == n.PENDING).any()
    status, _ = to_the_end(killing.run_infer, str(store), "threads")
    assert status == 0
    assert_as_uninterrupted(store, whole[0])


# ---- ingest


def write_raw(source: Path) -> None:
    for name in tile_names(4, 4):
        donor, marker, tile = name.split("/")
        folder = source / donor / marker
        folder.mkdir(parents=True, exist_ok=True)
        for channel, plane in enumerate(tile_pixels(name, 64)):
            tifffile.imwrite(folder / f"{donor}_{marker}_{tile}_b0c{channel}.tif", plane, photometric="minisblack")
    lonely = source / "d0" / "GFAP" / "d0_GFAP_099_b0c0.tif"
    tifffile.imwrite(lonely, tile_pixels("x/y/z", 64)[0], photometric="minisblack")


def test_killing_ingest(tmp_path: Path) -> None:
    source, store, other = tmp_path / "raw", tmp_path / "a.zarr", tmp_path / "whole.zarr"
    write_raw(source)
    to_the_end(killing.run_ingest, str(source), str(other))
    shutil.rmtree(other)
    status, seconds = to_the_end(killing.run_ingest, str(source), str(other))
    assert status == 3

    def again() -> None:
        shutil.rmtree(store)

    kill_at_random(killing.run_ingest, str(source), str(store), seconds=seconds, kills=INGEST_KILLS, again=again)
    status, _ = to_the_end(killing.run_ingest, str(source), str(store))
    assert status == 3
    made, whole = open_cohort(store), open_cohort(other)
    xr.testing.assert_equal(made.images().load(), whole.images().load())
    assert made.images().sizes[n.TILE] == 16
    xr.testing.assert_equal(made.quarantine(), whole.quarantine())
    np.testing.assert_array_equal(made.images()[n.IMAGE][0].values, tile_pixels(tile_names(4, 4)[0], 64))
    assert check(store) == []
    assert not list(store.rglob(f"*{PARTIAL_SUFFIX}"))
