"""The jobs of one session: lost ones are replaced, idle ones ended, bad nodes left out, hopeless starts given up.

dask-jobqueue's own `adapt` takes many seconds to replace a lost job, and its `scale` never does.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from distributed.core import Status

from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.slurm.job_script import job_parameters, log_file
from fintune_xr.cluster.slurm.queue import NODES_FAULT, QueuedJob
from fintune_xr.errors import ClusterError

Report = Callable[[str], None]

# A job that squeue does not list may be too new for it: some sites answer from a cache.
_UNLISTED_S: Final = 20.0
_LONGEST_PAUSE_S: Final = 300.0
_LOG_LINES: Final = 15
_TASKS_UNDER_WAY: Final = frozenset({"processing", "queued", "no-worker", "waiting"})


@dataclass(slots=True)
class _Job:
    """What is known of one job of ours."""

    job_id: str
    listed: float
    queued: QueuedJob | None = None
    started: float | None = None
    worker: str = ""
    is_counted: bool = False

    @property
    def node(self) -> str:
        return self.queued.node if self.queued else ""

    @property
    def has_registered(self) -> bool:
        return bool(self.worker)


class Fleet:
    """Jobs by the name of their worker. Its methods run on the cluster's event loop, beside the scheduler."""

    def __init__(
        self, cluster: Any, profile: Profile, job_name: str, *, left: Callable[[], int] | None, report: Report
    ) -> None:
        self.cluster = cluster
        self.profile = profile
        self.job_name = job_name
        self.left = left
        self.report = report
        self.jobs: dict[str, _Job] = {}
        self.deaths: Counter[str] = Counter()
        self.excluded: list[str] = []
        self.failures = 0
        self.has_ever_registered = False
        self._not_before = 0.0
        self._last_failure = ""

    async def reconcile(self, listing: Mapping[str, QueuedJob]) -> None:
        """Brings the jobs that there are, as squeue lists them, to those that there should be.

        Raises ClusterError once too many jobs in a row gave no worker, or Slurm refused them.
        """
        self._learn(listing)
        for name in [*self.jobs]:
            if why := self._ended(name):
                await self._forget(name, why)
        self._check_budget()
        await self._shrink()
        await self._grow()

    def has_workers(self) -> bool:
        """Whether any worker is connected."""
        return bool(self.cluster.scheduler.workers)

    def waiting_for(self) -> str:
        """Why there is no worker yet, in Slurm's words."""
        waiting = [job for job in self.jobs.values() if job.started is None]
        reasons = {job.queued.reason if job.queued else "submitted" for job in waiting}
        return ", ".join(sorted(reasons)) or ("starting" if self.jobs else "nothing submitted yet")

    # ---- what has happened

    def _learn(self, listing: Mapping[str, QueuedJob]) -> None:
        now = time.monotonic()
        for name, process in self.cluster.workers.items():
            if process.job_id and name not in self.jobs:
                self.jobs[name] = _Job(str(process.job_id), now)
        connected = {str(worker.name): worker.address for worker in self.cluster.scheduler.workers.values()}
        for name, job in self.jobs.items():
            if job.job_id in listing:
                job.queued, job.listed = listing[job.job_id], now
            if job.started is None and job.queued is not None and job.queued.state == "RUNNING":
                job.started = now
            if name in connected:
                self._learn_worker(job, connected[name])

    def _learn_worker(self, job: _Job, address: str) -> None:
        if job.worker and job.worker != address:
            # Its nanny started another process in the place of one that died.
            self._blame(job, f"a worker process in job {job.job_id} died")
        job.worker = address
        self.failures = 0
        self.has_ever_registered = True

    def _ended(self, name: str) -> str:
        """How a job came to its end, or nothing while it lives."""
        job, now = self.jobs[name], time.monotonic()
        if job.queued is not None and job.queued.has_ended:
            return job.queued.state
        if name not in self.cluster.workers:
            return "worker lost"
        is_connected = any(str(worker.name) == name for worker in self.cluster.scheduler.workers.values())
        if not is_connected and now - job.listed > _UNLISTED_S:
            return "no longer in the queue"
        if job.started is not None and not job.has_registered and now - job.started > self.profile.slurm.start_s:
            return f"no worker within {self.profile.slurm.start_s:g} s"
        return ""

    async def _forget(self, name: str, why: str) -> None:
        """Takes a job that has ended out of the books; the scheduler learns at once that its worker is gone."""
        job = self.jobs.pop(name)
        process = self.cluster.workers.pop(name, None)
        self.cluster.worker_spec.pop(name, None)
        for worker in [w for w in self.cluster.scheduler.workers.values() if str(w.name) == name]:
            await self.cluster.scheduler.remove_worker(worker.address, stimulus_id=f"job-ended-{time.time()}")
        if process is not None and (job.queued is None or not job.queued.has_ended):
            await process.close()
        where = f" on {job.node}" if job.node else ""
        if not job.has_registered:
            self._failed(f"job {job.job_id}{where} gave no worker: {why}", job)
        elif why != "COMPLETED":
            self.report(f"job {job.job_id}{where} ended: {why}{self._advice(why)}")
        if why in NODES_FAULT:
            self._blame(job, f"job {job.job_id} ended: {why}")

    def _advice(self, why: str) -> str:
        if why == "TIMEOUT" and self.profile.slurm.retire:
            return ", which cost the block it was at work on: raise slurm.longest_task_s above what a block takes"
        return ""

    def _failed(self, what: str, job: _Job | None) -> None:
        self.failures += 1
        log = log_file(self.profile.slurm, self.job_name, job.job_id) if job else None
        self._last_failure = f"{what}\n{_tail(log)}" if log else what
        pause = self.profile.slurm.interval_s * 2 ** min(self.failures - 1, 16)
        self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE_S)
        self.report(what)

    def _blame(self, job: _Job, what: str) -> None:
        """Counts a death against a node, one for each job: a tile that kills its worker does so several times over."""
        node = job.node
        if not node or job.is_counted:
            return
        job.is_counted = True
        self.deaths[node] += 1
        if self.deaths[node] >= self.profile.slurm.node_failures and node not in self.excluded:
            self.excluded.append(node)
            self.report(f"{what}; deaths in {self.deaths[node]} job(s) on {node}: new jobs avoid it")

    def _check_budget(self) -> None:
        if self.failures >= self.profile.slurm.max_failures:
            raise ClusterError(
                f"{self.failures} jobs in a row gave no worker, so no more are tried. The last: {self._last_failure}\n"
                "Correct the profile (`--dry-run` prints the job script), then run the same command again; "
                "what was committed stays."
            )

    # ---- what should be

    def _wanted(self) -> int:
        asked = self.profile.slurm
        tasks = self.left() if self.left else _under_way(self.cluster.scheduler)
        return min(max(math.ceil(tasks / self.profile.n_threads), asked.min_jobs), asked.max_jobs)

    async def _shrink(self) -> None:
        """Ends jobs that are not needed: those that wait first, then those whose worker has nothing to do."""
        surplus = len(self.cluster.worker_spec) - self._wanted()
        if surplus <= 0:
            return
        workers = {str(worker.name): worker for worker in self.cluster.scheduler.workers.values()}
        waiting = [name for name, job in self.jobs.items() if job.started is None and name not in workers]
        idle = [name for name, worker in workers.items() if not worker.processing and not worker.has_what]
        names = [name for name in (*reversed(waiting), *idle) if name in self.cluster.worker_spec][:surplus]
        for name in names:
            self.jobs.pop(name, None)
        if names:
            await self.cluster.scale_down(names)

    async def _grow(self) -> None:
        missing = self._wanted() - len(self.cluster.worker_spec)
        if missing <= 0 or time.monotonic() < self._not_before:
            return
        # After a failure one job alone finds out whether it is mended.
        missing = 1 if self.failures else missing
        options = {**self.cluster.new_spec["options"]}
        fresh = job_parameters(self.profile, job_name=self.job_name, exclude=self.excluded)
        options["job_extra_directives"] = fresh["job_extra_directives"]
        self.cluster.new_spec = {**self.cluster.new_spec, "options": options}
        for _ in range(missing):
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
        try:
            await self.cluster
        except RuntimeError as error:
            self._refused(str(error))
        self._learn({})

    def _refused(self, said: str) -> None:
        """Takes the jobs that sbatch refused out of the books."""
        refused = [name for name, process in self.cluster.workers.items() if not process.job_id]
        for name in refused:
            process = self.cluster.workers.pop(name)
            process.status = Status.failed
            self.cluster.worker_spec.pop(name, None)
        self._failed(f"sbatch refused {len(refused)} job(s): {_words(said)}", None)


def _under_way(scheduler: Any) -> int:
    return sum(1 for task in scheduler.tasks.values() if task.state in _TASKS_UNDER_WAY)


def _words(said: str) -> str:
    """The part of dask-jobqueue's error that sbatch wrote."""
    return said.rpartition("stderr:\n")[2].strip() or said.strip()


def _tail(log: Path) -> str:
    try:
        lines: Iterable[str] = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError as error:
        return f"its log {log} cannot be read: {error.strerror}"
    return "\n".join([f"its log {log} ends:", *(f"  | {line}" for line in lines)])
