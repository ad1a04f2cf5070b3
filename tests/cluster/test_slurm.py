"""Runs on a real Slurm, on loopback: jobs that are cancelled, killed at their walltime, refused, or lose their node."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import psutil
import pytest
import yaml
from distributed import default_client
from slurm import NODES, WAIT_SECONDS, LoopbackSlurm, loopback_slurm, missing_programs, wait_for
from stores import assert_same_run, make_store, run_values

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile, load_profile
from fintune_xr.cluster.session import session
from fintune_xr.cluster.slurm import queue_watch as lookout
from fintune_xr.errors import ClusterError, RunBusyError, SettingsError, StoreDamagedError
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs import create
from fintune_xr.store.runs.writer import RunWriter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()), reason=f"Slurm is not installed: {', '.join(missing_programs())} missing"
    ),
]

SETTINGS = ("model.background_px=0", "model.min_area_px=20", "device=cpu")
TILES_PER_RUN_SHARD = 2
N_TILES = 12
# What a worker waits for is a file, and not a time: machines may be slow, and start workers far apart.
WAITING = """
    import os, time
    from pathlib import Path
    from fintune_xr.models.threshold.adapter import ThresholdSegmenter
    begun = []
    def waiting(self, batch, predict=ThresholdSegmenter.predict):
        begun.append(batch)
        if os.environ.get("BEGUN"):
            Path(os.environ["BEGUN"]).touch()
        while os.environ.get("HANGS"):
            time.sleep(1)
        while os.environ.get("WAITS_FOR") and not os.path.exists(os.environ["WAITS_FOR"]):
            time.sleep(0.1)
        while len(begun) > {free} and os.path.exists({hold!r}):
            time.sleep(0.1)
        return predict(self, batch)
    # Dask imports this file twice.
    if ThresholdSegmenter.predict.__name__ != "waiting":
        ThresholdSegmenter.predict = waiting
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[LoopbackSlurm]:
    with loopback_slurm() as started, pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, started.environ()[name])
        # Dask's test hook: its CUDA workers then run on the CPU.
        patch.setenv("DASK_CUDA_TEST_DISABLE_DEVICE_SPECIFIC", "1")
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(slurm: LoopbackSlurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tasks; and after each test no job of it, and both nodes in service."""
    monkeypatch.setattr(create, "tiles_per_shard", lambda _: TILES_PER_RUN_SHARD)
    yield
    slurm.revive()
    wait_for(lambda: not slurm.call("squeue", "-h", "-o", "%A").split(), "jobs of the test to be gone")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_store(tmp_path_factory.mktemp("bare") / "a.zarr", donors=4, tiles=N_TILES // 4).url)


@pytest.fixture(scope="module")
def whole(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The same run, made on this machine without any fault."""
    place = shutil.copytree(template, tmp_path_factory.mktemp("whole") / "a.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(create, "tiles_per_shard", lambda _: TILES_PER_RUN_SHARD)
        infer(place, run="r", model="threshold", overrides=SETTINGS)
    return open_cohort(place)


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "a.zarr")


def profile_file(folder: Path, **asked: Any) -> str:
    """A profile of one's own for this Slurm."""
    slurm = {
        "partition": "gpu", "cores": 1, "memory": "2GiB", "walltime": "00:10:00", "interface": "lo",
        "log_directory": str(folder / "the logs"), "interval_s": 0.5, "max_jobs": 2, "longest_task_s": 60,
        "margin_s": 20, **asked,
    }  # fmt: skip
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"kind": "slurm", "slurm": slurm}))
    return str(file)


def profile(folder: Path, **asked: Any) -> Profile:
    return load_profile(profile_file(folder, **asked))


