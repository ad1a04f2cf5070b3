"""Verification of a store: every array present and decodable, labels unique, counts equal to masks."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from fintune_xr import names as n
from fintune_xr.errors import FintuneError, StoreDamagedError
from fintune_xr.overlap import ahead
from fintune_xr.store import shards
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.location import PARTIAL_SUFFIX
from fintune_xr.store.tables import COMPLETE
from fintune_xr.text import text_array

# What zarr and its codecs raise for bytes that are not what was written.
_DECODING_ERRORS = (ValueError, RuntimeError, OSError, KeyError)


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the array or group, what is wrong with it, what to do, and the tiles that are hit."""

    where: str
    what: str
    remedy: str
    tiles: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}"


def check_store(cohort: Cohort, *, advance: Callable[[int], None] = lambda _: None) -> Iterator[Problem]:
    """Everything that is wrong with a store, as it is found; reads every chunk once, a few tiles at a time.

    `advance` is called with the number of tiles read.
    """
    yield from _check_groups(cohort)
    yield from _check_columns(cohort)
    yield from _check_labels(cohort)
    for path in pixel_arrays(cohort):
        yield from _check_pixels(cohort, path, advance)
    for run in cohort.run_names():
        yield from _check_counts(cohort, run)


def pixel_arrays(cohort: Cohort) -> list[str]:
    """Paths of the sharded arrays of a store."""
    paths = [f"{n.IMAGES}/{n.IMAGE}", f"{n.ANNOTATIONS}/{n.MASK}"]
    paths += [f"{n.RUNS}/{run}/{n.MASK}" for run in cohort.run_names()]
    return [path for path in paths if cohort.has(path)]


def n_tiles_to_read(cohort: Cohort) -> int:
    """Tiles over all sharded arrays."""
    return sum(int(_array(cohort, path).shape[0]) for path in pixel_arrays(cohort))


def _check_groups(cohort: Cohort) -> Iterator[Problem]:
    doors: dict[str, Callable[[], Any]] = {n.IMAGES: cohort.images, n.QUARANTINE: cohort.quarantine}
    if cohort.has(n.ANNOTATIONS):
        doors[n.ANNOTATIONS] = cohort.annotations
    for run in cohort.run_names():
        doors[f"{n.RUNS}/{run}"] = _bound(cohort.run, run)
    for name, door in doors.items():
        try:
            door()
        except FintuneError as error:
            yield Problem(name, str(error), "Run the step that writes it again")
    group = zarr.open_group(cohort.location.zarr(), mode="r")
    for path, member in group.members(max_depth=None):
        if isinstance(member, zarr.Group) and member.attrs.get(COMPLETE) is False:
            yield Problem(path, "left half-written", "Run the step that writes it again")
    if cohort.location.is_local:
        left = sorted(cohort.location.path.rglob(f"*{PARTIAL_SUFFIX}"))
        if left:
            yield Problem(
                "store",
                f"{len(left)} unfinished file(s) of killed writers",
                "Harmless; the next run sweeps them",
            )


def _check_columns(cohort: Cohort) -> Iterator[Problem]:
    """Every small array decodes; read in blocks of rows."""
    group = zarr.open_group(cohort.location.zarr(), mode="r")
    for path, member in group.members(max_depth=None):
        if not isinstance(member, zarr.Array) or member.shards is not None or member.ndim == 0:
            continue
        rows = max(1, member.chunks[0])
        for first in range(0, member.shape[0], rows):
            try:
                member[first : first + rows]
            except _DECODING_ERRORS as error:
                yield Problem(path, f"rows from {first} cannot be read: {error}", _remedy(path))


def _check_labels(cohort: Cohort) -> Iterator[Problem]:
    tiles = text_array(cohort.images(lazy=False)[n.TILE])
    for tile, count in Counter(tiles.tolist()).items():
        if count > 1:
            yield Problem(
                f"{n.IMAGES}/{n.TILE}", f"tile {tile} is there {count} times", "Ingest into a new store"
            )
    for run in cohort.run_names():
        stored = text_array(cohort.run(run, lazy=False)[n.TILE])
        if (stored != tiles[: stored.size]).any():
            yield Problem(
                f"{n.RUNS}/{run}", "tiles are not those of the images", f"Make run {run} again with --restart"
            )


