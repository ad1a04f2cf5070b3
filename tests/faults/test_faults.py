"""Tiles that kill or hang the process that segments them, workers that freeze, clocks that jump."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from stores import assert_same_run, make_store, run_values, tile_names, tile_pixels

from fintune_xr import names as n
from fintune_xr.pipelines.inference import block as blocks_of_infer
from fintune_xr.pipelines.inference.one_by_one import infer_shard_one_by_one
from fintune_xr.pipelines.inference.watchdog import Watch, may_die
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer, quarantined_of
from fintune_xr.store.cohort import Cohort, open_cohort

pytestmark = pytest.mark.slow

SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu")
BAD = 4


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of eight tiles with a finished run `whole`, made without faults."""
    cohort = make_store(tmp_path_factory.mktemp("faults") / "a.zarr", donors=4, tiles=2)
    infer(cohort.url, run="whole", model="threshold", overrides=SETTINGS)
    return Path(cohort.url)


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "a.zarr")


def environment_with_fault(folder: Path, deed: str) -> dict[str, str]:
    """Environment in which every new process does `deed` when it meets the bad tile."""
    pixel = int(tile_pixels(tile_names(4, 2)[BAD], 64)[0, 0, 0])
    code = f"""
        import os, signal, sys, time
        from fintune_xr.models.threshold.adapter import ThresholdSegmenter
        normalise = ThresholdSegmenter.normalise
        def faulty(self, tile):
            if int(tile[0, 0, 0]) == {pixel}:
                {deed}
            return normalise(self, tile)
        ThresholdSegmenter.normalise = faulty
    """
    # Python imports this module at its start, in Dask's workers and in their children too.
    (folder / "sitecustomize.py").write_text(textwrap.dedent(code))
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


# Deaths after which a block is rescued; in the tests of hanging tiles one is enough, as each takes its time.
RESCUED_AFTER = "from fintune_xr.cluster import session; session._CONFIG['distributed.scheduler.allowed-failures'] = "


# Workers that are forks of one process, which has imported what they need, the fault among it: for tests in which many
# die. Those of the first test start as users' do.
FORKED = """
import dask
from multiprocessing import forkserver, set_forkserver_preload
set_forkserver_preload(["fintune_xr.pipelines.steps.infer", "fintune_xr.models.threshold.adapter"])
forkserver.ensure_running()
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
"""


def command(store: Path, *more: str, cluster: str = "", before: str = "") -> list[str]:
    program = [sys.executable, "-c", f"{before}\nfrom fintune_xr.pipelines.cli.app import main; main()"]
    profile = store.parent / "two.yaml"
    profile.write_text("kind: processes\nworkers: 2\ndashboard: false\n")
    asked = ["--run", "r", "--model", "threshold", "--cluster", cluster or str(profile)]
    return [*program, "infer", str(store), *asked, *SETTINGS, *more]


def same_pixel() -> list[int]:
    """Tiles that the fault takes for the bad one."""
    first = [int(tile_pixels(name, 64)[0, 0, 0]) for name in tile_names(4, 2)]
    return [i for i, value in enumerate(first) if value == first[BAD]]


def assert_only_the_bad_tile_is_lost(store: Path, reason: str) -> None:
    cohort = open_cohort(store)
    lost = quarantined_of(store, "r")
    assert [tile for tile, _ in lost] == [tile_names(4, 2)[i] for i in same_pixel()]
    assert all(reason in why for _, why in lost)
    there = [i for i in range(8) if i not in same_pixel()]
    for name in (n.MASK, n.N_CELLS, n.BACKGROUND):
        np.testing.assert_array_equal(
            cohort.run("r")[name].values[there], cohort.run("whole")[name].values[there], err_msg=name
        )
    assert check(store) == []


DEATHS = {
    "os.kill(os.getpid(), signal.SIGKILL)": ("was killed by SIGKILL", ""),
    "__import__('ctypes').string_at(0)": ("crashed in native code (SIGSEGV)", "Fatal Python error: Segmentation fault"),
}


