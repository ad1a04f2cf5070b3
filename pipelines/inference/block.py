"""What a worker does with one shard of a run: read, segment, measure and encode its tiles, then write it whole."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import DeviceError, FintuneError, StoreWriteError, TileReadError
from fintune_xr.execution.device_turns import turns_on
from fintune_xr.execution.read_ahead import ahead, batches
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.devices import CPU
from fintune_xr.models.protocol import Model
from fintune_xr.models.registry import load_model
from fintune_xr.pipelines.inference.watchdog import Watch, may_die
from fintune_xr.pixels.tile_results import TILE_RESULTS
from fintune_xr.settings import Settings
from fintune_xr.store.cohort import Location, product_at
from fintune_xr.store.runs.run import run_grid
from fintune_xr.store.runs.run_context import opened_run
from fintune_xr.store.runs.run_shard import Encoded, ShardGrid, encode_empty, encode_tile, write_run_shard
from fintune_xr.tasks.product import Product
from fintune_xr.tasks.records import ObjectTable, ShardPlan, ShardReceipt, TileResult


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
    tile_timeout_s: float = 0.0
    creation: str = ""

    def product(self) -> Product:
        """What the run stores of each tile."""
        return product_at(self.location, f"{n.RUNS}/{self.run}")

    def grid(self) -> ShardGrid | None:
        """How the run's pixels are cut; None for a run without pixels."""
        return run_grid(self.location, self.run) if self.product().array is not None else None

    def load(self) -> Model:
        """The model, which stays loaded in this process."""
        return load_model(self.checkpoint, channels=self.channels, settings=self.settings, device=self.device)


@dataclass(slots=True)
class _Work:
    """One tile on its way through the stages; `fault` stops it and quarantines the tile."""

    slot: int
    image: NDArray[Any] | None = None
    maps: NDArray[np.float32] | None = None
    pixels: NDArray[Any] | None = None
    objects: ObjectTable | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    encoded: Encoded = ()
    seconds: float = 0.0
    fault: str = ""


def infer_block(plan: ShardPlan, context: BlockContext) -> ShardReceipt:
    """Receipt of one shard of the run, once it is durable on disk.

    A tile that fails `attempts` times is quarantined with its reason and stored without pixels; failures
    of the store itself are raised. A worker process in which no stage of a tile ends for `tile_timeout_s`, or no batch
    for that times its tiles, is given up.
    """
    finished: list[TileResult] = []
    limit = context.tile_timeout_s if may_die() else 0.0
    with Watch(limit, what=f"{context.run}, tiles from {plan.first}") as watch:
        with watch.allowing(SECONDS_TO_START):
            block = Block(plan, context, watch=watch)
        with ThreadPoolExecutor(_pool_size(), thread_name_prefix="tile") as pool:
            encoded = block.encoded_tiles(pool, finished)
            write_run_shard(context.location, context.run, plan, encoded, creation=context.creation)
    return ShardReceipt(plan, tuple(finished))


