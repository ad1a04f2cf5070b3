"""One sharded array with its labels, growing along `tile`: images, and annotations.

Order of a commit: the shard, then the labels, then the array's own length. A kill in between leaves labels
that are longer than the array; the next append cuts them back and reads those tiles again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import zarr

from fintune_xr import names as n
from fintune_xr.errors import StoreDamagedError
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import (
    ROWS_PER_CHUNK,
    create_column,
    ensure_group,
    group_attrs,
    open_column,
    read_column,
    write_rows,
)
from fintune_xr.store.zarr_io.location import Location, explain_write_errors, sync_array

Labels = Mapping[str, Any]

# Columns that are forced to the disk at a time.
_SYNCING = 4


@dataclass(frozen=True, slots=True)
class Growing:
    """A group whose array `variable` (tile, …, y, x) and tile labels grow together."""

    location: Location
    schema: DatasetSchema
    path: str
    variable: str

    def without(self, absent: Collection[str]) -> Growing:
        """The same group, to be made without the optional columns `absent`."""
        kept = {name: spec for name, spec in self.schema.coords.items() if name not in absent}
        return replace(self, schema=replace(self.schema, coords=kept))

    @property
    def array(self) -> zarr.Array[Any]:
        """The sharded array, for reading."""
        return self.location.array(f"{self.path}/{self.variable}")

    @property
    def labels(self) -> dict[str, VariableSpec]:
        """The columns along `tile`; optional ones that the store was made without are none of it."""
        along = {name: spec for name, spec in self.schema.coords.items() if spec.dims[0] == n.TILE}
        there = self.location
        return {
            name: spec
            for name, spec in along.items()
            if spec.required or there.size(f"{self.path}/{name}/zarr.json") is not None
        }

    @property
    def n_tiles(self) -> int:
        """Tiles that are committed."""
        return int(self.array.shape[0])

    @property
    def grid(self) -> shards.ShardGrid:
        """How the array is cut."""
        return shards.grid_of(self.array)


def create_growing(
    target: Growing, *, dtype: str, tile_shape: tuple[int, ...], constants: Labels, attrs: Labels
) -> None:
    """Makes the empty group: tiles of `tile_shape` (…, y, x), `constants` being coords without `tile`."""
    with explain_write_errors(f"{target.location.url}/{target.path}"):
        group = ensure_group(target.location, target.path, group_attrs(target.schema, **attrs))
        for name, spec in target.schema.coords.items():
            if name in constants:
                column = create_column(group, name, spec, shape=(len(constants[name]),))
                column[:] = np.asarray(constants[name], object)
            else:
                sizes = tuple(len(constants[dim]) for dim in spec.dims[1:])
                create_column(group, name, spec, shape=(0, *sizes))
        spec = target.schema.variables[target.variable]
        grid = shards.plan_grid(f"{target.path}/{target.variable}", dtype, tile_shape)
        shards.create_sharded(group, target.variable, grid, shape=(0, *tile_shape), dims=spec.dims, attrs=spec.attrs)


def append(target: Growing, items: Iterable[tuple[Labels, shards.Encoded]]) -> Iterator[int]:
    """Writes `items` shard by shard; yields the number of tiles committed so far, after each commit.

    Each item is the labels of one tile and its encoded pixels; labels that the schema does not require may be left
    out, and are 0 or empty then. Memory holds the labels of one shard.

    Raises StoreWriteError where the store cannot be written; what was committed stays.
    """
    waiting = iter(items)
    grid = target.grid
    committed = target.n_tiles
    require_labels(target)
    for first in waiting:
        shard, used = divmod(committed, grid.tiles_per_shard)
        batch: list[Labels] = []
        fresh = _noting(islice(chain([first], waiting), grid.tiles_per_shard - used), batch)
        shards.write_shard(target.location, grid, shard, chain(kept_tiles(target, shard, used), fresh))
        commit(target, committed, batch)
        committed += len(batch)
        yield committed


@dataclass(frozen=True, slots=True)
class ShardAside:
    """A shard that was written beside the place where it belongs, and the labels of its new tiles in order."""

    key: str
    shard: int
    batch: list[Labels]


def write_aside(target: Growing, shard: int, used: int, items: Iterable[tuple[Labels, shards.Encoded]]) -> ShardAside:
    """Shard number `shard` with its first `used` tiles as they are stored and `items` after them, not yet in place.

    Raises StoreDamagedError where those that are stored cannot be read, StoreWriteError where nothing can be written.
    """
    batch: list[Labels] = []
    tiles = chain(kept_tiles(target, shard, used), _noting(items, batch))
    return ShardAside(shards.write_shard_aside(target.location, target.grid, shard, tiles), shard, batch)


def commit_aside(target: Growing, written: ShardAside) -> int:
    """Puts a shard in place and commits its tiles; returns the number of tiles committed by now."""
    committed = target.n_tiles
    target.location.put_in_place(written.key, target.grid.key(written.shard))
    commit(target, committed, written.batch)
    return committed + len(written.batch)


def require_labels(target: Growing) -> None:
    """Labels are verified before any is written: a commit that stops halfway is mended only by another."""
    committed = target.n_tiles
    if not committed:
        return
    for name in target.labels:
        read_column(target.location, f"{target.path}/{name}", slice(committed - 1, committed))


def kept_tiles(target: Growing, shard: int, used: int) -> list[shards.Encoded]:
    """The first `used` encoded tiles of a stored shard. Raises StoreDamagedError where they are not there."""
    if not used:
        return []
    grid = target.grid
    stored = shards.read_encoded(target.location, grid, shard)
    if len(stored) < used:
        raise StoreDamagedError(
            f"{grid.key(shard)} in {target.location.url}: expected {used} tiles, found {len(stored)}. "
            "Run `fintune-xr check` to list what is damaged."
        )
    return stored[:used]


def _noting(items: Iterable[tuple[Labels, shards.Encoded]], batch: list[Labels]) -> Iterator[shards.Encoded]:
    for labels, encoded in items:
        batch.append(labels)
        yield encoded


def commit(target: Growing, committed: int, batch: list[Labels]) -> None:
    """Writes the labels of the tiles after the first `committed`, then the array's length."""
    length = committed + len(batch)
    touched = range(committed // ROWS_PER_CHUNK, (length - 1) // ROWS_PER_CHUNK + 1)
    with explain_write_errors(f"{target.location.url}/{target.path}"):
        # A column is forced to the disk while the next ones are written.
        with ThreadPoolExecutor(_SYNCING) as pool:
            syncing = []
            for name, spec in target.labels.items():
                values = _values([_label(labels, name, spec) for labels in batch], spec.dtype)
                write_rows(target.location, f"{target.path}/{name}", committed, values)
                syncing.append(pool.submit(sync_array, target.location, f"{target.path}/{name}", touched))
        # Labels must be on the disk before the array's length says that the tiles exist.
        for one in syncing:
            one.result()
        array = open_column(target.location, f"{target.path}/{target.variable}")
        array.resize((length, *array.shape[1:]))


def _label(labels: Labels, name: str, spec: VariableSpec) -> Any:
    if name in labels or spec.required:
        return labels[name]
    return "" if spec.dtype == "str" else 0


def _values(values: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.dtypes.StringDType() if dtype == "str" else dtype)