@contextlib.contextmanager
def waiting_tiles(folder: Path, *, free: int = 0) -> Iterator[None]:
    """Workers wait for what a test tells them; how is in the environment that sbatch hands on.

    After the first `free` tiles a worker waits as long as there is a file `hold` in `folder`.
    """
    file = folder / "waiting_tiles.py"
    file.write_text(textwrap.dedent(WAITING.format(free=free, hold=str(folder / "hold"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", f'["{file}"]')
        yield


def after_commits(patch: pytest.MonkeyPatch, deeds: dict[int, Callable[[], object]]) -> None:
    """Does each of `deeds` once, after the commit of that number."""
    commit, count = RunWriter.commit, [0]

    def counted(self: RunWriter, receipts: Any) -> None:
        commit(self, receipts)
        count[0] += 1
        deeds.get(count[0], lambda: None)()

    patch.setattr(RunWriter, "commit", counted)


def assert_as_whole(store: Path, whole: Cohort) -> None:
    cohort = open_cohort(store)
    assert (cohort.run("r")[n.STATE] == n.DONE).all()
    assert_same_run(run_values(whole, "r"), run_values(cohort, "r"))
    assert check(store) == []


# ---- runs to the end, whatever happens to jobs and nodes


def test_lost_jobs_and_nodes_cost_only_what_ran_there_and_a_second_coordinator_is_refused(
    slurm: LoopbackSlurm, store: Path, whole: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    hold, broken, said = tmp_path / "hold", list[str](), list[str]()
    hold.touch()

    def is_said(what: str) -> bool:
        said.append(capfd.readouterr().err)
        return what in "".join(said)

    def cancel() -> None:
        # The job that is cancelled must have a worker that can be missed.
        default_client().wait_for_workers(2, timeout=WAIT_SECONDS)
        slurm.call("scancel", slurm.jobs()[0])
        wait_for(lambda: is_said("ended: CANCELLED"), "the job to be missed")
        with pytest.raises(RunBusyError, match="another process is writing run 'r'"):
            infer(store, run="r", model="threshold", overrides=SETTINGS)

    def break_node() -> None:
        # Lambdas travel by value: workers cannot import this file.
        broken.extend(default_client().run(lambda: os.environ["SLURMD_NODENAME"]).values())
        slurm.call("scontrol", "update", f"nodename={broken[0]}", "state=down", "reason=test")
        wait_for(lambda: is_said(f"on {broken[0]} ended: NODE_FAIL"), "the node to be missed")
        hold.unlink()

    after_commits(monkeypatch, {1: cancel, 2: break_node})
    with waiting_tiles(tmp_path, free=TILES_PER_RUN_SHARD):
        # A whole node for each job, so that they cannot share one.
        cluster = profile_file(tmp_path, directives=["--exclusive"], node_failures=1)
        infer(store, run="r", model="threshold", cluster=cluster, overrides=SETTINGS)
    assert_as_whole(store, whole)
    assert is_said(f"deaths in 1 job(s) on {broken[0]}: new jobs avoid it")


def test_a_node_on_which_workers_do_not_start_is_left_out(slurm: LoopbackSlurm, tmp_path: Path) -> None:
    said: list[str] = []
    asked = profile(
        tmp_path, prologue=['[ "$SLURMD_NODENAME" != n1 ] || exit 7'], node_failures=1, max_jobs=1, min_jobs=1
    )
    with session(asked, report=said.append) as client:
        assert client.submit(lambda: os.environ["SLURMD_NODENAME"]).result(timeout=WAIT_SECONDS) == "n2"
    assert any("gave no worker: FAILED" in line for line in said)


def test_a_worker_whose_job_is_about_to_end_leaves_and_another_goes_on(
    slurm: LoopbackSlurm, store: Path, whole: Cohort, tmp_path: Path
) -> None:
    # The first job to start believes that it ends at once; the second leaves it work until there is a third.
    roles = [
        f'cd "{tmp_path}"; if mkdir first; then export FINTUNE_XR_JOB_END=$(date +%s)',
        f'elif mkdir second; then export WAITS_FOR="{tmp_path}/third"',
        "else mkdir -p third; fi; cd - >/dev/null",
    ]
    with waiting_tiles(tmp_path):
        cluster = profile_file(tmp_path, prologue=[" ; ".join(roles)])
        infer(store, run="r", model="threshold", cluster=cluster, overrides=SETTINGS)
    assert_as_whole(store, whole)
    logs = [file.read_text() for file in (tmp_path / "the logs").iterdir()]
    assert len(logs) == 3
    assert sum("too little time for another block" in log for log in logs) == 1


def test_a_killed_driver_is_continued_beside_workers_that_do_not_know_yet(
    slurm: LoopbackSlurm, store: Path, whole: Cohort, tmp_path: Path
) -> None:
    cluster = profile_file(tmp_path, max_jobs=1)
    hold = tmp_path / "hold"
    hold.touch()
    with waiting_tiles(tmp_path, free=2 * TILES_PER_RUN_SHARD), driver_of(store, cluster) as driver:
        wait_for(lambda: any_done(store) or driver.poll() is not None, "the first tiles")
        assert driver.poll() is None
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done = int((open_cohort(store).run("r")[n.STATE] == n.DONE).sum())
    assert 0 < done < N_TILES
    hold.unlink()
    summary = infer(store, run="r", model="threshold", cluster=cluster, overrides=SETTINGS)
    assert summary.n_new == N_TILES - done
    assert_as_whole(store, whole)


def any_done(store: Path) -> bool:
    """Whether the run has a finished tile; while it is being made it cannot be read."""
    with contextlib.suppress(StoreDamagedError):
        cohort = open_cohort(store)
        return "r" in cohort.run_names() and bool((cohort.run("r")[n.STATE] == n.DONE).any())
    return False


# ---- dask-cuda's workers, on the CPU


def test_dask_cuda_workers_have_a_gpu_each(
    slurm: LoopbackSlurm, store: Path, whole: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    seen: dict[str, list[Any]] = {}

    def look() -> None:
        client = default_client()
        client.wait_for_workers(2, timeout=WAIT_SECONDS)
        assert client.scheduler.address.startswith("tls://")
        seen["device"] = sorted(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values())
        seen["resources"] = list(client.run(lambda dask_worker: dask_worker.state.total_resources).values())
        seen["lifetime"] = list(client.run(lambda dask_worker: dask_worker.lifetime).values())
        seen["rights"] = [file.stat().st_mode & 0o77 for file in logs.glob(".dask*")]

    after_commits(monkeypatch, {1: look})
    asked = {"worker": "cuda", "gres": "gpu:l40s:1", "min_jobs": 2, "tls": True, "log_directory": str(logs)}
    infer(store, run="r", model="threshold", cluster=profile_file(tmp_path, **asked), overrides=SETTINGS)
    assert_as_whole(store, whole)
    assert seen["device"] == ["0", "1"]
    assert seen["resources"] == [{"GPU": 1.0}] * 2
    # Ten minutes less 60 s, 20 s and 75 s, give or take 75 s.
    assert all(370 <= one <= 520 for one in seen["lifetime"])
    assert set(seen["rights"]) == {0}
    assert not list(logs.glob(".dask*"))
    assert not any("PRIVATE" in file.read_text() for file in logs.glob("*.log"))


def test_keys_need_a_path_that_a_command_line_can_hold(slurm: LoopbackSlurm, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must be a path without spaces"), session(profile(tmp_path, tls=True)):
        pass


# ---- what cannot work is said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"partition": "nope"}, "does not take the jobs of this profile.*Invalid partition name specified"),
        ({"gres": "gpu:a100:1"}, "Requested node configuration is not available"),
        ({"memory": "1TiB"}, "Requested node configuration is not available"),
        ({"directives": ["--nonsense=1"]}, "unrecognized option '--nonsense=1'"),
    ],
)
def test_a_refusal_is_an_error_with_the_words_of_sbatch(
    slurm: LoopbackSlurm, store: Path, tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ClusterError, match=f"(?s){said}"):
        infer(store, run="r", model="threshold", cluster=profile_file(tmp_path, **asked), overrides=SETTINGS)


def test_jobs_that_give_no_worker_end_with_their_log(slurm: LoopbackSlurm, tmp_path: Path) -> None:
    asked = profile(tmp_path, prologue=["echo the module tool is broken >&2", "exit 3"], max_failures=2)
    with (
        pytest.raises(ClusterError, match=r"(?s)2 jobs in a row.*FAILED.*\| the module tool is broken.*--dry-run"),
        session(asked, left=lambda: 1),
    ):
        pass


def test_a_job_that_runs_without_a_worker_is_given_up(slurm: LoopbackSlurm, tmp_path: Path) -> None:
    asked = profile(tmp_path, prologue=["echo waiting for a licence", "sleep 600"], start_s=1, max_failures=1)
    with (
        pytest.raises(ClusterError, match=r"(?s)gave no worker: no worker within 1 s.*log"),
        session(asked, left=lambda: 1),
    ):
        pass


def test_a_job_that_never_starts_is_waited_for_as_long_as_said(
    slurm: LoopbackSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = profile(tmp_path, directives=["--begin=now+1hour"], queue_s=9)
    # Seconds of this clock are looks at the queue: on a busy machine Slurm itself needs some before it knows why.
    clock = itertools.count()
    monkeypatch.setattr(lookout, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=time.sleep))
    with pytest.raises(ClusterError, match=r"started within 9 s \(queue: BeginTime\)"), session(asked, left=lambda: 1):
        pass


def test_refusals_in_mid_run_stop_it(slurm: LoopbackSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job was taken; when it is lost, no partition takes another one."""
    asked = profile(tmp_path, max_jobs=1, max_failures=2)
    try:
        with (
            pytest.raises(ClusterError, match=r"(?s)2 jobs in a row.*sbatch refused 1 job.*not available"),
            session(asked, left=lambda: 1) as client,
        ):
            waiting = client.submit(time.sleep, 600)
            slurm.call("scontrol", "update", "partitionname=gpu", "state=inactive")
            slurm.call("scancel", *slurm.jobs())
            waiting.result()
    finally:
        slurm.call("scontrol", "update", "partitionname=gpu", "state=up")


@contextlib.contextmanager
def broken_squeue(folder: Path) -> Iterator[None]:
    """A squeue that reaches nobody, before the real one."""
    broken = folder / "bin"
    broken.mkdir()
    (broken / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    (broken / "squeue").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{broken}{os.pathsep}{os.environ['PATH']}")
        yield


def test_a_queue_that_never_answers_again_is_waited_for_as_long_as_said(
    slurm: LoopbackSlurm, store: Path, whole: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs are lost, nobody says so, and no others are submitted."""
    (tmp_path / "hold").touch()
    with contextlib.ExitStack() as stack:

        def part() -> None:
            stack.enter_context(broken_squeue(tmp_path))
            slurm.call("scancel", *slurm.jobs("RUNNING", "PENDING"))

        after_commits(monkeypatch, {1: part})
        message = "squeue has not answered for 1 s and no worker is left.*Unable to contact slurm controller"
        with waiting_tiles(tmp_path, free=TILES_PER_RUN_SHARD), pytest.raises(ClusterError, match=message):
            cluster = profile_file(tmp_path, silence_s=1)
            infer(store, run="r", model="threshold", cluster=cluster, overrides=SETTINGS)
    done = int((open_cohort(store).run("r")[n.STATE] == n.DONE).sum())
    assert 0 < done < N_TILES
    assert infer(store, run="r").n_new == N_TILES - done
    assert_as_whole(store, whole)


def test_a_queue_that_does_not_answer_changes_nothing_and_jobs_end_with_their_work(
    slurm: LoopbackSlurm, tmp_path: Path
) -> None:
    said: list[str] = []
    left = [2]
    with session(profile(tmp_path), left=lambda: left[0], report=said.append) as client:
        client.wait_for_workers(2, timeout=WAIT_SECONDS)
        before = slurm.jobs()
        with broken_squeue(tmp_path):
            silent = "Unable to contact slurm controller; jobs are left as they are"
            wait_for(lambda: any(silent in line for line in said), "the keeper to meet the broken queue")
            left[0] = 1
            assert client.submit(sum, [1, 2]).result(timeout=WAIT_SECONDS) == 3
        assert str(tmp_path / "the logs") in said[0]
        wait_for(lambda: len(slurm.jobs("RUNNING", "PENDING")) == 1, "one of the jobs to be ended")
        assert set(slurm.jobs()) < set(before)
        assert client.submit(sum, [1, 2]).result(timeout=WAIT_SECONDS) == 3


# ---- the walltime


@contextlib.contextmanager
def driver_of(store: Path, cluster: str) -> Iterator[subprocess.Popen[str]]:
    """The command line, at work on a run in a process of its own."""
    program = (
        "import sys; from fintune_xr.store.runs import create\n"
        f"create.tiles_per_shard = lambda _: {TILES_PER_RUN_SHARD}\n"
        "from fintune_xr.pipelines.cli import app as cli; sys.exit(cli.run(sys.argv[1:]))"
    )
    said = ["infer", str(store), "--run", "r", "--model", "threshold", "--cluster", cluster, *SETTINGS]
    with subprocess.Popen([sys.executable, "-c", program, *said], stderr=subprocess.PIPE, text=True) as driver:
        try:
            yield driver
        finally:
            driver.kill()


@pytest.fixture(scope="module", autouse=True)
def run_with_walltime(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, subprocess.Popen[str]] | None]:
    """A run on a Slurm of its own, one of whose jobs hangs until it is killed: begun first and looked at last.

    Slurm looks at limits every half minute and the shortest is a minute, so that this takes up to 90 seconds.
    """
    if not any("walltime" in item.name for item in request.session.items):
        yield None
        return
    folder = tmp_path_factory.mktemp("walltime")
    store = shutil.copytree(template, folder / "a.zarr")
    # The others leave it a block to hang in.
    hangs = folder / "hangs"
    roles = f'if mkdir "{folder}/first"; then export HANGS=1 BEGUN="{hangs}"; else export WAITS_FOR="{hangs}"; fi'
    cluster = profile_file(folder, walltime="00:01:00", retire=False, prologue=[roles], max_failures=9)
    with loopback_slurm() as other, pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        with waiting_tiles(folder):
            for name in ("PATH", "SLURM_CONF"):
                patch.setenv(name, other.environ()[name])
            driver = stack.enter_context(driver_of(store, cluster))
        patch.undo()
        yield store, driver


def test_a_job_killed_at_its_walltime_costs_its_block_only(
    run_with_walltime: tuple[Path, subprocess.Popen[str]], whole: Cohort
) -> None:
    store, driver = run_with_walltime
    _, said = driver.communicate(timeout=WAIT_SECONDS)
    assert driver.returncode == 0, said
    assert "ended: TIMEOUT" in said
    assert_as_whole(store, whole)


# ---- the loopback itself


def test_a_stopped_slurm_leaves_no_process() -> None:
    with loopback_slurm() as other:
        root, pids = other.root, [int(file.read_text()) for file in other.root.glob("run/*.pid")]
        mine = [psutil.Process(pid) for pid in pids]
        assert len(mine) == 2 + len(NODES)
    assert not root.exists()
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in mine)


def test_dask_is_not_configured_for_good() -> None:
    assert dask.config.get("jobqueue.slurm.queue", None) is None
