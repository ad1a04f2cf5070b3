"""What a cluster profile says, and where profiles are found."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from dask.utils import parse_bytes
from pydantic import Field, StringConstraints, field_validator, model_validator

from fintune_xr.cluster.walltime import slurm_seconds
from fintune_xr.errors import unknown_name
from fintune_xr.settings import Settings, load_settings

# What stands in a job script as one word; anything else there could start a command of its own.
Word = Annotated[str, StringConstraints(pattern=r"^[\w.:/@%+=,\[\]-]*$")]
# Inside double quotes, so that ${TMPDIR:-/tmp} is what it is on the node.
Quoted = Annotated[str, StringConstraints(pattern=r'^[^"`\n\\]*$')]
# More than these is a slip of the finger: a core can do no more, and Slurm keeps 10,000 jobs by default (MaxJobCount).
_MOST_PER_CORE = 64
_MOST_ON_SMALL_MACHINES = 1024
_MOST_JOBS = 100_000
_MOST_CORES = 4096
# A type may begin with a digit (3g.20gb), a number alone is a count.
_ONE_GPU = r"gpu(:(?!\d+(:|$))[\w.-]+)?(:1)?"


class SlurmSettings(Settings):
    """What a job of a `slurm` profile asks for, and how many there may be. Times are seconds unless said otherwise."""

    worker: Literal["plain", "cuda"] = Field("plain", description="cuda: dask-cuda's worker, for one GPU.")
    partition: Word = ""
    account: Word = ""
    qos: Word = ""
    constraint: str = Field("", pattern=r"^[\w.&|!\[\]*()-]*$")
    gres: Word = Field("", description="What a job gets besides CPUs, e.g. gpu:l40s:1.")
    walltime: str = Field("04:00:00", description="As Slurm writes it: HH:MM:SS or D-HH:MM:SS.")
    cores: int = Field(4, ge=1, le=_MOST_CORES, description="CPU cores of a job.")
    memory: str = Field("16GiB", description="Memory of a job; the worker may use nine tenths of it.")
    directives: tuple[str, ...] = Field((), description="Further options of sbatch, e.g. --reservation=x.")
    prologue: tuple[str, ...] = Field((), description="Shell lines before the worker, e.g. module load cuda.")
    python: Quoted = Field("", description="Python on the nodes; default: the one that runs this.")
    interface: Word = Field("", description="Network between nodes, e.g. ib0; default: that of the host's name.")
    scheduler_interface: Word = Field("", description="The same on this machine, where it has another name.")
    tls: bool = Field(False, description="Encrypt, and let only this session's workers in; needs fintune-xr[tls].")
    scratch: Quoted = Field("${TMPDIR:-/tmp}", description="Folder on a disk of the node itself.")
    log_directory: Quoted = Field("slurm-logs", description="Folder of the jobs' logs, seen by all nodes.")
    min_jobs: int = Field(0, ge=0, description="Jobs that are kept even when there is no work for them.")
    max_jobs: int = Field(1, ge=1, le=_MOST_JOBS, description="Jobs at once.")
    longest_task_s: float = Field(900.0, ge=0, description="Time that a block of tiles takes at most.")
    margin_s: float = Field(120.0, ge=0, description="Time to leave a job in, before its end.")
    lifetime_s: float = Field(
        0.0, ge=0, description="Age at which a worker leaves; 0: walltime less the longest task, margin and stagger."
    )
    stagger_s: float = Field(-1.0, description="Spread of these ages; -1: an eighth of walltime, half an hour at most.")
    retire: bool = Field(True, description="Whether workers leave before their job ends.")
    queue_s: float = Field(86_400.0, gt=0, description="Longest wait for the first job to start.")
    silence_s: float = Field(
        3600.0, gt=0, description="Longest time without an answer from squeue, and without a worker."
    )
    start_s: float = Field(300.0, gt=0, description="Longest time from a job's start to its worker.")
    max_failures: int = Field(3, ge=1, description="Jobs in a row that give no worker before the run is given up.")
    node_failures: int = Field(3, ge=1, description="Deaths on a node after which new jobs avoid it.")
    interval_s: float = Field(5.0, gt=0, description="Time between looks at the queue.")

    @field_validator("walltime")
    @classmethod
    def _is_walltime(cls, value: str) -> str:
        slurm_seconds(value)
        return value

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, value: str) -> str:
        if parse_bytes(value) < 2**20:
            raise ValueError("expected at least 1MiB, written like 48GiB")
        return value

    @field_validator("directives", "prologue")
    @classmethod
    def _are_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\n" in line for line in value):
            raise ValueError("write each line as an item of its own")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> SlurmSettings:
        if (self.worker == "cuda" or self.has_gpu) and not re.fullmatch(_ONE_GPU, self.gres):
            raise ValueError(
                f"a job has one worker, which uses exactly one GPU: expected gres like gpu:l40s:1, got {self.gres!r}. "
                "For more GPUs ask for more jobs (max_jobs)"
            )
        if self.stagger_s < 0 and self.stagger_s != -1:
            raise ValueError(f"stagger_s must be 0 or more, or -1 for an eighth of walltime; got {self.stagger_s:g}")
        if self.tls and find_spec("cryptography") is None:
            raise ValueError(
                "tls makes keys with the package cryptography, which is not installed. "
                "Run: pip install 'fintune-xr[tls]', or leave tls out where nobody else is on the network"
            )
        if self.min_jobs > self.max_jobs:
            raise ValueError(f"min_jobs {self.min_jobs} is more than max_jobs {self.max_jobs}")
        if self.retire and self.lifetime < self.stagger:
            raise ValueError(
                f"walltime {self.walltime} leaves no time to work: longest_task_s {self.longest_task_s:g}, margin_s "
                f"{self.margin_s:g} and twice stagger {self.stagger:g} must fit in it. Ask for more, or lower these"
            )
        last_block_ends = self.lifetime + self.stagger + self.longest_task_s + self.margin_s
        if self.retire and last_block_ends > self.walltime_s:
            raise ValueError(
                f"lifetime_s {self.lifetime:g}, stagger_s {self.stagger:g}, longest_task_s {self.longest_task_s:g} and "
                f"margin_s {self.margin_s:g} go beyond walltime {self.walltime}: a last block would be killed with its "
                "job. Lower lifetime_s, or leave it out"
            )
        return self

    @property
    def walltime_s(self) -> int:
        """Seconds that a job may last."""
        return slurm_seconds(self.walltime)

    @property
    def stagger(self) -> float:
        """Seconds by which a worker may leave earlier or later than `lifetime`."""
        return self.stagger_s if self.stagger_s >= 0 else min(self.walltime_s / 8, 1800.0)

    @property
    def lifetime(self) -> float:
        """Seconds after which a worker leaves, on average; even the last one ends its block before the job does."""
        return self.lifetime_s or self.walltime_s - self.longest_task_s - self.margin_s - self.stagger

    @property
    def has_gpu(self) -> bool:
        """Whether a job gets a GPU."""
        return "gpu" in self.gres.split(":")[0]


class Profile(Settings):
    """Workers that a session starts.

    `threads`: one process; `processes`: worker processes of this machine; `cuda`: one worker process for each GPU of
    this machine; `slurm`: one worker in each job. `workers` 0 means one for each core, or each GPU, of this machine.
    """

    kind: Literal["threads", "processes", "cuda", "slurm"] = "threads"
    workers: int = Field(0, ge=0, description="Worker processes, or threads of the one process.")
    threads: int = Field(
        0,
        ge=0,
        le=_MOST_CORES,
        description="Blocks at once in a worker of cuda or slurm; 0: two on a GPU, else one per core.",
    )
    memory_limit: str = Field("auto", description="Memory of a worker process, e.g. 8GiB; auto shares what there is.")
    dashboard: bool = Field(True, description="Serve Dask's dashboard on a free port of this machine.")
    slurm: SlurmSettings = Field(SlurmSettings.model_validate({}), description="Only for kind slurm.")

    @field_validator("memory_limit")
    @classmethod
    def _is_memory(cls, value: str) -> str:
        try:
            is_known = value in ("auto", "0") or parse_bytes(value) > 0
        except ValueError:
            is_known = False
        if not is_known:
            raise ValueError(f"{value!r} is no amount of memory, write e.g. 8GiB, auto, or 0 for no limit")
        return value

    @model_validator(mode="after")
    def _belongs_together(self) -> Profile:
        if "slurm" in self.model_fields_set and not self.is_remote:
            raise ValueError(f"the section slurm is only for kind slurm, not for kind {self.kind}")
        if self.is_remote and self.workers:
            raise ValueError("kind slurm has one worker in each job: set slurm.max_jobs, not workers")
        if self.threads and self.kind in ("threads", "processes"):
            raise ValueError(f"threads is for kinds cuda and slurm; with kind {self.kind} set workers")
        n_cores = len(os.sched_getaffinity(0))
        most = max(_MOST_ON_SMALL_MACHINES, _MOST_PER_CORE * n_cores)
        if self.workers > most:
            raise ValueError(
                f"workers {self.workers:,} is more than this machine of {n_cores} core(s) can start, {most:,} at most; "
                "0 means one for each"
            )
        return self

    @property
    def is_remote(self) -> bool:
        """Whether the workers run on other machines than this one."""
        return self.kind == "slurm"

    @property
    def has_gpu(self) -> bool:
        """Whether every worker has a GPU to itself."""
        return self.kind == "cuda" or (self.is_remote and self.slurm.has_gpu)

    @property
    def n_workers(self) -> int:
        """Number of workers after `0` has been resolved on this machine; for slurm the most there may be."""
        return self.slurm.max_jobs if self.is_remote else self.workers or len(os.sched_getaffinity(0))

    @property
    def n_threads(self) -> int:
        """Blocks at once in one worker."""
        if self.kind in ("threads", "processes"):
            return self.n_workers if self.kind == "threads" else 1
        # Two on a GPU take turns: one computes while the other ends and the next begins.
        return self.threads or (2 if self.has_gpu else self.slurm.cores)

    @property
    def resources(self) -> dict[str, float]:
        """What dask-cuda workers offer and a task for them asks for; empty for other workers."""
        return {"GPU": 1} if self.kind == "cuda" or (self.is_remote and self.slurm.worker == "cuda") else {}

    def for_long_tasks(self, n_tasks: int = 1) -> Profile:
        """The same for `n_tasks` tasks that may last as long as a job, one in each worker at a time.

        Workers then do not leave early: a task that goes on from its own files when it is begun again loses less so.
        """
        if not self.is_remote:
            # Threads of one process share what a network library keeps per process.
            return self.model_copy(update={"workers": 1} if self.kind == "threads" else {"threads": 1})
        jobs = {"max_jobs": max(1, min(n_tasks, self.slurm.max_jobs)), "min_jobs": 0, "retire": False}
        return self.model_copy(update={"threads": 1, "slurm": self.slurm.model_copy(update=jobs)})


def profile_names() -> list[str]:
    """Names of the profiles that ship with the package."""
    folder = files("fintune_xr.cluster.profiles")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_profile(name: str, overrides: tuple[str, ...] = ()) -> Profile:
    """The shipped profile `name`, or the one in a YAML file at that path, with `key=value` overrides.

    Raises UnknownNameError naming the shipped profiles, SettingsError for what a file gets wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return load_settings(Profile, Path(name), overrides)
    if name not in profile_names():
        raise unknown_name("cluster profile", name, [*profile_names(), "a path ending in .yaml"])
    return load_settings(Profile, Path(str(files("fintune_xr.cluster.profiles") / f"{name}.yaml")), overrides)