def _check_pixels(cohort: Cohort, path: str, advance: Callable[[int], None]) -> Iterator[Problem]:
    """Shards there, indexes sound, every chunk of a tile that should hold pixels decodes."""
    array = _array(cohort, path)
    grid = shards.grid_of(array)
    expected = _expected_tiles(cohort, path, int(array.shape[0]))
    for shard in range(math.ceil(array.shape[0] / grid.tiles_per_shard)):
        rows = range(shard * grid.tiles_per_shard, min((shard + 1) * grid.tiles_per_shard, array.shape[0]))
        wanted = [row for row in rows if expected[row]]
        if wanted:
            yield from _check_shard(cohort, array, grid, shard, wanted)
        advance(len(rows))


def _check_shard(
    cohort: Cohort, array: zarr.Array[Any], grid: shards.ShardGrid, shard: int, wanted: list[int]
) -> Iterator[Problem]:
    try:
        index = shards.read_index(cohort.location, grid, shard)
    except StoreDamagedError as error:
        yield Problem(grid.key(shard), str(error), _remedy(grid.path), tuple(wanted))
        return
    absent = [row for row in wanted if (index[row % grid.tiles_per_shard] == shards.ABSENT).any()]
    broken = list(_broken_tiles(array, [row for row in wanted if row not in absent]))
    for rows, what in (
        (absent, "are absent from the shard"),
        (broken, "fail their checksum or do not decode"),
    ):
        if rows:
            listed = ", ".join(map(str, rows[:10]))
            yield Problem(
                grid.key(shard), f"{len(rows)} tile(s) {what}: {listed}", _remedy(grid.path), tuple(rows)
            )


def _broken_tiles(array: zarr.Array[Any], rows: Iterable[int]) -> Iterator[int]:
    def is_broken(row: int) -> int | None:
        try:
            array[row]
        except _DECODING_ERRORS:
            return row
        return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for row in ahead(pool, is_broken, rows, depth=8):
            if row is not None:
                yield row


def _check_counts(cohort: Cohort, run: str) -> Iterator[Problem]:
    """Cells per tile equal to the labels in its mask and to the rows of the cell table."""
    stored = cohort.run(run, lazy=False)
    states, counts = stored[n.STATE].values, stored[n.N_CELLS].values
    done = np.flatnonzero(states == n.DONE)
    mask = _array(cohort, f"{n.RUNS}/{run}/{n.MASK}")

    def differs(tile: int) -> int | None:
        try:
            labels = np.unique(np.asarray(mask[tile]))
        except _DECODING_ERRORS:
            return None
        return tile if np.count_nonzero(labels) != counts[tile] else None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        wrong = tuple(t for t in ahead(pool, differs, (int(i) for i in done), depth=8) if t is not None)
    if wrong:
        listed = ", ".join(map(str, wrong[:10]))
        yield Problem(
            f"{n.RUNS}/{run}/{n.N_CELLS}", f"{len(wrong)} tile(s) have another number of cells in the mask: {listed}",
            _remedy(f"{n.RUNS}/{run}/{n.MASK}"), wrong,
        )  # fmt: skip
    if (states != n.PENDING).all() and cohort.has(f"{n.CELLS}/{run}"):
        n_rows = cohort.cells(run).sizes[n.CELL]
        if n_rows != int(counts[done].sum()):
            yield Problem(
                f"{n.CELLS}/{run}", f"{n_rows} rows for {int(counts[done].sum())} cells",
                f"Make run {run} again with --restart",
            )  # fmt: skip


def _expected_tiles(cohort: Cohort, path: str, n_tiles: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which tiles must have pixels: all, except the pending ones of a run."""
    group, _, _ = path.rpartition("/")
    if not group.startswith(f"{n.RUNS}/"):
        return np.ones(n_tiles, bool)
    state = _array(cohort, f"{group}/{n.STATE}")
    pending: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(state[:n_tiles]) == n.PENDING
    return ~pending


def _remedy(path: str) -> str:
    if path.startswith((f"{n.RUNS}/", f"{n.CELLS}/")):
        run = path.split("/")[1]
        return f"Set the tiles back with `fintune-xr check --repair`, then `fintune-xr infer --run {run}`"
    if path.startswith(n.IMAGES):
        return "Ingest the raw files into a new store; results of this one cannot be trusted for these tiles"
    return "Run the step that writes it again"


def _array(cohort: Cohort, path: str) -> zarr.Array[Any]:
    return zarr.open_array(cohort.location.zarr(), path=path, mode="r")


def _bound(function: Callable[[str], Any], name: str) -> Callable[[], Any]:
    return lambda: function(name)
