"""Coordinator's time, memory and files from a thousand tiles to a million, with blocks that return at once.

Not part of `make bench`: a million tiles take minutes. `python benchmarks/scaling.py FOLDER` writes scaling.tsv and
scaling.png there; with a number of tiles and of cells behind it, up to so many tiles of so many cells. Masks are not
written; their shards are counted as the run's grid says.
"""

from __future__ import annotations

import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import inference
import pandas as pd
from simulated_store import create_store

from fintune_xr.pipelines.steps import infer as steps
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.runs.run import run_grid

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PLANES = 2


def measured(work: Path, n_tiles: int) -> dict[str, Any]:
    """One size: CPU seconds and memory of the process that coordinates, and files of the store."""
    store = create_store(work / f"{n_tiles}.zarr", n_tiles, side=inference.SIDE).url
    cost = inference._measured(store, inference.Idle())
    grid = run_grid(open_cohort(store).location, "idle")
    masks = math.ceil(n_tiles / grid.tiles_per_shard)
    files = masks + sum(1 for path in Path(store).rglob("*") if path.is_file() and "/mask/" not in str(path))
    return {
        "tiles": n_tiles,
        "coordinator_ms_per_tile": 1e3 * cost.coordinator_s / n_tiles,
        "main_thread_ms_per_tile": 1e3 * cost.main_s / n_tiles,
        "wall_s": cost.wall_s,
        "memory_gained_mb": cost.growth_mb,
        "bytes_per_tile": 1e6 * cost.growth_mb / n_tiles,
        "files": files,
        "files_per_1000_tiles_and_plane": 1e3 * files / n_tiles / PLANES,
    }


def plot(table: pd.DataFrame, path: Path) -> None:
    """CPU time per tile, and memory, against the number of tiles, on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.loglog(table["tiles"], table["coordinator_ms_per_tile"], "o-", label="all threads")
    left.loglog(table["tiles"], table["main_thread_ms_per_tile"], "s--", label="main thread")
    left.axhline(inference.MOST_COORDINATOR_MS, color="0.6", linewidth=1, label="to reach")
    left.set(xlabel="tiles", ylabel="coordinator, CPU ms per tile")
    left.legend(frameon=False)
    right.loglog(table["tiles"], table["memory_gained_mb"], "o-")
    right.set(xlabel="tiles", ylabel="memory gained by the coordinator, MB")
    figure.savefig(path, dpi=150)


def main(folder: str, most: str = str(SIZES[-1]), n_cells: str = str(inference.CELLS_PER_TILE)) -> None:
    """Measures every size up to `most`, of `n_cells` each, in turn and writes what was found so far after each."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-scaling-") as work,
        mock.patch.object(steps, "infer_block_in_time", partial(inference.receipt_at_once, n_cells=int(n_cells))),
    ):
        inference._measured(create_store(Path(work) / "warm.zarr", 200, side=inference.SIDE).url, inference.Idle())
        for size in (size for size in SIZES if size <= int(most)):
            found.append(measured(Path(work), size))
            table = pd.DataFrame(found)
            table.to_csv(out / "scaling.tsv", sep="\t", index=False, float_format="%.4g")
            print(table.to_string(index=False), flush=True)
    plot(table, out / "scaling.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
