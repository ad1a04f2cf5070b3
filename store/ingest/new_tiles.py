"""New tiles into the store, in order: read by threads of this process, or shard by shard by workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.execution.recycled_memory import release_idle
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.scan import Progress
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards

T = TypeVar("T")

Labelled: TypeAlias = tuple[growing.Labels, shards.Encoded]


@dataclass(frozen=True, slots=True)
class NewTiles(Generic[T]):
    """Tiles that the store lacks, in the order in which they will be stored.

    `reader(n)` is the function that reads and compresses one of them, on `n` threads at once; it is picklable.
    """

    cohort: Cohort
    items: Sequence[T]
    reader: Callable[[int], Callable[[T], Labelled | LeftOut]]

    @property
    def target(self) -> growing.Growing:
        """The group that they are appended to."""
        return self.cohort.images_group()


@dataclass(frozen=True, slots=True)
class ShardPlan(Generic[T]):
    """What one worker does: the tiles after the first `used` of a shard. `first` is the place of the first of them."""

    number: int
    first: int
    shard: int
    used: int
    items: tuple[T, ...]


@dataclass(frozen=True, slots=True)
class ShardRead:
    """What became of a plan: the shard beside its place, or the tiles, by place, that cannot be read."""

    number: int
    n_tiles: int
    written: growing.ShardAside
    left_out: dict[int, LeftOut]


# Calls a function of a plan and a context for each plan, on workers, and hands out results in any order.
Mapper: TypeAlias = Callable[
    [Callable[[ShardPlan[Any], NewTiles[Any]], ShardRead], Iterable[ShardPlan[Any]], NewTiles[Any]],
    Iterable[ShardRead],
]


@dataclass(frozen=True, slots=True)
class ReadOn:
    """Where tiles are read: on threads of this process, or with `mapper` on workers of a cluster; and who is told."""

    threads: int
    progress: Progress | None = None
    mapper: Mapper | None = None


def append_new(new: NewTiles[T], left_out: list[LeftOut], how: ReadOn) -> int:
    """Number of tiles added, in their order; what cannot be read is added to `left_out`."""
    if how.mapper is not None:
        return append_on_workers(new, left_out, how.mapper, how.progress)
    return append_here(new, left_out, workers=how.threads, progress=how.progress)


def append_here(new: NewTiles[T], left_out: list[LeftOut], *, workers: int, progress: Progress | None) -> int:
    """Number of tiles added; `workers` threads read and compress. What cannot be read is added to `left_out`."""
    before = new.target.n_tiles
    with ThreadPoolExecutor(workers) as pool:
        results = ahead(pool, new.reader(workers), new.items, depth=2 * workers)
        for _ in growing.append(new.target, _good(results, left_out, len(new.items), progress)):
            pass
    release_idle()
    return new.target.n_tiles - before


def append_on_workers(new: NewTiles[T], left_out: list[LeftOut], mapper: Mapper, progress: Progress | None) -> int:
    """The same by workers that write whole shards aside; they are put in place and committed here, in order.

    The bytes are those that one process would have written. Where tiles cannot be read, the shards behind the first of
    them are read again without them all.

    Raises FintuneValueError for a store that lies on object storage.
    """
    if not new.target.location.is_local:
        raise FintuneValueError(
            f"{new.target.location.url}: workers of a cluster write shards as files, which are then renamed; object "
            "storage renames nothing. Leave --cluster out, or ingest into a folder that the workers see and copy it."
        )
    before, waiting = new.target.n_tiles, list(new.items)
    growing.require_labels(new.target)
    while waiting:
        n_stored, bad = _one_round(new, waiting, mapper)
        left_out += [bad[place] for place in sorted(bad)]
        waiting = [item for place, item in enumerate(waiting) if place >= n_stored and place not in bad]
        if progress is not None:
            progress(len(new.items) - len(waiting), len(new.items))
    return new.target.n_tiles - before


def read_shard(plan: ShardPlan[T], new: NewTiles[T]) -> ShardRead:
    """Reads the tiles of a plan and writes their shard beside its place; nothing is left of it where one is bad."""
    read, left_out = new.reader(1), dict[int, LeftOut]()

    def good() -> Iterator[Labelled]:
        for place, item in enumerate(plan.items, start=plan.first):
            result = read(item)
            if isinstance(result, LeftOut):
                left_out[place] = result
            elif not left_out:
                yield result

    written = growing.write_aside(new.target, plan.shard, plan.used, good())
    if left_out:
        new.target.location.discard(written.key)
    return ShardRead(plan.number, len(plan.items), written, left_out)


def _one_round(new: NewTiles[T], waiting: Sequence[T], mapper: Mapper) -> tuple[int, dict[int, LeftOut]]:
    """How many of `waiting` were stored, all or those before the first bad shard; and the bad ones met, by place."""
    context = NewTiles(new.cohort, (), new.reader)
    ended: dict[int, ShardRead] = {}
    bad: dict[int, LeftOut] = {}
    n_shards = n_stored = 0

    def until_bad() -> Iterator[ShardPlan[T]]:
        for plan in _plans(new.target, waiting):
            if bad:
                return
            yield plan

    for read in mapper(read_shard, until_bad(), context):
        ended[read.number] = read
        bad |= read.left_out
        while n_shards in ended and not ended[n_shards].left_out:
            done = ended.pop(n_shards)
            growing.commit_aside(new.target, done.written)
            n_shards, n_stored = n_shards + 1, n_stored + done.n_tiles
    for read in ended.values():
        new.target.location.discard(read.written.key)
    return n_stored, bad


def _plans(target: growing.Growing, waiting: Sequence[T]) -> Iterator[ShardPlan[T]]:
    size = target.grid.tiles_per_shard
    shard, used = divmod(target.n_tiles, size)
    first = number = 0
    while first < len(waiting):
        items = tuple(waiting[first : first + size - used])
        yield ShardPlan(number, first, shard, used, items)
        first, number, shard, used = first + len(items), number + 1, shard + 1, 0


def _good(
    results: Iterable[Labelled | LeftOut], left_out: list[LeftOut], total: int, progress: Progress | None
) -> Iterator[Labelled]:
    """Those of `results` that can be stored; the others are added to `left_out`."""
    for done, result in enumerate(results, start=1):
        if isinstance(result, LeftOut):
            left_out.append(result)
        else:
            yield result
        if progress is not None:
            progress(done, total)