@pytest.mark.parametrize("deed", DEATHS)
def test_a_tile_that_kills_its_workers_is_quarantined(store: Path, tmp_path: Path, deed: str) -> None:
    reason, said = DEATHS[deed]
    environment = environment_with_fault(tmp_path, deed)
    before = FORKED if "ctypes" in deed else ""
    done = subprocess.run(command(store, before=before), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert_only_the_bad_tile_is_lost(store, f"its process {reason}, 2 of 2 times")
    # By each of four workers, and by both processes that tried it alone.
    assert done.stderr.count(f"a worker process {reason}; another one takes its place") >= 4
    assert not said or done.stderr.count(said) >= 6
    assert "Couldn't gather" not in done.stderr
    assert "quarantined d2/GFAP/000" in done.stdout
    # Where the cause is gone, the tile is done with the next call.
    assert infer(store, run="r", retry_quarantined=True).n_quarantined == 0
    assert_same_run(run_values(open_cohort(store), "whole"), run_values(open_cohort(store), "r"))


def test_a_tile_that_hangs_is_quarantined(store: Path, tmp_path: Path) -> None:
    environment = environment_with_fault(tmp_path, "time.sleep(3600)")
    # The other tiles must make it on a machine that is busy with something else.
    arguments = command(store, "tile_timeout_s=8", before=f"{FORKED}{RESCUED_AFTER}0")
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert_only_the_bad_tile_is_lost(store, "no answer within 8 s (tile_timeout_s), 2 of 2 times")
    assert "no progress for 8 s; this process is given up. Where tiles need longer, raise tile_timeout" in done.stderr


def test_a_worker_that_freezes_is_replaced(store: Path, tmp_path: Path) -> None:
    """As when a file server does not answer: the whole process stands still, once."""
    once = tmp_path / "frozen"
    deed = f"os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w').close(), os.kill(os.getpid(), signal.SIGSTOP))"
    environment = environment_with_fault(tmp_path, deed) | {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "6s"}
    asked = command(store, before=FORKED)
    process = subprocess.Popen(asked, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        assert process.wait(timeout=280) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert once.exists()
    assert_same_run(run_values(open_cohort(store), "whole"), run_values(open_cohort(store), "r"))
    assert check(store) == []


# ---- the parts


def context_of(cohort: Cohort, run: str, **changes: Any) -> blocks_of_infer.BlockContext:
    from fintune_xr.models.registry import resolve_checkpoint
    from fintune_xr.models.threshold.settings import ThresholdSettings
    from fintune_xr.store.runs.run import run_creation

    return blocks_of_infer.BlockContext(
        location=cohort.location,
        run=run,
        checkpoint=resolve_checkpoint("threshold"),
        settings=ThresholdSettings(background_px=0, min_area_px=20),
        channels=("DAPI", "marker"),
        device="cpu",
        batch_tiles=3,
        attempts=2,
        creation=run_creation(cohort.location, run),
        **changes,
    )


def test_an_isolated_block_gives_what_a_block_gives(store: Path) -> None:
    from fintune_xr.tasks.records import ShardPlan

    cohort = open_cohort(store)
    mask = store / "runs" / "whole" / "mask" / "c.3.0.0"
    before = mask.read_bytes()
    plan, context = ShardPlan(3, 3, 1, (0,)), context_of(cohort, "whole")
    alone = infer_shard_one_by_one(plan, context)
    assert mask.read_bytes() == before
    together = blocks_of_infer.infer_block(plan, context)
    for one, other in zip(alone.results, together.results, strict=True):
        assert one.objects is not None
        assert other.objects is not None
        for column in type(one.objects).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one.objects, column), getattr(other.objects, column))
        assert one.values.keys() == other.values.keys()
        for name in one.values:
            np.testing.assert_array_equal(one.values[name], other.values[name])


