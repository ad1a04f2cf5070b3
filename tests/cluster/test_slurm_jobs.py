"""The books of a session's jobs, against a Slurm and a cluster that exist in memory only."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.slurm import jobs as module
from fintune_xr.cluster.slurm import queue_watch as lookout
from fintune_xr.cluster.slurm.jobs import Fleet
from fintune_xr.cluster.slurm.queue import ENDED, NODES_FAULT, QueuedJob
from fintune_xr.cluster.slurm.queue_watch import Lookout
from fintune_xr.errors import ClusterError


@dataclass
class Job:
    """What dask-jobqueue holds of a submitted job."""

    job_id: str
    status: Any = None
    is_closed: bool = False

    async def close(self) -> None:
        self.is_closed = True


@dataclass(eq=False)
class Worker:
    name: str
    address: str
    processing: dict[str, int] = field(default_factory=dict)
    has_what: dict[str, int] = field(default_factory=dict)


@dataclass
class Scheduler:
    workers: dict[str, Worker] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)

    async def remove_worker(self, address: str, *, stimulus_id: str) -> None:
        del self.workers[address]


class Cluster:
    """As much of a SLURMCluster as the books look at; `slurm` is the truth about the jobs."""

    def __init__(self) -> None:
        self.workers: dict[str, Job] = {}
        self.worker_spec: dict[str, Any] = {}
        self.new_spec: dict[str, Any] = {"options": {"job_extra_directives": []}}
        self.scheduler = Scheduler()
        self.slurm: dict[str, QueuedJob] = {}
        self.submitted: list[dict[str, Any]] = []
        self.refuses = ""
        self._numbers = itertools.count(1)

    def new_worker_spec(self) -> dict[str, Any]:
        return {f"w{next(self._numbers)}": self.new_spec}

    def __await__(self) -> Generator[Any, Any, None]:
        return self._correct().__await__()

    async def _correct(self) -> None:
        for name in [name for name in self.workers if name not in self.worker_spec]:
            job = self.workers.pop(name)
            await job.close()
            self.slurm.pop(job.job_id, None)
        for name in [name for name in self.worker_spec if name not in self.workers]:
            self.submitted.append(self.worker_spec[name]["options"])
            self.workers[name] = Job("" if self.refuses else name[1:])
            if not self.refuses:
                self.slurm[name[1:]] = QueuedJob(name[1:], "PENDING", "", "Resources")
        if self.refuses:
            raise RuntimeError(f"Command exited with non-zero exit code.\nstdout:\n\nstderr:\n{self.refuses}\n")

    async def scale_down(self, names: list[str]) -> None:
        for name in names:
            del self.worker_spec[name]
            for address in [a for a, worker in self.scheduler.workers.items() if worker.name == name]:
                del self.scheduler.workers[address]
        await self._correct()

    def set_state(self, name: str, state: str, node: str = "n1") -> None:
        self.slurm[name[1:]] = QueuedJob(name[1:], state, node, "None")
        if state in ENDED:
            for address in [a for a, worker in self.scheduler.workers.items() if worker.name == name]:
                del self.scheduler.workers[address]

    def register(self, name: str, address: str = "", **said: Any) -> None:
        self.set_state(name, "RUNNING")
        for old in [a for a, worker in self.scheduler.workers.items() if worker.name == name]:
            del self.scheduler.workers[old]
        self.scheduler.workers[address or name] = Worker(name, address or name, **said)


class Books:
    """A fleet over such a cluster, and a clock that the test moves."""

    def __init__(self, left: int = 2, **asked: Any) -> None:
        self.cluster, self.left, self.said, self.now = Cluster(), left, [], 0.0
        values = {"max_jobs": 4, "cores": 1, "interval_s": 1.0, **asked}
        profile = Profile.model_validate({"kind": "slurm", "slurm": values})
        self.fleet = Fleet(self.cluster, profile, "test", left=lambda: self.left, report=self.said.append)

    def look(self, seconds: float = 1.0, *, listing: dict[str, QueuedJob] | None = None) -> list[str]:
        """Names of the jobs that there are after one look."""
        self.now += seconds
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.time, "monotonic", lambda: self.now)
            asyncio.run(self.fleet.reconcile(self.cluster.slurm if listing is None else listing))
        return list(self.cluster.worker_spec)


def test_there_are_as_many_jobs_as_work_and_profile_allow() -> None:
    assert len(Books(left=2).look()) == 2
    assert len(Books(left=9).look()) == 4
    assert len(Books(left=0, min_jobs=1).look()) == 1
    assert Books(left=0).look() == []
    assert len(Books(left=9, cores=8).look()) == 2


@pytest.mark.parametrize("state", sorted(ENDED))
def test_an_ended_job_is_replaced_at_once_and_only_that(state: str) -> None:
    books = Books(left=2)
    first, second = books.look()
    for name in (first, second):
        books.cluster.register(name)
    books.look()
    books.cluster.set_state(first, state)
    kept, fresh = books.look()
    assert kept == second
    assert fresh not in (first, second)
    assert books.fleet.deaths == ({"n1": 1} if state in NODES_FAULT else {})


def test_a_worker_that_its_dead_node_has_not_signed_off_is_taken_from_the_scheduler() -> None:
    books = Books(left=1)
    (name,) = books.look()
    books.cluster.register(name)
    books.look()
    books.cluster.slurm[name[1:]] = QueuedJob(name[1:], "NODE_FAIL", "n1", "NodeDown")
    books.look()
    assert books.cluster.scheduler.workers == {}
    assert books.said == [f"job {name[1:]} on n1 ended: NODE_FAIL"]


def test_an_unlisted_job_is_given_time_and_one_with_a_worker_is_kept() -> None:
    books = Books(left=2)
    with_worker, without = books.look()
    books.cluster.register(with_worker)
    assert books.look(listing={}) == [with_worker, without]
    assert books.look(18, listing={}) == [with_worker, without]
    (kept,) = books.look(5, listing={})
    assert kept == with_worker
    # It counts as a job without a worker, so that the next one waits for a moment.
    assert len(books.look(2, listing={})) == 2
    assert books.look(1000, listing={})[0] == with_worker


def test_processes_that_die_count_once_for_each_job_and_their_node_is_left_out() -> None:
    books = Books(left=1, node_failures=2, max_jobs=1)
    for job in range(2):
        (name,) = books.look(100)
        for process in range(3):
            books.cluster.register(name, f"{name}-{process}")
            books.look()
        assert books.fleet.deaths["n1"] == job + 1
        books.cluster.set_state(name, "CANCELLED")
    books.look(100)
    assert books.fleet.excluded == ["n1"]
    assert "--exclude=n1" in books.cluster.submitted[-1]["job_extra_directives"]
    assert not any("--exclude" in line for line in books.cluster.submitted[0]["job_extra_directives"])


def test_failures_are_paid_with_longer_pauses_and_forgotten_when_a_worker_comes() -> None:
    books = Books(left=3, max_failures=9, interval_s=10)
    for name in books.look():
        books.cluster.set_state(name, "FAILED")
    assert books.look() == []
    assert books.fleet.failures == 3
    # 40 s after the third, and then one job alone.
    assert books.look(38) == []
    (name,) = books.look(2)
    books.cluster.register(name)
    assert len(books.look()) == 3
    assert books.fleet.failures == 0


def test_hopeless_starts_end_with_the_reason(tmp_path: Any) -> None:
    books = Books(left=1, max_failures=2, log_directory=str(tmp_path))
    (name,) = books.look()
    books.cluster.set_state(name, "OUT_OF_MEMORY")
    books.look()
    (name,) = books.look(100)
    (tmp_path / f"test-{name[1:]}.log").write_text("".join(f"line {i}\n" for i in range(30)))
    books.cluster.set_state(name, "FAILED")
    with pytest.raises(ClusterError, match=r"(?s)2 jobs in a row.*FAILED.*ends:\n  \| line 15\n.*line 29") as raised:
        books.look()
    assert "line 14" not in str(raised.value)


def test_what_sbatch_refuses_is_out_of_the_books() -> None:
    books = Books(left=2, max_failures=2)
    books.cluster.refuses = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    assert books.look() == []
    assert books.said == ["sbatch refused 2 job(s): sbatch: error: QOSMaxSubmitJobPerUserLimit"]
    books.cluster.refuses = ""
    (name,) = books.look(100)
    books.cluster.register(name)
    assert len(books.look(100)) == 2


def test_waiting_jobs_go_first_then_idle_workers_and_busy_ones_never() -> None:
    books = Books(left=4)
    busy, holding, idle, waiting = books.look()
    books.cluster.register(busy, processing={"task": 1})
    books.cluster.register(holding, has_what={"result": 1})
    books.cluster.register(idle)
    books.look()
    books.left = 3
    assert set(books.look()) == {busy, holding, idle}
    books.left = 1
    assert set(books.look()) == {busy, holding}
    assert set(books.look()) == {busy, holding}
    assert waiting not in books.fleet.jobs


def test_without_a_count_the_tasks_of_the_scheduler_are_counted() -> None:
    books = Books()
    books.fleet.left = None
    assert books.look() == []
    for number, state in enumerate(("processing", "queued", "no-worker", "memory", "released")):
        books.cluster.scheduler.tasks[str(number)] = type("Task", (), {"state": state})
    assert len(books.look()) == 3


# ---- a queue that says nothing


class Silence:
    """A lookout over such books whose squeue has died, and the clock of both."""

    def __init__(self, patch: pytest.MonkeyPatch, **asked: Any) -> None:
        self.books = Books(left=1, **asked)
        self.books.cluster.sync = lambda function, *said: asyncio.run(function(*said))  # type: ignore[attr-defined]
        self.lookout = Lookout(self.books.fleet)
        self.is_silent = True
        patch.setattr(lookout, "queued_jobs", self._squeue)
        patch.setattr(lookout.time, "monotonic", lambda: self.books.now)

    def _squeue(self, _name: str) -> dict[str, QueuedJob]:
        if self.is_silent:
            raise ClusterError("squeue gave no answer within 60 s")
        return self.books.cluster.slurm

    def look(self, seconds: float) -> None:
        self.books.now += seconds
        self.lookout.look()


def test_a_queue_that_never_answers_again_ends_a_session_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = Silence(monkeypatch, silence_s=100)
    silence.look(0)
    silence.look(99)
    # An answer, and a worker that is there, begin the time anew.
    silence.is_silent = False
    silence.look(50)
    silence.is_silent = True
    silence.look(1)
    silence.books.cluster.scheduler.workers["w"] = Worker("w", "w")
    for _ in range(5):
        silence.look(1000)
    silence.books.cluster.scheduler.workers.clear()
    silence.look(100)
    message = r"squeue has not answered for 100 s and no worker.*no answer within 60 s.*committed.*scancel --name=test"
    with pytest.raises(ClusterError, match=message):
        silence.look(1)
    assert [line for line in silence.books.said if "jobs are left as they are" in line] == silence.books.said
    assert len(silence.books.said) == 2


def test_a_worker_that_comes_while_the_queue_is_silent_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = Silence(monkeypatch)
    waits: list[float] = []

    def register(seconds: float) -> None:
        waits.append(seconds)
        silence.books.cluster.register("w1")

    monkeypatch.setattr(lookout.time, "sleep", register)
    silence.lookout.wait_for_first_worker()
    assert len(waits) == 1
    assert ["jobs are left as they are" in line for line in silence.books.said] == [True]


HAPPENINGS = ["register", "PENDING", "RUNNING", *sorted(ENDED), "restart", "less"]
events = st.lists(
    st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 5)),
    max_size=25,
)


@given(events)
def test_whatever_happens_no_living_job_is_dropped_while_there_is_work(happenings: list[tuple[str, int]]) -> None:
    books = Books(left=4, max_failures=10_000, start_s=1e9)
    books.look()
    for what, which in happenings:
        before = list(books.cluster.worker_spec)
        dead = set()
        if what == "less":
            books.left = max(1, books.left - 1)
        elif before:
            name = before[which % len(before)]
            if what in ("register", "restart"):
                books.cluster.register(name, f"{name}-{which}", processing={"task": 1})
            else:
                books.cluster.set_state(name, what)
            dead = {name} if what in ENDED else set()
        alive = {name for name in before if name not in dead}
        after = books.look(1000)
        assert len(after) <= max(books.left, len(alive))
        assert len(alive - set(after)) <= max(0, len(before) - books.left)
        assert not dead & set(after)
        assert len(books.look(1000)) >= min(books.left, 4)
