"""What a worker does with one mask shard: read, segment, measure and encode its tiles, then write it whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneError, StoreWriteError
from fintune_xr.measurement import measure_cells
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.registry import load_segmenter
from fintune_xr.models.segmenter import Segmenter
from fintune_xr.overlap import ahead, batches
from fintune_xr.settings import Settings
from fintune_xr.store import shards
from fintune_xr.store.location import Location, reading
from fintune_xr.store.runs import run_grid, write_mask_shard
from fintune_xr.tiles import CellTable, ShardPlan, ShardReceipt, TileResult


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What every block of a run needs; a few hundred bytes that travel with each of them."""

    location: Location
    run: str
    checkpoint: Checkpoint
    settings: Settings
    channels: tuple[str, ...]
    device: str
    batch_tiles: int
    attempts: int


@dataclass(slots=True)
class _Work:
    """One tile on its way through the stages; `fault` stops it and quarantines the tile."""

    slot: int
    image: NDArray[Any] | None = None
    maps: NDArray[np.float32] | None = None
    mask: NDArray[np.uint32] | None = None
    cells: CellTable | None = None
    encoded: shards.Encoded = ()
    seconds: float = 0.0
    fault: str = ""


def infer_block(plan: ShardPlan, context: BlockContext) -> ShardReceipt:
    """Receipt of one mask shard, once it is durable on disk.

    A tile that fails `attempts` times is quarantined with its reason and stored as an empty mask; failures
    of the store itself are raised.
    """
    block = _Block(plan, context)
    with ThreadPoolExecutor(_pool_size(), thread_name_prefix="tile") as pool:
        finished: list[TileResult] = []
        write_mask_shard(context.location, context.run, plan, block.encoded_tiles(pool, finished))
    return ShardReceipt(plan, tuple(finished))


class _Block:
    """The stages of one block, each a method that takes and gives one tile's work."""

    def __init__(self, plan: ShardPlan, context: BlockContext) -> None:
        self.plan = plan
        self.context = context
        store = context.location.zarr()
        self.images = zarr.open_array(store, path=f"{n.IMAGES}/{n.IMAGE}", mode="r")
        rows = slice(plan.first, plan.first + plan.n_slots)
        self.heights, self.widths = (
            np.asarray(zarr.open_array(store, path=f"{n.IMAGES}/{side}", mode="r")[rows])
            for side in (n.HEIGHT, n.WIDTH)
        )
        self.grid = run_grid(context.location, context.run)
        self.segmenter: Segmenter = load_segmenter(
            context.checkpoint, channels=context.channels, settings=context.settings, device=context.device
        )

    def encoded_tiles(self, pool: ThreadPoolExecutor, finished: list[TileResult]) -> Iterator[shards.Encoded]:
        """Encoded masks in order of slot, while the results gather in `finished`."""
        depth = 2 * max(self.context.batch_tiles, _pool_size())
        prepared = ahead(pool, self.prepare, self.plan.todo, depth=depth)
        predicted = self.predicted(prepared)
        for work in ahead(pool, self.finish, predicted, depth=depth):
            finished.append(_result(work))
            yield work.encoded

    def prepare(self, slot: int) -> _Work:
        """Reads and normalises one tile, cropped to its valid height and width."""
        began = time.perf_counter()
        work = _Work(slot)
        with reading(f"tile {self.plan.first + slot} of {self.images.store_path}"):
            image = np.asarray(self.images[self.plan.first + slot])
        work.image = image[..., : self.heights[slot], : self.widths[slot]]
        self._try(work, lambda: setattr(work, "maps", self.segmenter.normalise(work.image)))
        work.seconds += time.perf_counter() - began
        return work

    def predicted(self, prepared: Iterator[_Work]) -> Iterator[_Work]:
        """Runs the network on batches of tiles, on the calling thread."""
        for batch in batches(prepared, self.context.batch_tiles):
            began = time.perf_counter()
            sound = [work for work in batch if not work.fault]
            self._predict(sound)
            for work in batch:
                work.seconds += (time.perf_counter() - began) / len(batch)
                yield work

    def finish(self, work: _Work) -> _Work:
        """Reconstructs, measures and encodes the mask of one tile."""
        began = time.perf_counter()
        if not work.fault:
            self._try(work, lambda: self._reconstruct(work))
        mask = work.mask if work.mask is not None and not work.fault else np.zeros((1, 1), np.uint32)
        work.encoded = shards.encode_tile(mask, self.grid)
        work.image = work.maps = work.mask = None
        work.seconds += time.perf_counter() - began
        return work

    def _reconstruct(self, work: _Work) -> None:
        work.mask = self.segmenter.reconstruct(work.maps)  # type: ignore[arg-type]
        work.cells = measure_cells(work.mask, work.image)  # type: ignore[arg-type]

    def _predict(self, works: Sequence[_Work]) -> None:
        """A batch that fails is tried again tile by tile, so that one bad tile does not take others along."""
        if not works:
            return
        try:
            maps = self.segmenter.predict([work.maps for work in works])  # type: ignore[misc]
        except _NOT_THE_TILES_FAULT:
            raise
        except Exception:  # noqa: BLE001 - any failure of a model is the tile's, once it is alone
            for work in works:
                self._try(
                    work, lambda work=work: setattr(work, "maps", self.segmenter.predict([work.maps])[0])
                )
            return
        for work, one in zip(works, maps, strict=True):
            work.maps = one

    def _try(self, work: _Work, stage: Any) -> None:
        for attempt in range(1, self.context.attempts + 1):
            try:
                stage()
                return
            except _NOT_THE_TILES_FAULT:
                raise
            except Exception as error:  # noqa: BLE001 - the reason is stored with the quarantined tile
                if attempt == self.context.attempts:
                    work.fault = f"{type(error).__name__}: {error}"


# Damage of the store, lack of a device or of memory would quarantine every tile one after another.
_NOT_THE_TILES_FAULT = (FintuneError, MemoryError, StoreWriteError)


def _result(work: _Work) -> TileResult:
    if work.fault:
        return TileResult(n.QUARANTINED, work.seconds, work.fault)
    return TileResult(n.DONE, work.seconds, cells=work.cells)


def _pool_size() -> int:
    return max(2, len(os.sched_getaffinity(0)))