def test_what_is_not_the_tiles_fault_is_raised_from_the_child(store: Path) -> None:
    from fintune_xr.errors import StoreDamagedError
    from fintune_xr.tasks.records import ShardPlan

    (store / "images" / "image" / "c.0.0.0.0").unlink()
    with pytest.raises(StoreDamagedError, match="expected a shard, found nothing"):
        infer_shard_one_by_one(ShardPlan(1, 1, 1, (0,)), context_of(open_cohort(store), "whole"))


def test_a_child_that_cannot_load_its_model_quarantines_nothing(store: Path) -> None:
    from fintune_xr.errors import SettingsError
    from fintune_xr.models.checkpoints import Checkpoint
    from fintune_xr.tasks.records import ShardPlan

    other = Checkpoint("flow_unet", "other", "weights.pt", "0" * 64)
    context = replace(context_of(open_cohort(store), "whole"), checkpoint=other)
    with pytest.raises(SettingsError, match="takes FlowUnetSettings"):
        infer_shard_one_by_one(ShardPlan(1, 1, 1, (0,)), context)


@pytest.mark.parametrize("code", ["os._exit(3)", "os.write(int(sys.argv[1]), (100).to_bytes(4) + b'x'); os._exit(3)"])
def test_a_child_that_dies_while_it_starts_quarantines_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    from fintune_xr.errors import WorkerLostError
    from fintune_xr.pipelines.inference import one_by_one as isolated
    from fintune_xr.tasks.records import ShardPlan

    real = subprocess.Popen

    def dying(command: list[str], **rest: Any) -> Any:
        return real([sys.executable, "-c", f"import os, sys; {code}", command[-1]], **rest)

    monkeypatch.setattr(isolated.subprocess, "Popen", dying)
    with pytest.raises(WorkerLostError, match="ended with status 3"):
        infer_shard_one_by_one(ShardPlan(1, 1, 1, (0,)), context_of(open_cohort(store), "whole"))


def test_the_watch_kills_a_process_without_progress_and_no_other() -> None:
    code = """
        import sys, time
        from fintune_xr.pipelines.inference.watchdog import Watch
        with Watch(float(sys.argv[1]), what="work") as watch:
            for _ in range(int(sys.argv[2])):
                watch.alive()
                time.sleep(0.3)
            time.sleep(float(sys.argv[3]))
    """

    def status(*arguments: str) -> int:
        run = [sys.executable, "-c", textwrap.dedent(code), *arguments]
        return subprocess.run(run, capture_output=True, check=False).returncode

    # How long it waits from sign to sign is looked at below, with a clock that no busy machine can stop.
    assert status("60", "3", "0") == 0
    assert status("1.5", "2", "600") == -signal.SIGKILL
    assert status("0", "0", "2") == 0


