"""What `infer` costs besides the model.

Coordinator: the main thread, which plans, commits, orders the cells and counts the positive ones, and the event loop
with Dask's client and scheduler. Its CPU time is what a cohort waits for however many workers there are. It is measured
with blocks that return their receipts at once. Workers' time is measured with a model that does nothing on tiny tiles,
and how much of it hides behind a model with one that only waits.
"""

from __future__ import annotations

import contextlib
import functools
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from simulated_store import create_store
from table import Fact, print_table

from fintune_xr import names as n
from fintune_xr.pipelines.inference import block as infer_block
from fintune_xr.pipelines.steps import infer as steps
from fintune_xr.tasks.instance import CellTable
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

SIDE = 16
SIZES = (1_000, 10_000, 100_000)
N_REPEATS = 3
CELLS_PER_TILE = 20
# As many as in a real tile; 16 million cells in all.
MANY_CELLS = 1_000
CROWDED_SIZES = (4_000, 16_000)
N_WORKED = 2_000
MOST_COORDINATOR_MS = 1.0
MOST_MB_PER_1000 = 1.0
LINEAR = 1.2

SLEEP_S = 0.05
N_SLEEPING = 640
SLEEPING_SIDE = 512
MOST_OVERHEAD = 1.1


class Idle:
    """A segmenter that finds one cell in every tile and takes `sleep_s` a tile, as a device would."""

    def __init__(self, sleep_s: float = 0.0) -> None:
        self.sleep_s = sleep_s

    def normalise(self, tile: NDArray[Any]) -> NDArray[np.float32]:
        """One plane, as the networks take it."""
        return np.asarray(tile[:1], np.float32)

    def predict(self, batch: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """The input again, after a wait."""
        if self.sleep_s:
            time.sleep(self.sleep_s * len(batch))
        return list(batch)

    def reconstruct(self, maps: NDArray[np.float32]) -> NDArray[np.uint32]:
        """One cell in the middle."""
        mask = np.zeros(maps.shape[1:], np.uint32)
        height, width = mask.shape
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1
        return mask


@dataclass
class Cost:
    """Seconds and MB of one run; `blocks_s` is the clock from the first block to the last."""

    wall_s: float = 0.0
    main_s: float = 0.0
    loop_s: float = 0.0
    process_s: float = 0.0
    blocks_s: float = 0.0
    growth_mb: float = 0.0

    @property
    def coordinator_s(self) -> float:
        """CPU seconds of planning, scheduling and committing."""
        return self.main_s + self.loop_s


def receipt_at_once(plan: ShardPlan, _context: Any, *, n_cells: int = CELLS_PER_TILE) -> ShardReceipt:
    """What a worker returns for a block, without reading, segmenting or writing anything."""
    label = np.arange(1, n_cells + 1, dtype=np.uint32)
    place = np.full(n_cells, SIDE / 2, np.float32)
    intensity = np.random.default_rng(plan.shard).uniform(200, 900, (n_cells, 2)).astype(np.float32)
    background = np.full(2, 200, np.float32)
    cells = CellTable(label, np.full(n_cells, 4, np.int32), place, place, intensity, background)
    return ShardReceipt(plan, (TileResult(n.DONE, 0.0, values=cells.of_tile, objects=cells),) * len(plan.todo))


def rows() -> list[Fact]:
    """Coordinator's cost per tile at three sizes and its growth, workers' cost, and overlap with the model."""
    with tempfile.TemporaryDirectory(prefix="bench-infer-") as folder:
        work = Path(folder)
        with mock.patch.object(steps, "infer_block_in_time", receipt_at_once):
            _measured(create_store(work / "warm.zarr", 200, side=SIDE).url, Idle())
            costs = {size: _median_cost(work, size) for size in SIZES}
        with mock.patch.object(steps, "infer_block_in_time", functools.partial(receipt_at_once, n_cells=MANY_CELLS)):
            crowded = {size: _median_cost(work, size, repeats=1) for size in CROWDED_SIZES}
        return [
            *(_per_tile(size, cost) for size, cost in costs.items()), _growth(costs), _memory(costs, CELLS_PER_TILE),
            *(_per_tile(size, cost, MANY_CELLS) for size, cost in crowded.items()), _memory(crowded, MANY_CELLS),
            _workers(work), _overlap(work),
        ]  # fmt: skip


def _per_tile(size: int, cost: Cost, n_cells: int = CELLS_PER_TILE) -> Fact:
    ms = 1e3 / size
    return Fact(
        what=f"coordinator CPU per tile, {size:,} tiles of {n_cells:,} cells",
        ours=f"{cost.coordinator_s * ms:.2f} ms (main thread {cost.main_s * ms:.2f})",
        reach=f"<= {MOST_COORDINATOR_MS:g} ms", reached=cost.coordinator_s * ms <= MOST_COORDINATOR_MS,
    )  # fmt: skip


def _growth(costs: dict[int, Cost]) -> Fact:
    middle, largest = sorted(costs)[-2:]
    ratio = (costs[largest].coordinator_s / largest) / (costs[middle].coordinator_s / middle)
    return Fact(
        what=f"the same, {largest:,} against {middle:,} tiles", ours=f"{ratio:.2f}x",
        reach=f"<= {LINEAR:g}x: no worse than linear", reached=ratio <= LINEAR,
    )  # fmt: skip


def _memory(costs: dict[int, Cost], n_cells: int) -> Fact:
    middle, largest = sorted(costs)[-2:]
    added_mb = (costs[largest].growth_mb - costs[middle].growth_mb) / (largest - middle) * 1e3
    return Fact(
        what=f"memory gained at the most, {largest:,} tiles of {n_cells:,} cells",
        ours=f"{costs[largest].growth_mb:.0f} MB", peer=f"{costs[middle].growth_mb:.0f} MB (ours at {middle:,} tiles)",
        reach=f"<= {MOST_MB_PER_1000:g} MB per 1,000 tiles", reached=added_mb <= MOST_MB_PER_1000,
    )  # fmt: skip


def _workers(work: Path) -> Fact:
    """All CPU time of a run with a model that does nothing, per tile: nearly all of it is the workers'."""
    store = create_store(work / "worked.zarr", N_WORKED, side=SIDE).url
    cost = _measured(store, Idle())
    worker_ms = (cost.process_s - cost.coordinator_s) / N_WORKED * 1e3
    return Fact(
        what=f"workers' CPU per tile of {SIDE} px, model that does nothing", ours=f"{worker_ms:.1f} ms",
        reach="", reached=None,
    )  # fmt: skip


def _overlap(work: Path) -> Fact:
    """One device that waits 50 ms a tile, as a worker with a GPU uses it: all else should hide behind the waiting."""
    store = create_store(work / "sleeping.zarr", N_SLEEPING, side=SLEEPING_SIDE).url
    profile = work / "one.yaml"
    profile.write_text("kind: threads\nworkers: 2\ndashboard: false\n")
    with mock.patch.object(infer_block, "is_shared", return_value=True):
        cost = _measured(store, Idle(SLEEP_S), cluster=str(profile))
    asleep_s = N_SLEEPING * SLEEP_S
    ratio = cost.blocks_s / asleep_s
    return Fact(
        what=f"{N_SLEEPING} tiles of {SLEEPING_SIDE} px, model that waits {SLEEP_S * 1e3:.0f} ms a tile",
        ours=f"{cost.blocks_s:.1f} s ({ratio:.2f}x)", peer=f"{cost.wall_s:.1f} s with start and end of the run",
        limit=f"{asleep_s:.1f} s (waiting alone)", reach=f"<= {MOST_OVERHEAD}x waiting alone",
        reached=ratio <= MOST_OVERHEAD,
    )  # fmt: skip


def _median_cost(work: Path, n_tiles: int, repeats: int = N_REPEATS) -> Cost:
    """The run of median coordinator time, with the median of the memory that they gained."""
    store = create_store(work / f"{n_tiles}.zarr", n_tiles, side=SIDE).url
    costs = [_measured(store, Idle()) for _ in range(repeats)]
    middle = sorted(costs, key=lambda cost: cost.coordinator_s)[repeats // 2]
    middle.growth_mb = statistics.median(cost.growth_mb for cost in costs)
    return middle


def _measured(store: str, model: Idle, *, cluster: str = "threads") -> Cost:
    cost = Cost()
    opened = steps.session

    @contextlib.contextmanager
    def watched(profile: Any, **options: Any) -> Iterator[Any]:
        with opened(profile, **options) as client:
            began = time.perf_counter()
            yield client
            cost.blocks_s = time.perf_counter() - began
            cost.loop_s = sum(_cpu_s(thread) for thread in threading.enumerate() if "IO loop" in thread.name)

    with (
        mock.patch.object(infer_block, "load_model", return_value=model),
        mock.patch.object(steps, "session", watched),
        _peak_memory(cost),
    ):
        began, cpu, process = time.perf_counter(), time.thread_time(), time.process_time()
        steps.infer(store, run="idle", model="threshold", cluster=cluster, restart=True)
        cost.wall_s, cost.main_s = time.perf_counter() - began, time.thread_time() - cpu
        cost.process_s = time.process_time() - process
    return cost


@contextlib.contextmanager
def _peak_memory(cost: Cost) -> Iterator[None]:
    """Notes the most resident memory above what was there at the start, looked at ten times a second."""
    done, before = threading.Event(), _resident_mb()

    def watch() -> None:
        while not done.wait(0.1):
            cost.growth_mb = max(cost.growth_mb, _resident_mb() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _cpu_s(thread: threading.Thread) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) if thread.ident else 0.0


if __name__ == "__main__":
    print_table(rows())
