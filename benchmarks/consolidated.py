"""Opening the images of a store of many runs by plain xarray, without and with consolidated metadata, and adding it.

A run is three groups of ten arrays each, as masks and counts, cells and positivity are. CPU seconds. See
`docs/decisions/0009-no-consolidated-metadata.md`.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from table import Fact, Row, medians, print_table, row

from fintune_xr import names as n
from fintune_xr.store.cohort import create_cohort, open_cohort

N_RUNS, GROUPS, ARRAYS = 100, 3, 10


def rows() -> list[Row | Fact]:
    """Opening images plainly and with the package, adding the copy, and its size."""
    with tempfile.TemporaryDirectory(prefix="bench-consolidated-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata")
        store = _store(Path(folder) / "a.zarr")
        before = medians(_openings(store), repeats=5, clock=time.process_time)
        started = time.process_time()
        zarr.consolidate_metadata(store)
        adding = time.process_time() - started
        after = medians(_openings(store), repeats=5, clock=time.process_time)
        size = (store / "zarr.json").stat().st_size
    of = f"a store of {N_RUNS} runs"
    return [
        row(f"xr.open_zarr of the images of {of}", before["peer"], ("consolidated", after["peer"])),
        row(f"open_cohort(...).images() of {of}", before["ours"], ("consolidated", after["ours"])),
        Fact(what=f"adding the copy to {of}", ours="-", peer=f"{adding:.1f} s", reach="", reached=None),
        Fact(what="description of its root", ours="-", peer=f"{size / 1e6:.1f} MB", reach="", reached=None),
    ]


def _openings(store: Path) -> dict[str, Callable[[], xr.Dataset]]:
    return {"ours": lambda: open_cohort(store).images(), "peer": lambda: xr.open_zarr(store, group=n.IMAGES)}


def _store(store: Path) -> Path:
    create_cohort(store, kind="if", channels=[n.DAPI, n.MARKER_CHANNEL], tile_shape=(64, 64), dtype="uint16")
    root = zarr.open_group(store, mode="r+")
    for run in range(N_RUNS):
        for part in range(GROUPS):
            group = root.create_group(f"extra/{run}_{part}")
            for name in range(ARRAYS):
                group.create_array(str(name), shape=(8,), dtype=np.int32)
    return store


if __name__ == "__main__":
    print_table(rows())