def test_a_process_whose_interpreter_is_held_ends_too() -> None:
    """No thread of Python can look then. The lock is held for a minute; without the timer it would take that long."""
    code = """
        import ctypes, sys
        from fintune_xr.pipelines.inference.watchdog import Watch
        with Watch(1.0, what="work"):
            if sys.argv[1] == "hangs":
                ctypes.PyDLL(None).sleep(60)
        with Watch(1.0, what="more") as watch, watch.allowing(30.0):
            ctypes.PyDLL(None).sleep(3)
        print("ended")
    """

    def run(how: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-c", textwrap.dedent(code), how]
        return subprocess.run(call, capture_output=True, text=True, check=False, timeout=50)

    done = run("hangs")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Timeout (0:00:02)!" in done.stderr
    assert 'File "<string>"' in done.stderr
    # What may take longer does, and nothing ends the process afterwards.
    assert run("works").stdout == "ended\n"


def test_a_batch_may_take_the_time_of_all_its_tiles(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile takes a fifth of what it may; the clock moves with the network and the loading of the model only."""
    from fintune_xr.models.threshold.adapter import ThresholdSegmenter
    from fintune_xr.pipelines.inference import watchdog as watching
    from fintune_xr.tasks.records import ShardPlan

    now, limit, n_slots = [0.0], 10.0, 8
    late: list[tuple[float, bool]] = []
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: now[0]))
    # Started, it would kill this process; here it is asked instead.
    monkeypatch.setattr(Watch, "__enter__", lambda self: self)
    monkeypatch.setattr(blocks_of_infer, "may_die", lambda: True)
    watch = Watch(limit, what="tiles")
    monkeypatch.setattr(blocks_of_infer, "Watch", lambda *_, **__: watch)

    def pass_by(seconds: float) -> None:
        now[0] += seconds
        late.append((seconds, watch.is_overdue()))

    def load(*_: Any, **__: Any) -> Any:
        pass_by(500)
        return ThresholdSegmenter(context.settings, channels=context.channels)

    def slowly(self: Any, batch: Any, predict: Any = ThresholdSegmenter.predict) -> Any:
        pass_by(len(batch) * limit / 5)
        return predict(self, batch)

    monkeypatch.setattr(blocks_of_infer, "load_model", load)
    monkeypatch.setattr(ThresholdSegmenter, "predict", slowly)
    context = replace(context_of(open_cohort(store), "whole", tile_timeout_s=limit), batch_tiles=16)
    blocks_of_infer.infer_block(ShardPlan(3, 3, 1, (0,)), context)
    block = blocks_of_infer.Block(ShardPlan(0, 0, n_slots, tuple(range(n_slots))), context, watch=watch)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(block.encoded_tiles(pool, []))) == n_slots
    assert late == [(500, False), (2, False), (500, True), (n_slots * 2, False)]
    # Between batches a tile has the time of one again, from the last sign of life on.
    for _ in range(5):
        now[0] += limit
        assert not watch.is_overdue()
        watch.alive()
    now[0] += limit + 1
    assert watch.is_overdue()


def test_only_a_worker_with_a_nanny_may_die() -> None:
    assert not may_die()
    with Watch(0, what="nothing") as watch:
        watch.alive()


def test_clocks_that_differ_change_nothing(store: Path, tmp_path: Path) -> None:
    """A run begins ten years ahead, is killed, and is continued ten years behind, among files of all ages."""
    years = 86_400 * 3650

    def status(deed: str, offset: int) -> int:
        environment = environment_with_fault(tmp_path, deed)
        with (tmp_path / "sitecustomize.py").open("a") as file:
            file.write(f"real = time.time\ntime.time = lambda: real() + {offset}\n")
        arguments = command(store, cluster="threads")
        return subprocess.run(arguments, env=environment, capture_output=True, check=False, timeout=280).returncode

    assert status("os.kill(os.getpid(), signal.SIGKILL)", years) == -signal.SIGKILL
    for number, file in enumerate(sorted(store.rglob("*"))):
        when = time.time() + (-1) ** number * years
        os.utime(file, (when, when))
    assert status("pass", -years) == 0
    assert_same_run(run_values(open_cohort(store), "whole"), run_values(open_cohort(store), "r"))
    assert check(store) == []


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", "index out of range"])
def test_a_device_that_failed_stops_the_block_and_quarantines_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    from fintune_xr.errors import DeviceError
    from fintune_xr.models.threshold.adapter import ThresholdSegmenter
    from fintune_xr.tasks.records import ShardPlan

    def failing(*_: Any) -> Any:
        raise RuntimeError(said)

    context = replace(context_of(open_cohort(store), "whole"), device="cuda:0")
    segmenter = ThresholdSegmenter(context.settings, channels=context.channels)
    monkeypatch.setattr(segmenter, "predict", failing)
    monkeypatch.setattr(blocks_of_infer, "load_model", lambda *_, **__: segmenter)
    plan = ShardPlan(3, 3, 1, (0,))
    if said.startswith("CUDA"):
        with pytest.raises(DeviceError, match=r"cuda:0 failed: CUDA error.* run the same command again"):
            blocks_of_infer.infer_block(plan, context)
    else:
        (result,) = blocks_of_infer.infer_block(plan, context).results
        assert result.reason == f"RuntimeError: {said}"