class Block:
    """The stages of one block, each a method that takes and gives one tile's work."""

    def __init__(self, plan: ShardPlan, context: BlockContext, *, watch: Watch | None = None) -> None:
        self.rank = next(_RANKS)
        self.watch = watch or Watch(0, what="nothing")
        self.plan = plan
        self.context = context
        end = plan.first + plan.n_slots
        opened = opened_run(context.location, context.run, context.creation, n_tiles=end)
        self.images, self.grid = opened.images, opened.grid
        self.sizes = opened.sizes(slice(plan.first, end))
        self.stored = TILE_RESULTS[opened.product.name]
        self.model = context.load()

    def encoded_tiles(self, pool: ThreadPoolExecutor, finished: list[TileResult]) -> Iterator[Encoded]:
        """Encoded pixels in order of slot, empty of a run without any, while the results gather in `finished`."""
        depth = 2 * max(self.context.batch_tiles, _pool_size())
        todo = self.plan.todo
        prepared = ahead(pool, self.prepare, todo, depth=depth) if self._reads_ahead else map(self.prepare, todo)
        predicted = self.predicted(prepared)
        # Without pixels there is nothing to reconstruct and to encode that would be worth a thread's turn.
        finish = map(self.finish, predicted) if self.grid is None else ahead(pool, self.finish, predicted, depth=depth)
        for work in finish:
            finished.append(_result(work))
            self.watch.alive()
            yield work.encoded

    @property
    def _reads_ahead(self) -> bool:
        """Whether other threads prepare tiles while the network computes.

        Where blocks compute on all cores already, and tiles come from a disk and go nowhere, that gains no time: it
        took a tenth more of it for small volumes, whose threads wait for the interpreter.
        """
        return self.grid is not None or is_shared(self.context.device) or not self.context.location.is_local

    def encoded_one_by_one(self, finished: list[TileResult]) -> Iterator[Encoded]:
        """The same on the calling thread alone: when it dies, the tile after those that came out is at fault."""
        for work in map(self.finish, self.predicted(map(self.prepare, self.plan.todo), size=1)):
            finished.append(_result(work))
            yield work.encoded

    def prepare(self, slot: int) -> _Work:
        """Reads and normalises one tile, cropped to its valid height and width, and depth."""
        began = time.perf_counter()
        work = _Work(slot)
        image = self.images[self.plan.first + slot]
        work.image = image[(slice(None), *(slice(0, int(lengths[slot])) for lengths in self.sizes))]
        self._try(work, lambda: setattr(work, "maps", self.model.normalise(work.image)))
        work.seconds += time.perf_counter() - began
        self.watch.alive()
        return work

    def predicted(self, prepared: Iterator[_Work], *, size: int = 0) -> Iterator[_Work]:
        """Runs the network on batches of `size` tiles, by default those of the run, on the calling thread."""
        for batch in batches(prepared, size or self.context.batch_tiles):
            sound = [work for work in batch if not work.fault]
            with self._turn():
                began = time.perf_counter()
                # A batch is one step, and each of its tiles may take the time of one.
                with self.watch.allowing(len(sound) * self.context.tile_timeout_s):
                    self._predict(sound)
                seconds = time.perf_counter() - began
            for work in batch:
                work.seconds += seconds / len(batch)
                yield work

    def _turn(self) -> contextlib.AbstractContextManager[None]:
        """A GPU computes for one block at a time; CPU threads for all of them."""
        if not is_shared(self.context.device):
            return contextlib.nullcontext()
        return turns_on(self.context.device).turn(self.rank, while_waiting=self.watch.alive)

    def finish(self, work: _Work) -> _Work:
        """Reconstructs and measures one tile, and encodes its pixels where the run stores any."""
        began = time.perf_counter()
        if not work.fault:
            self._try(work, lambda: self._reconstruct(work))
        work.encoded = _encoded(None if work.fault else work.pixels, self.grid)
        work.image = work.maps = work.pixels = None
        work.seconds += time.perf_counter() - began
        self.watch.alive()
        return work

    def _reconstruct(self, work: _Work) -> None:
        made = self.model.reconstruct(work.maps)  # type: ignore[arg-type]
        work.pixels, work.objects, work.values = self.stored(made, work.image)  # type: ignore[arg-type]

    def _predict(self, works: Sequence[_Work]) -> None:
        """A batch that fails is tried again tile by tile, so that one bad tile does not take others along."""
        if not works:
            return
        try:
            maps = self.model.predict([work.maps for work in works])  # type: ignore[misc]
        except _NOT_THE_TILES_FAULT:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a model is the tile's, once it is alone
            _check_device(error, self.context.device)
            for work in works:
                self._try(work, lambda work=work: setattr(work, "maps", self.model.predict([work.maps])[0]))
                self.watch.alive()
            return
        for work, one in zip(works, maps, strict=True):
            work.maps = one

    def _try(self, work: _Work, stage: Any) -> None:
        for attempt in range(1, self.context.attempts + 1):
            try:
                stage()
                return
            except TileReadError as error:
                # What the tile itself is: no second try would find another.
                work.fault = error.reason
                return
            except _NOT_THE_TILES_FAULT:
                raise
            except Exception as error:  # noqa: BLE001 - the reason is stored with the quarantined tile
                _check_device(error, self.context.device)
                self.watch.alive()
                if attempt == self.context.attempts:
                    work.fault = f"{type(error).__name__}: {error}"
                else:
                    # What passes, such as a busy file server or device, needs a moment to do so.
                    time.sleep(_BACK_OFF_S * 2 ** (attempt - 1))


def _check_device(error: Exception, device: str) -> None:
    """Raises DeviceError where the device has failed: after that no tile of this process can be done."""
    if device != CPU and ("CUDA error" in str(error) or type(error).__name__ == "AcceleratorError"):
        raise DeviceError(
            f"{device} failed: {error}. The process cannot use it any more. What was committed stays: run the same "
            "command again; where it fails at the same tile, look at that tile, the driver and `dmesg`."
        ) from error


def is_shared(device: str) -> bool:
    """Whether blocks of one process have to take turns on `device`."""
    return device != CPU


# To import a model's library and load its weights, which may come from a slow file system.
SECONDS_TO_START = 600.0
_RANKS = itertools.count()
_BACK_OFF_S = 0.2
# Damage of the store, lack of a device or of memory would quarantine every tile one after another.
_NOT_THE_TILES_FAULT = (FintuneError, MemoryError, StoreWriteError)


def _encoded(pixels: NDArray[Any] | None, grid: ShardGrid | None) -> Encoded:
    """Pixels of a tile as they are stored; the filler alone where there are none, nothing where none are stored."""
    if grid is None:
        return ()
    return encode_empty(grid) if pixels is None else encode_tile(pixels, grid)


def _result(work: _Work) -> TileResult:
    if work.fault:
        return TileResult(n.QUARANTINED, work.seconds, work.fault)
    return TileResult(n.DONE, work.seconds, values=work.values, objects=work.objects)


def _pool_size() -> int:
    return max(2, len(os.sched_getaffinity(0)))
