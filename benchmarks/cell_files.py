"""Cells of a run as columns of Zarr, as they are stored, beside one Parquet file per shard, as they might be.

Ours writes a log as shards come in, and puts it in order at the end; Parquet files are written by whoever has the
shard, named after it, and are in order as they lie. Both are on the disk (fsync) when a shard counts as done.
CPU seconds. See `docs/decisions/0008-cells-stay-zarr.md`.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import zarr
from table import Fact, Row, medians, print_table, row

from fintune_xr import names as n
from fintune_xr.store.runs.object_log import CellLog
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.tasks.instance import CellTable
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

N_TILES, N_CELLS, PER_SHARD = 800, 1_024, 16
CHANNELS = np.array([n.DAPI, n.MARKER_CHANNEL], np.dtypes.StringDType())
SHARDS_AT_ONCE = 4


def rows() -> list[Row | Fact]:
    """Writing all cells of a run in shards that come in any order, reading two columns of all, and sizes on disk."""
    receipts = _receipts()
    what = f"{N_TILES * N_CELLS:,} cells in {len(receipts)} shards"
    with tempfile.TemporaryDirectory(prefix="bench-cells-") as folder:
        ours, theirs = Path(folder) / "zarr", Path(folder) / "parquet"
        writing = medians(
            {"ours": lambda: _write_zarr(ours, receipts), "peer": lambda: _write_parquet(theirs, receipts)},
            repeats=3, clock=time.process_time,
        )  # fmt: skip
        scanning = medians(
            {"ours": lambda: _read_zarr(ours), "peer": lambda: _read_parquet(theirs)},
            repeats=5,
            clock=time.process_time,
        )
        if not np.array_equal(_read_zarr(ours), _read_parquet(theirs)):
            raise AssertionError("the two hold different cells")
        sizes = [f"{_bytes(place) / 1e6:.1f} MB" for place in (ours, theirs)]
    return [
        row(f"write {what}", writing["ours"], ("a Parquet file per shard", writing["peer"])),
        row(f"read area and intensity of {what}", scanning["ours"], ("pyarrow.dataset", scanning["peer"])),
        Fact(what=f"size of {what}", ours=sizes[0], peer=sizes[1], reach="", reached=None),
    ]


@functools.cache
def _receipts() -> list[ShardReceipt]:
    """Cells as a run finds them, the shards in the order of their arrival."""
    rng = np.random.default_rng(0)
    plans = [
        ShardPlan(shard, shard * PER_SHARD, PER_SHARD, tuple(range(PER_SHARD))) for shard in range(N_TILES // PER_SHARD)
    ]
    made = [ShardReceipt(plan, tuple(_tile(rng) for _ in range(PER_SHARD))) for plan in plans]
    return [made[i] for i in rng.permutation(len(made))]


def _tile(rng: np.random.Generator) -> TileResult:
    places = rng.uniform(0, 2048, (2, N_CELLS)).astype(np.float32)
    cells = CellTable(
        np.arange(1, N_CELLS + 1, dtype=np.uint32), rng.integers(50, 400, N_CELLS).astype(np.int32), *places,
        rng.gamma(4, 100, (N_CELLS, 2)).astype(np.float32), np.zeros(2, np.float32),
    )  # fmt: skip
    return TileResult(n.DONE, 0.1, objects=cells)


def _write_zarr(place: Path, receipts: list[ShardReceipt]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    location = Location(str(place))
    zarr.create_group(location.zarr(read_only=False))
    log = CellLog(location, "r", INSTANCES)
    log.open(N_TILES, CHANNELS)
    for first in range(0, len(receipts), SHARDS_AT_ONCE):
        log.append(receipts[first : first + SHARDS_AT_ONCE])
    log.put_in_order(np.full(N_TILES, N_CELLS, np.int32))


def _read_zarr(place: Path) -> np.ndarray:
    cells = zarr.open_group(place / n.CELLS / "r", mode="r")
    return np.column_stack([cells["area_px"][:], cells["mean_intensity"][:]])


def _bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _write_parquet(place: Path, receipts: list[ShardReceipt]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for receipt in receipts:
        tables = [result.objects for result in receipt.results]
        columns = {
            name: np.concatenate([getattr(table, name) for table in tables])
            for name in ("label", "area_px", "centroid_y", "centroid_x")
        }
        intensity = np.concatenate([table.mean_intensity for table in tables])
        columns |= {f"mean_intensity_{name}": intensity[:, i] for i, name in enumerate(CHANNELS.tolist())}
        columns["tile_index"] = np.repeat(np.arange(PER_SHARD, dtype=np.int32) + receipt.plan.first, N_CELLS)
        file = place / f"{receipt.plan.shard:06d}.parquet"
        with file.with_suffix(".part").open("wb") as target:
            pa.parquet.write_table(pa.table(columns), target, compression="zstd")
            target.flush()
            os.fsync(target.fileno())
        file.with_suffix(".part").rename(file)


def _read_parquet(place: Path) -> np.ndarray:
    wanted = ["area_px", *(f"mean_intensity_{name}" for name in CHANNELS.tolist())]
    found = pa.dataset.dataset(sorted(map(str, place.glob("*.parquet")))).to_table(columns=wanted)
    return np.column_stack([found[name].to_numpy() for name in wanted])


if __name__ == "__main__":
    print_table(rows())
