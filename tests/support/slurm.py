"""A Slurm of one's own on loopback: munged, slurmctld and slurmd in one folder, nothing under /etc."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
# Nothing here takes so long unless something is wrong, or the machine is very busy.
WAIT_SECONDS = 240.0
# Below those that the system gives to connections, one of which could take a port between its choice and its use.
_PORTS = range(20_000, 32_000)
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
_SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# Count-only gres does not work: each fake GPU is an existing character device, no two the same.
_GRES = "Name=gpu Type=l40s File=/dev/null\nName=gpu Type=l40s File=/dev/zero\n"
_CONF = """\
ClusterName=loop
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
AuthInfo=socket={root}/run/munge.sock
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
KillWait=5
SlurmdTimeout=30
JobCompType=jobcomp/none
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=00:10:00 State=UP
"""
_NODE = "NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000 Gres=gpu:l40s:2"


def missing_programs() -> list[str]:
    """Programs of Slurm and munge that this machine lacks."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_SEARCH) is None]


@dataclass(frozen=True)
class LoopbackSlurm:
    """A running Slurm; its programs find it through `SLURM_CONF`."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    def call(self, *command: str, check: bool = True) -> str:
        """Standard output of one of Slurm's programs."""
        done = subprocess.run(command, env=self.environ(), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def environ(self) -> dict[str, str]:
        """What a process needs to speak to this Slurm."""
        return {**os.environ, "PATH": _SEARCH, "SLURM_CONF": str(self.conf)}

    def jobs(self, *states: str) -> list[str]:
        """Ids of jobs in these states; running ones where none is named."""
        return self.call("squeue", "-h", "-t", ",".join(states or ("RUNNING",)), "-o", "%A").split()

    def cancel_all(self) -> None:
        """Ends every job and waits until they are gone."""
        self.call("scancel", "-u", getpass.getuser(), check=False)
        wait_for(lambda: not self.call("squeue", "-h", "-o", "%A").split(), "jobs to end")

    def revive(self) -> None:
        """Brings back every node that a test took down."""
        for node in NODES:
            if self.call("sinfo", "-h", "-N", "-n", node, "-o", "%t").strip().rstrip("*") in ("down", "drain", "drng"):
                self.call("scontrol", "update", f"nodename={node}", "state=resume")


def wait_for(happened: Callable[[], object], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Returns once `happened()` is true; raises TimeoutError naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def loopback_slurm() -> Iterator[LoopbackSlurm]:
    """A Slurm of two nodes with two fake GPUs each, stopped by its pid files at the end."""
    # A short path: the name of munge's socket may have 107 characters.
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    slurm = LoopbackSlurm(root)
    try:
        _configure(slurm, _free_ports(1 + len(NODES)))
        _start(slurm)
        yield slurm
    finally:
        _stop(slurm)
        shutil.rmtree(root, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"fewer than {count} of the ports {_PORTS} are free")


def _configure(slurm: LoopbackSlurm, ports: list[int]) -> None:
    for folder in ("etc", "state", "log", "run", "spool"):
        (slurm.root / folder).mkdir()
    slurm.root.chmod(0o755)
    key = slurm.root / "etc" / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (slurm.root / "etc" / "gres.conf").write_text(_GRES)
    nodes = "\n".join(_NODE.format(name=name, port=port) for name, port in zip(NODES, ports[1:], strict=True))
    slurm.conf.write_text(_CONF.format(port=ports[0], root=slurm.root, user=getpass.getuser(), nodes=nodes))


def _start(slurm: LoopbackSlurm) -> None:
    run, log = slurm.root / "run", slurm.root / "log"
    slurm.call(
        "munged", f"--key-file={slurm.root}/etc/munge.key", f"--socket={run}/munge.sock",
        f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log", f"--seed-file={run}/munged.seed",
    )  # fmt: skip
    slurm.call("slurmctld")
    for node in NODES:
        slurm.call("slurmd", "-N", node)

    def idle() -> bool:
        return len(slurm.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False).split()) == len(NODES)

    try:
        wait_for(idle, "both nodes to be idle")
    except TimeoutError as error:
        raise RuntimeError((log / "slurmctld.log").read_text()[-4000:]) from error


def _stop(slurm: LoopbackSlurm) -> None:
    """Jobs first, then the daemons; a pid file that vanishes tells that its daemon has ended."""
    with contextlib.suppress(TimeoutError, RuntimeError):
        slurm.cancel_all()
    files = [*slurm.root.glob("run/slurmd.*.pid"), *slurm.root.glob("run/slurmctld.pid")]
    for files_now in (files, [*slurm.root.glob("run/munged.pid")]):
        for file in files_now:
            with contextlib.suppress(ValueError, ProcessLookupError, FileNotFoundError):
                os.kill(int(file.read_text()), signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda these=files_now: not any(file.exists() for file in these), "daemons to end")


if __name__ == "__main__":
    # python tests/support/slurm.py COMMAND [ARGUMENT …]: runs a command beside a Slurm of its own.
    with loopback_slurm() as started:
        sys.exit(subprocess.run(sys.argv[1:], env=started.environ(), check=False).returncode)
