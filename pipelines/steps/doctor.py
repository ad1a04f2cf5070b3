"""Whether this machine has what the other verbs need: versions, memory, disk, locks, GPU, weights, Slurm, a store."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import AnswerError, StoreUnreachableError
from fintune_xr.models.devices import cuda_names
from fintune_xr.models.registry import published_weights
from fintune_xr.store.cohort import open_cohort

GOOD, MIND, BAD = "good", "mind", "bad"
STATES: Final = (GOOD, MIND, BAD)
_PACKAGES: Final = ("numpy", "xarray", "zarr", "dask", "torch", "transformers", "cellpose", "lightning", "monai")
_LEAST_FREE: Final = 20 << 30
_LEAST_MEMORY: Final = 4 << 30
_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it stands (good, mind, bad), what was seen, and what to do where it is not good."""

    subject: str
    state: str
    finding: str
    remedy: str = ""


def doctor(store: str | Path | None = None) -> pd.DataFrame:
    """One row for each thing that was looked at: subject, state (good, mind or bad), finding, remedy.

    `store` is a cohort, whose place is looked at too; without it the present folder stands for it. Nothing is written
    but a file for a moment, to see whether it can be locked.
    """
    found = [*_software(), _memory(), *_place(str(store or Path.cwd())), _gpu(), _weights(), _slurm()]
    if store is not None:
        found.append(_cohort(store))
    return pd.DataFrame([(one.subject, one.state, one.finding, one.remedy) for one in found], columns=COLUMNS)


COLUMNS: Final = ["subject", "state", "finding", "remedy"]


def _software() -> Iterator[Finding]:
    yield Finding("python", GOOD, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("fintune-xr", GOOD, version("fintune-xr"))
    found = {name: _version_of(name) for name in _PACKAGES}
    yield Finding("packages", GOOD, ", ".join(f"{name} {found[name] or 'not installed'}" for name in found))


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{_gb(total)} of memory, {len(os.sched_getaffinity(0))} cores for this process"
    if total < _LEAST_MEMORY:
        return Finding("memory", MIND, text, "Take small batches: batch_tiles=1, and one worker.")
    return Finding("memory", GOOD, text)


def _place(where: str) -> Iterator[Finding]:
    """Disk and locks where the store lies, or would; of object storage there is nothing to say beforehand."""
    if "://" in where:
        yield Finding("disk", GOOD, f"{where} is object storage")
        return
    path = Path(where).expanduser().resolve()
    # Beside a store and not in it: a group of Zarr is no place for a strange file.
    outside = path.parent if (path / "zarr.json").is_file() else path
    folder = next(one for one in (outside, *outside.parents) if one.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{_gb(free)} free at {folder}"
    if free >= _LEAST_FREE:
        yield Finding("disk", GOOD, text)
    else:
        yield Finding("disk", MIND, text, "Make room, or keep the store elsewhere: masks take about what images take.")
    yield _locks(folder)


def _locks(folder: Path) -> Finding:
    """Whether two openings of a file keep each other out, which is what keeps two writers apart."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file, Path(file.name).open("rb") as other:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return Finding("locks", GOOD, f"files in {folder} can be locked")
    except OSError as error:
        remedy = "Make the folder writable, or mount it with locks (Lustre: flock)."
        return Finding("locks", BAD, f"no file in {folder} can be locked: {error.strerror or error}", remedy)
    return Finding("locks", BAD, f"locks in {folder} keep nobody out", "Mount it with locks (Lustre: flock).")


def _gpu() -> Finding:
    seen = "; ".join(_said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines())
    if importlib.util.find_spec("torch") is None:
        remedy = "Networks need torch: install the extra that brings it."
        return Finding("gpu", MIND, f"torch is not installed; nvidia-smi: {seen or 'no GPU'}", remedy)
    usable = cuda_names()
    if usable:
        return Finding("gpu", GOOD, ", ".join(usable))
    if seen:
        remedy = "Install a torch that was built for this driver, and see CUDA_VISIBLE_DEVICES."
        return Finding("gpu", BAD, f"nvidia-smi sees {seen}, torch none", remedy)
    remedy = "Fine-tuning of large models takes one: --cluster slurm-cuda, or another machine."
    return Finding("gpu", MIND, "none; networks compute on the CPU", remedy)


def _weights() -> Finding:
    known = published_weights()
    here = [name for name, one in known.items() if one.path.is_file()]
    text = f"{len(here)} of {len(known)} published weights are here{': ' if here else ''}{', '.join(here)}"
    remedy = "" if here else "Where there is a network: fintune-xr weights fetch NAME; `weights list` names them."
    return Finding("weights", GOOD if here else MIND, text, remedy)


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding("slurm", GOOD, "not on this machine; profiles slurm-* are for others")
    told = _said("sinfo", "--noheader", "--format=%P %a %D nodes %G")
    if not told:
        return Finding("slurm", BAD, "sbatch is here, sinfo does not answer", "Ask whether the controller is up.")
    return Finding("slurm", GOOD, f"{_said('sbatch', '--version')}: {'; '.join(told.splitlines())}")


def _cohort(store: str | Path) -> Finding:
    try:
        cohort = open_cohort(store)
        images = cohort.images(lazy=False)
        states = {name: cohort.run(name, lazy=False)[n.STATE].values for name in cohort.run_names()}
        pending = [name for name, state in states.items() if (state == n.PENDING).any()]
    except StoreUnreachableError as error:
        return Finding("store", BAD, str(error))
    except AnswerError as error:
        return Finding("store", BAD, str(error), f"fintune-xr check {store}")
    text = f"{cohort.kind} cohort, {images.sizes[n.TILE]} tiles, {len(cohort.run_names())} runs"
    return Finding("store", GOOD, text + (f"; not finished: {', '.join(pending)}" if pending else ""))


def _said(*command: str) -> str:
    """What a command prints, empty where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    return done.stdout.strip()


def _gb(size: int) -> str:
    return f"{size / (1 << 30):.0f} GB"
