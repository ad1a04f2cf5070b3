"""What Slurm says about the jobs of one session."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fintune_xr.errors import ClusterError

# States in which a job has ended, for whatever reason. Others, known or not, are taken as alive.
ENDED: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
     "REVOKED", "TIMEOUT"}
)  # fmt: skip
# Ends that speak against the node, and not for a person, a limit or the scheduler.
NODES_FAULT: Final = frozenset({"BOOT_FAIL", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"})
_FIELDS: Final = "%A|%T|%N|%r"
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One line of squeue: state in capitals, the node once it has one, why it waits or ended."""

    job_id: str
    state: str
    node: str
    reason: str

    @property
    def has_ended(self) -> bool:
        """Whether the job is over."""
        return self.state in ENDED


def queued_jobs(job_name: str) -> dict[str, QueuedJob]:
    """Jobs of that name by id, with those that ended in the last minutes.

    Raises ClusterError where squeue cannot say: that is not the same as no jobs.
    """
    out = _call("squeue", "--noheader", "--states=all", f"--name={job_name}", f"--format={_FIELDS}")
    lines = [[part.strip() for part in line.split("|", 3)] for line in out.splitlines()]
    return {line[0]: QueuedJob(*line) for line in lines if len(line) == _FIELDS.count("|") + 1}


def cancel_jobs(job_name: str) -> None:
    """Ends every job of that name, those still in the queue too."""
    _call("scancel", f"--name={job_name}")


def check_accepted(script_path: str) -> str:
    """What sbatch says to a job script that it would take; nothing is submitted.

    Raises ClusterError with sbatch's words where it refuses.
    """
    try:
        return _call("sbatch", "--test-only", script_path)
    except ClusterError as error:
        raise ClusterError(f"Slurm does not take the jobs of this profile. {error}") from error


def _call(*command: str) -> str:
    """Output and messages of one of Slurm's programs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError as error:
        raise ClusterError(
            f"no program {command[0]!r} here. Run this where jobs can be submitted, or use another --cluster."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{command[0]} gave no answer within {_SECONDS:.0f} s") from error
    if done.returncode:
        raise ClusterError(f"{_shown(command)} said: {(done.stderr or done.stdout).strip()}")
    return done.stdout + (done.stderr if command[0] == "sbatch" else "")


def _shown(command: Sequence[str]) -> str:
    return " ".join(part for part in command if not part.startswith("/"))
