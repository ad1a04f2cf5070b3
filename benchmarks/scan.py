"""Finding tiles by names and headers, and opening a store of many tiles by donor and channel."""

from __future__ import annotations

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
N_REPEATS = 3
DONOR = "donor-042"

_COLD = """
import sys, time
from fintune_xr.store.cohort import open_cohort
began = time.perf_counter()
open_cohort(sys.argv[1]).images().sel(donor=sys.argv[2], channel="DAPI")
print(time.perf_counter() - began)
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
    cold_s = min(_cold_s(store) for _ in range(N_REPEATS))
    cold = Fact(
        what="the same, first time in a new process, imports left out", ours=f"{cold_s * 1e3:.0f} ms",
        reach="< 0.5 s", reached=cold_s < 0.5,
    )  # fmt: skip
    return [warm, cold]


def _plain_xarray(store: Path) -> xr.Dataset:
    images = xr.open_zarr(store, group="images", consolidated=False)
    return images.isel(tile=(images.donor == DONOR).values).sel(channel="DAPI")


def _cold_s(store: Path) -> float:
    command = [sys.executable, "-c", _COLD, str(store), DONOR]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print_table(rows())
