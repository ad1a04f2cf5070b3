"""Worker processes of this machine that end before they are of use: replaced for a while, then given up in words."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import default_client
from stores import assert_same_run, make_store, run_values

from fintune_xr import names as n
from fintune_xr.cluster.local import restarts as module
from fintune_xr.cluster.local.restarts import LocalWorkers, Starts
from fintune_xr.cluster.profile import load_profile
from fintune_xr.cluster.session import session
from fintune_xr.errors import ClusterError
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.runs import create
from fintune_xr.store.runs.writer import RunWriter

SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu")
N_TILES = 12
TWO = ("cluster.workers=2", "cluster.dashboard=false")


class Cluster:
    """As much of a local cluster as the account of its workers looks at."""

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(workers={})
        self.workers: dict[int, Any] = {}
        self.scaled: list[int] = []

    def sync(self, function: Any) -> None:
        with pytest.raises(StopIteration):
            function().send(None)

    def scale(self, count: int) -> None:
        self.scaled.append(count)


@pytest.mark.parametrize(("n_workers", "budget"), [(1, 10), (3, 10), (8, 24)])
def test_only_failures_in_a_row_without_any_worker_end_it(
    n_workers: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FOR_S", 0.0)
    cluster, starts = Cluster(), Starts()
    workers = LocalWorkers(cluster, starts, n_workers=n_workers)  # type: ignore[arg-type]

    def fail(times: int) -> None:
        for _ in range(times):
            starts.count(-signal.SIGKILL, has_registered=False)

    fail(budget - 1)
    workers.look()
    # One that came, and died over its work, is another matter: Dask and the rescue of blocks count these.
    starts.count(-signal.SIGKILL, has_registered=True)
    fail(budget - 1)
    workers.look()
    cluster.scheduler.workers["tcp://"] = object()
    fail(budget)
    workers.look()
    assert cluster.scaled == [n_workers] * 3
    cluster.scheduler.workers.clear()
    fail(budget)
    with pytest.raises(ClusterError, match=rf"{budget} worker processes in a row ended.*was killed by SIGKILL;"):
        workers.look()


@contextlib.contextmanager
def at_start_of_workers(folder: Path, deed: str) -> Iterator[Path]:
    """Every new worker process does `deed` at its start once there is a file at the path given."""
    sign, file = folder / "sign", folder / "at_start.py"
    file.write_text(f"import os, signal\nif os.path.exists({str(sign)!r}):\n    {deed}\n")
    with dask.config.set({"distributed.worker.preload": [str(file)]}):
        yield sign


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "said"),
    [("os._exit(3)", "ended with status 3"), ("raise ImportError('no libfoo')", "said ImportError: no libfoo")],
)
def test_processes_that_cannot_start_are_said_at_once(tmp_path: Path, deed: str, said: str) -> None:
    profile = load_profile("processes", ("workers=1", "dashboard=false"))
    message = f"a worker process ended instead of registering.*The last one {said}.*--cluster threads.*stays"
    with at_start_of_workers(tmp_path, deed) as sign:
        sign.touch()
        with pytest.raises(ClusterError, match=message), session(profile):
            pass


@pytest.mark.slow
def test_a_run_whose_workers_all_die_at_every_start_stops_and_is_continued(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a machine whose memory or disk has come to its end."""
    cohort = make_store(tmp_path / "a.zarr", donors=4, tiles=N_TILES // 4)
    monkeypatch.setattr(create, "tiles_per_shard", lambda _: 1)
    infer(cohort.url, run="whole", model="threshold", overrides=SETTINGS)
    monkeypatch.setattr(module, "_AT_LEAST", 3)
    monkeypatch.setattr(module, "_FOR_S", 0.0)
    monkeypatch.setattr(module, "_ROUNDS", 1)
    commit = RunWriter.commit
    message = r"\d worker processes in a row ended.*was killed by SIGKILL;.*What was committed stays"
    with at_start_of_workers(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)") as sign:

        def end_of_the_workers(self: RunWriter, receipts: Any) -> None:
            commit(self, receipts)
            if not sign.exists():
                sign.touch()
                for pid in default_client().run(os.getpid).values():
                    os.kill(pid, signal.SIGKILL)

        monkeypatch.setattr(RunWriter, "commit", end_of_the_workers)
        with pytest.raises(ClusterError, match=message):
            infer(cohort.url, run="r", model="threshold", cluster="processes", overrides=[*SETTINGS, *TWO])
    done = int((open_cohort(cohort.url).run("r")[n.STATE] == n.DONE).sum())
    assert 0 < done < N_TILES
    assert infer(cohort.url, run="r").n_new == N_TILES - done
    assert_same_run(run_values(cohort, "whole"), run_values(cohort, "r"))
