"""Finding tiles by names and headers, and opening a store of many tiles by donor and channel."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import tifffile
import xarray as xr
from simulated_store import create_store
from table import Fact, Reach, Row, compared, print_table
from tiles_on_disk import write_small_files

from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.raw.layouts import choose_layout
from fintune_xr.store.raw.scan import scan

N_SCANNED = 2_000
N_STORED = 20_000
N_MANY = 1_000_000
N_REPEATS = 3
DONOR = "donor-042"

_COLD = """
import re, sys, time
from pathlib import Path
from fintune_xr.store.cohort import open_cohort
began = time.perf_counter()
open_cohort(sys.argv[1]).images().sel(donor=sys.argv[2], channel="DAPI")
# What getrusage tells is that of the process that started this one where that was more.
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(time.perf_counter() - began, peak_kib * 1024 / 1e6)
"""


def rows() -> list[Row | Fact]:
    """Scanning against a loop over the files; opening warm against plain xarray, and in a new process."""
    with tempfile.TemporaryDirectory(prefix="bench-scan-") as folder:
        return [_scanning(Path(folder) / "source"), *_opening(Path(folder) / "many.zarr")]


def obvious_loop(source: Path) -> list[tuple[tuple[int, ...], str]]:
    """Shape and dtype of every file, one after another; pairs and damage are not looked for."""
    found = []
    for path in sorted(source.rglob("*.tif")):
        with tifffile.TiffFile(path) as tif:
            found.append((tif.pages[0].shape, str(tif.pages[0].dtype)))
    return found


def _scanning(source: Path) -> Row:
    write_small_files(source, N_SCANNED)
    return compared(
        f"scan {N_SCANNED:,} tiles, {2 * N_SCANNED:,} files",
        lambda: scan(source, choose_layout("rosmap")),
        ("loop over tifffile.TiffFile", lambda: obvious_loop(source)),
        repeats=N_REPEATS,
    )  # fmt: skip


def _opening(store: Path) -> list[Row | Fact]:
    create_store(store, N_STORED, side=8)
    warm = compared(
        f"open {N_STORED:,} tiles, select donor and channel",
        lambda: open_cohort(store).images().sel(donor=DONOR, channel="DAPI"),
        ("xarray.open_zarr, boolean mask", lambda: _plain_xarray(store)),
        reach=Reach(seconds=0.5), repeats=N_REPEATS,
    )  # fmt: skip
    return [warm, *_cold(store, N_STORED, Reach(seconds=0.25)), *_opening_many(store.with_name("million.zarr"))]


def _opening_many(store: Path) -> list[Row | Fact]:
    create_store(store, N_MANY, side=1)
    return _cold(store, N_MANY, Reach(seconds=5.0), megabytes=500)


def _cold(store: Path, n_tiles: int, reach: Reach, megabytes: float = math.inf) -> list[Row | Fact]:
    """Least time of several new processes, imports left out, and the most memory of any, imports included."""
    runs = [_new_process(store) for _ in range(N_REPEATS)]
    seconds, peak_mb = min(run[0] for run in runs), max(run[1] for run in runs)
    return [
        Fact(
            what=f"{n_tiles:,} tiles, first time in a new process, imports left out", ours=f"{seconds * 1e3:.0f} ms",
            reach=f"<= {reach.seconds} s", reached=seconds <= reach.seconds,
        ),
        Fact(
            what="memory of that process, imports included", ours=f"{peak_mb:.0f} MB",
            reach="" if math.isinf(megabytes) else f"<= {megabytes:.0f} MB", reached=peak_mb <= megabytes,
        ),
    ]  # fmt: skip


def _plain_xarray(store: Path) -> xr.Dataset:
    images = xr.open_zarr(store, group="images", consolidated=False)
    return images.isel(tile=(images.donor == DONOR).values).sel(channel="DAPI")


def _new_process(store: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", _COLD, str(store), DONOR]
    seconds, peak_mb = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(peak_mb)


if __name__ == "__main__":
    print_table(rows())
