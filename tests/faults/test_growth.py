"""What the process that coordinates a run keeps in memory, as the cohort grows."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fintune_xr import names as n
from fintune_xr.execution.read_ahead import batches
from fintune_xr.pipelines.steps import infer as steps
from fintune_xr.store.cohort import create_cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.tasks.instance import CellTable
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

SIZES = (1024, 4096)
N_CELLS = 20


def labels_only(where: Path, n_tiles: int) -> str:
    """A store that names `n_tiles` tiles of ten donors and holds no pixels."""
    cohort = create_cohort(where, kind="if", channels=["DAPI", "marker"], tile_shape=(16, 16), dtype="uint16")
    names = [f"d{tile % 10}/GFAP/{tile:05d}" for tile in range(n_tiles)]
    columns: dict[str, Any] = {
        n.TILE: names, n.DONOR: [name[:2] for name in names], n.MARKER: ["GFAP"] * n_tiles, n.SPLIT: [""] * n_tiles,
        n.SOURCE: [["a.tif", "b.tif"]] * n_tiles, n.SHA256: [["0", "0"]] * n_tiles, n.HEIGHT: np.full(n_tiles, 16),
        n.WIDTH: np.full(n_tiles, 16),
    }  # fmt: skip
    for name, values in columns.items():
        column = open_column(cohort.location, f"{n.IMAGES}/{name}")
        column.resize((n_tiles, *column.shape[1:]))
        column[:] = values if isinstance(values, np.ndarray) else np.array(values, np.dtypes.StringDType())
    for name, spec in cohort.images_group().labels.items():
        if name not in columns:
            column = open_column(cohort.location, f"{n.IMAGES}/{name}")
            column.resize((n_tiles, *column.shape[1:]))
            column[:] = "" if spec.dtype == "str" else 0
    image = open_column(cohort.location, f"{n.IMAGES}/{n.IMAGE}")
    image.resize((n_tiles, *image.shape[1:]))
    return cohort.url


def receipt_at_once(plan: ShardPlan) -> ShardReceipt:
    """What a worker hands back for a shard, without any work."""
    rng = np.random.default_rng(plan.shard)
    place, area = np.zeros(N_CELLS, np.float32), np.full(N_CELLS, 9, np.int32)
    intensity = rng.uniform(200, 900, (N_CELLS, 2)).astype(np.float32)
    label = np.arange(1, N_CELLS + 1, dtype=np.uint32)
    cells = CellTable(label, area, place, place, intensity, np.full(2, 100, np.float32))
    return ShardReceipt(plan, tuple(TileResult(n.DONE, 0.0, values=cells.of_tile, objects=cells) for _ in plan.todo))


def one_after_another(
    _client: Any, _function: Any, plans: Iterable[ShardPlan], **_options: Any
) -> Iterator[list[ShardReceipt]]:
    """Receipts of all plans without a cluster, whose own memory is not what is looked at."""
    for batch in batches(plans, 16):
        yield list(map(receipt_at_once, batch))


@pytest.mark.slow
def test_a_run_keeps_nothing_and_needs_little_for_each_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "map_plans", one_after_another)
    monkeypatch.setattr(steps, "session", lambda *_, **__: nullcontext(SimpleNamespace(dashboard_link="none")))
    stores = [labels_only(tmp_path / f"{size}.zarr", size) for size in SIZES]
    steps.infer(labels_only(tmp_path / "warm.zarr", 16), run="r", model="threshold")
    kept, most = [], []
    tracemalloc.start()
    try:
        for store in stores:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            steps.infer(store, run="r", model="threshold")
            most.append(tracemalloc.get_traced_memory()[1] - before)
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    added = SIZES[1] - SIZES[0]
    # Labels opened with a Dask chunk for each tile kept a hundred bytes a tile and more in caches of Dask.
    assert (kept[1] - kept[0]) / added < 30, f"kept: {kept}"
    assert (most[1] - most[0]) / added < 2_000, f"at the most: {most}"
