"""One shard of a run's pixels, written whole by the worker that holds it.

The forms that tiles have in a shard, and what makes them, are handed on for workers: `zarr_io` is the store's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from fintune_xr.errors import RunMismatchError
from fintune_xr.store.runs.run import run_creation
from fintune_xr.store.runs.run_context import opened_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.shards import Encoded as Encoded
from fintune_xr.store.zarr_io.shards import ShardGrid as ShardGrid
from fintune_xr.store.zarr_io.shards import encode_empty as encode_empty
from fintune_xr.store.zarr_io.shards import encode_tile as encode_tile
from fintune_xr.store.zarr_io.shards import read_encoded as read_encoded
from fintune_xr.tasks.records import ShardPlan


def write_run_shard(
    location: Location, run: str, plan: ShardPlan, fresh: Iterator[shards.Encoded], *, creation: str
) -> int:
    """Number of bytes of the shard of pixels: `fresh` tiles in the slots to do, the others carried over.

    Slots that stay pending get a tile without pixels; a shard that should hold finished tiles and is gone is an error.
    Of a run without pixels the tiles are made, and no file is written: all of them is in the receipt.

    Raises RunMismatchError where the run was thrown away and made anew since `creation` was given out.
    """
    grid = opened_run(location, run, creation).grid
    if grid is None:
        for _ in fresh:
            pass
        _require_creation(location, run, plan, creation)
        return 0
    todo, later = set(plan.todo), set(plan.later)
    kept = shards.read_encoded(location, grid, plan.shard) if len(todo | later) < plan.n_slots else []
    empty = shards.encode_empty(grid) if later else ()

    def tiles() -> Iterator[shards.Encoded]:
        for slot in range(plan.n_slots):
            yield next(fresh) if slot in todo else empty if slot in later else kept[slot]
        # Last of all, because the tiles took their time; nothing is in its place yet.
        _require_creation(location, run, plan, creation)

    return shards.write_shard(location, grid, plan.shard, tiles())


def _require_creation(location: Location, run: str, plan: ShardPlan, creation: str) -> None:
    if run_creation(location, run) != creation:
        raise RunMismatchError(f"run {run!r} of {location.url} was restarted; shard {plan.shard} is given up")
