"""`with session(profile) as client:` starts the workers of a profile and stops them again."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator

import dask
from distributed import Client, Worker, WorkerPlugin

from fintune_xr.cluster.local.gpus import cuda_cluster
from fintune_xr.cluster.local.processes import close_after, local_cluster
from fintune_xr.cluster.local.restarts import LocalWorkers, Starts
from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.slurm.job_script import log_folder, new_job_name, slurm_cluster
from fintune_xr.cluster.slurm.jobs import Fleet, Report
from fintune_xr.cluster.slurm.queue import cancel_jobs
from fintune_xr.cluster.slurm.queue_watch import Lookout
from fintune_xr.cluster.supervisor import Keeper
from fintune_xr.errors import ClusterError
from fintune_xr.execution.native_faults import print_crashes

LOGGER = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0

# A worker that dies with the machine's memory must not take the run along: its tasks go to another one. A block that
# took four along is rescued tile by tile (fintune_xr.blocks), so it need not be tried any longer.
_CONFIG = {
    "distributed.scheduler.allowed-failures": 3,
    "distributed.worker.memory.terminate": 0.97,
    # Looks at every worker's stack a hundred times a second, for a page of the dashboard that nobody reads.
    "distributed.worker.profile.enabled": False,
    # It looks fifty times a second whether each of its servers still answers, and twice at the machine, which takes a
    # twentieth of a core for as long as the session lasts.
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.comm.timeouts.connect": "60s",
    # Dask would take a worker for lost, and its name for free, that starts again slowly.
    "distributed.deploy.lost-worker-timeout": "1h",
    "distributed.admin.large-graph-warning-threshold": "50MB",
    "distributed.dashboard.link": "http://127.0.0.1:{port}/status",
}
_TALKERS = ("worker", "scheduler", "client")
_SLURM_CONFIG = {
    "distributed.dashboard.link": "http://{host}:{port}/status",
    # The fleet's own books are quicker; this is for a job that goes on after its worker has gone for good.
    "distributed.deploy.lost-worker-timeout": "120s",
}


class _PrintCrashes(WorkerPlugin):  # type: ignore[misc]
    """Lets every worker process, also one that takes the place of another, print where native code crashed."""

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        print_crashes()


@contextlib.contextmanager
def session(
    profile: Profile, *, left: Callable[[], int] | None = None, report: Report = LOGGER.info
) -> Iterator[Client]:
    """A Dask client of the workers that `profile` asks for; they stop when the block ends.

    On Slurm, `left` tells how many tasks are not done yet, so that there are jobs enough and none too many; without
    it the tasks that the scheduler knows are counted. `report` is given lines for the person who waits.

    Raises DeviceError for GPUs that are not there, ClusterError where Slurm refuses jobs, or jobs or processes give no
    workers.
    """
    with dask.config.set(_CONFIG), _quiet(), contextlib.ExitStack() as stack:
        if profile.is_remote:
            yield stack.enter_context(_slurm(profile, left, report))
        else:
            yield stack.enter_context(_local(profile))


@contextlib.contextmanager
def _local(profile: Profile) -> Iterator[Client]:
    starts = Starts()
    cluster = (cuda_cluster if profile.kind == "cuda" else local_cluster)(profile, starts)
    with close_after(cluster), Client(cluster) as client:
        if profile.kind == "threads":
            yield client
            return
        client.register_plugin(_PrintCrashes())
        workers = LocalWorkers(cluster, starts, n_workers=len(cluster.worker_spec))
        with Keeper(workers.look, client, every_s=_LOOK_EVERY_S).keeping():
            yield client


@contextlib.contextmanager
def _slurm(profile: Profile, left: Callable[[], int] | None, report: Report) -> Iterator[Client]:
    job_name = new_job_name()
    with dask.config.set(_SLURM_CONFIG), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(slurm_cluster(profile, job_name))
        # Also for jobs that were submitted in the moment in which everything ended.
        stack.callback(_end_jobs, job_name, report)
        client = stack.enter_context(Client(cluster))
        client.register_plugin(_PrintCrashes())
        lookout = Lookout(Fleet(cluster, profile, job_name, left=left, report=report))
        report(f"Slurm jobs are named {job_name}; their logs: {log_folder(profile.slurm)}")
        lookout.wait_for_first_worker()
        with Keeper(lookout.look, client, every_s=profile.slurm.interval_s).keeping():
            yield client


def _end_jobs(job_name: str, report: Report) -> None:
    try:
        cancel_jobs(job_name)
    except ClusterError as error:
        report(f"jobs named {job_name} may be left: {error}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own log lines about start and stop would bury the progress; its errors still come through."""
    logger, talkers = logging.getLogger("distributed"), [logging.getLogger(f"distributed.{name}") for name in _TALKERS]
    before = logger.level
    logger.setLevel(logging.ERROR)
    for talker in talkers:
        talker.addFilter(_not_told_anyway)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            yield
    finally:
        logger.setLevel(before)
        for talker in talkers:
            talker.removeFilter(_not_told_anyway)


def _not_told_anyway(record: logging.LogRecord) -> bool:
    """Whether a line says something that nobody else does.

    Errors are raised where results are waited for; that a worker has ended is told with how it ended.
    """
    told = record.getMessage()
    return not told.startswith(("Compute Failed", "Couldn't gather")) and "workers died while trying to run" not in told
