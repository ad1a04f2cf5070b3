"""From a profile to Slurm jobs that start Dask workers, by dask-jobqueue."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dask
from dask.utils import parse_bytes

from fintune_xr.cluster.profile import Profile, SlurmSettings
from fintune_xr.cluster.slurm.queue import check_accepted
from fintune_xr.errors import SettingsError
from fintune_xr.execution.job_deadline import JOB_END

_COMMAND: Final = {"plain": "distributed.cli.dask_worker", "cuda": "dask_cuda.cli"}
_PLACEHOLDER: Final = "tcp://SCHEDULER:PORT"
# A worker that finds no scheduler any more, because its session was killed, ends after these.
_DEATH_TIMEOUT_S: Final = 60
_WORKER_SHARE: Final = 0.9
_FOR_EVERY_WORKER: Final = (
    "export DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=60s",
    "export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.97",
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
)
# Shared by all profiles of the user through ~/.config/dask: a profile must mean the same for everybody.
_DEFAULTS: Final[dict[str, Any]] = {
    "queue": None, "account": None, "interface": None, "job-cpu": None, "job-mem": None, "extra": None,
    "worker-extra-args": [], "job-extra": None, "env-extra": None, "job-directives-skip": [], "python": None,
    "scheduler-options": {}, "shared-temp-directory": None, "shebang": "#!/usr/bin/env bash",
}  # fmt: skip
_UNSET: Final = {f"jobqueue.slurm.{key}": value for key, value in _DEFAULTS.items()}


def new_job_name() -> str:
    """A name for the jobs of one session, so that nobody else's are ever looked at or ended."""
    return f"fintune-xr-{uuid.uuid4().hex[:8]}"


def job_parameters(profile: Profile, *, job_name: str, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of dask-jobqueue for one job of `profile` that avoids the nodes in `exclude`.

    One worker process in each job: dask-jobqueue does not replace lost workers otherwise (its issue 691).
    """
    asked = profile.slurm
    auto = profile.memory_limit == "auto"
    return {
        "processes": 1,
        "cores": profile.n_threads,
        "job_cpu": asked.cores,
        "memory": f"{int(parse_bytes(asked.memory) * _WORKER_SHARE)}B" if auto else profile.memory_limit,
        "job_mem": f"{math.ceil(parse_bytes(asked.memory) / 2**20)}M",
        "walltime": asked.walltime,
        "queue": asked.partition or None,
        "account": asked.account or None,
        "interface": asked.interface or None,
        "job_name": job_name,
        "job_extra_directives": _directives(asked, job_name, exclude),
        "job_script_prologue": _prologue(asked),
        "worker_command": _COMMAND[asked.worker],
        "worker_extra_args": _worker_arguments(profile),
        "python": shlex.quote(asked.python or sys.executable),
        "local_directory": f'"{asked.scratch}"',
        "death_timeout": _DEATH_TIMEOUT_S,
    }


def job_script(profile: Profile) -> str:
    """The script of one job of `profile`, but for the scheduler's address and the worker's name."""
    job_class = _dask_jobqueue().slurm.SLURMJob
    with dask.config.set(_UNSET):
        job = job_class(scheduler=_PLACEHOLDER, name="WORKER", **job_parameters(profile, job_name="fintune-xr"))
    return str(job.job_script())


def preflight(profile: Profile) -> str:
    """What Slurm says to a job of `profile` that it would take; nothing is submitted.

    Raises ClusterError with sbatch's words where it refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        script.write_text(job_script(profile))
        return check_accepted(str(script)).strip()


def _dask_jobqueue() -> Any:
    """The package, without what its import does to Ctrl-C: it would end this process as if all had gone well."""
    before = signal.getsignal(signal.SIGINT)
    import dask_jobqueue.slurm

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


@contextmanager
def slurm_cluster(profile: Profile, job_name: str) -> Iterator[Any]:
    """A SLURMCluster without any jobs yet. Raises ClusterError where Slurm would refuse them."""
    cluster_class = _dask_jobqueue().SLURMCluster
    preflight(profile)
    log_folder(profile.slurm).mkdir(parents=True, exist_ok=True)
    jobs = job_parameters(profile, job_name=job_name)
    if profile.slurm.tls:
        jobs |= _with_keys(log_folder(profile.slurm))
    scheduler: dict[str, Any] = {"port": 0, "dashboard": profile.dashboard, "dashboard_address": ":0"}
    if profile.slurm.scheduler_interface:
        scheduler["interface"] = profile.slurm.scheduler_interface
    with dask.config.set(_UNSET), cluster_class(name=job_name, scheduler_options=scheduler, **jobs) as cluster:
        try:
            yield cluster
        finally:
            _remove_keys(cluster)


def _remove_keys(cluster: Any) -> None:
    """dask-jobqueue leaves its files of keys to the collection of garbage."""
    for name, value in vars(cluster).items():
        if name.startswith("_job_") and hasattr(value, "close"):
            value.close()


def _with_keys(folder: Path) -> dict[str, Any]:
    """Keys for this session alone; workers read them from files in `folder` that only their owner can read."""
    from distributed import Security

    if " " in str(folder):
        raise SettingsError(f"with tls, slurm.log_directory must be a path without spaces; it is {str(folder)!r}")
    return {"security": Security.temporary(), "shared_temp_directory": str(folder)}


def log_folder(asked: SlurmSettings) -> Path:
    """Folder of the jobs' logs, absolute."""
    return Path(os.path.expandvars(asked.log_directory)).expanduser().resolve()


def log_file(asked: SlurmSettings, job_name: str, job_id: str) -> Path:
    """Log of one job."""
    return log_folder(asked) / f"{job_name}-{job_id}.log"


def _directives(asked: SlurmSettings, job_name: str, exclude: Sequence[str]) -> list[str]:
    # A requeued job would come back beside the one that replaced it, and Slurm holds it back for minutes.
    lines = ["--no-requeue", "--open-mode=append", f'--output="{log_file(asked, job_name, "%j")}"']
    options = {"qos": asked.qos, "constraint": asked.constraint, "gres": asked.gres, "exclude": ",".join(exclude)}
    lines += [f"--{key}={value}" for key, value in options.items() if value]
    return [*lines, *asked.directives]


def _prologue(asked: SlurmSettings) -> list[str]:
    lines = ["set -eo pipefail"]
    if asked.retire:
        lines += [
            # Newer releases of Slurm tell the end themselves.
            f'export {JOB_END}="${{SLURM_JOB_END_TIME:-$(( $(date +%s) + {asked.walltime_s} ))}}"',
            # dask-cuda's command line has no option for these two.
            f"export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION={asked.lifetime:.0f}s",
            f"export DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER={asked.stagger:.0f}s",
        ]
    return [*lines, *_FOR_EVERY_WORKER, *asked.prologue]


def _worker_arguments(profile: Profile) -> list[str]:
    if profile.slurm.worker == "plain":
        return ["--no-dashboard"]
    offered = ",".join(f"{name}={count}" for name, count in profile.resources.items())
    # The limit concerns objects that Dask stores on the GPU; torch keeps its memory itself.
    return ["--no-dashboard", "--device-memory-limit", "0", "--resources", offered]
