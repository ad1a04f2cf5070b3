"""Cells of a run while it goes on, in order of arrival; and the table in order of tiles made from them.

Tiles finish in any order, so the coordinator appends their cells to a log and notes where each tile's begin.
When no tile is pending the table `cells/<run>` is written in order beside the old one and put in its place,
which makes it the same whatever the order of arrival, and the log goes away.
"""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.provenance import settings_digest
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.store.zarr_io.groups import (
    CELLS_PER_CHUNK,
    ROWS_PER_CHUNK,
    create_column,
    ensure_group,
    group_attrs,
    is_complete,
    open_column,
    open_writable,
    read_attrs,
    read_column,
    remove_group,
    write_rows,
)
from fintune_xr.store.zarr_io.location import Location, explain_read_errors, sync_arrays
from fintune_xr.store.zarr_io.recovery import LOG, ordering_prefix
from fintune_xr.tasks.product import INSTANCES, Product
from fintune_xr.tasks.records import ObjectTable, ShardReceipt

_FIRST_CELL = VariableSpec((n.TILE,), "int64", "Row of the log where the tile's cells begin; -1 none.")


@dataclass(frozen=True, slots=True)
class CellLog:
    """Unordered objects of run `run`, whose product has a table of them, kept under `staging/` until the run ends."""

    location: Location
    run: str
    product: Product = INSTANCES

    @property
    def schema(self) -> DatasetSchema:
        """The declared table. Raises FintuneValueError for a product without objects."""
        if self.product.objects is None:
            raise FintuneValueError(f"run {self.run!r} of {self.location.url} has no objects ({self.product.name})")
        return self.product.objects

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of log and table."""
        return tuple(self.schema.variables)

    @property
    def path(self) -> str:
        """Group of the log."""
        return f"{n.STAGING}/{LOG}{self.run}"

    @property
    def table(self) -> str:
        """Group of the ordered table."""
        return f"{n.CELLS}/{self.run}"

    def open(self, n_tiles: int, channels: NDArray[Any]) -> None:
        """Makes the log ready for `n_tiles`, taking in an ordered table where only that exists.

        `channels` are the names of the image planes.
        """
        if not is_complete(self.location, self.path):
            remove_group(self.location, self.path)
            group = _create(self.location, self.path, self.schema, channels)
            create_column(group, n.FIRST_CELL, _FIRST_CELL, shape=(n_tiles,))
            counts = self._counts_of_table(n_tiles)
            first = np.where(counts > 0, np.cumsum(counts) - counts, -1)
            open_column(self.location, f"{self.path}/{n.FIRST_CELL}")[:] = first
            for rows in _contiguous(first, counts):
                before = self._n_rows(self.path)
                _extend(self.location, self.path, before, self._rows(self.table, rows))
            open_writable(self.location, self.path).attrs[n.COMPLETE] = True
        self._pass_over_unwritten()
        self._grow(n_tiles)

    def append(self, receipts: Sequence[ShardReceipt]) -> None:
        """Adds the cells of finished tiles; rows of a tile that is done again are left behind unused."""
        first_cell = open_column(self.location, f"{self.path}/{n.FIRST_CELL}")
        row = start = self._n_rows(self.path)
        tables: list[tuple[int, ObjectTable]] = []
        for receipt in receipts:
            first = receipt.plan.first
            where = np.asarray(first_cell[first : first + receipt.plan.n_slots])
            for slot, result in zip(receipt.plan.todo, receipt.results, strict=True):
                where[slot] = -1 if result.objects is None else row
                if result.objects is not None:
                    tables.append((first + slot, result.objects))
                    row += result.objects.n_cells
            first_cell[first : first + receipt.plan.n_slots] = where
        if tables:
            _extend(self.location, self.path, start, _joined(tables, self.columns))
        self._sync(start, row, [t for r in receipts for t in (r.plan.first, r.plan.first + r.plan.n_slots - 1)])

    def put_in_order(self, counts: NDArray[np.int32]) -> None:
        """Makes `cells/<run>` from the log, in order of tile and label, and removes the log."""
        if not is_complete(self.location, self.path):
            return
        first_cell = read_column(self.location, f"{self.path}/{n.FIRST_CELL}")
        channels = self._channels()
        local = self.location.is_local
        fresh = f"{n.STAGING}/{ordering_prefix(self.run)}{uuid.uuid4().hex}" if local else self.table
        remove_group(self.location, fresh)
        _create(self.location, fresh, self.schema, channels)
        digest = RowsDigest()
        for rows in _in_chunks(self._rows(self.path, rows) for rows in _contiguous(first_cell, counts)):
            _extend(self.location, fresh, self._n_rows(fresh), rows)
            digest.update(rows)
        open_writable(self.location, fresh).attrs.update({n.DIGEST: digest.value, n.COMPLETE: True})
        if local:
            ensure_group(self.location, n.CELLS)
            remove_group(self.location, self.table)
            (self.location.path / fresh).rename(self.location.path / self.table)
        self.remove()

    def digest(self) -> str:
        """SHA-256 of the ordered table, which lies beside it; made and put there where an earlier release did not.

        The caller must be the only writer of the run. Raises StoreDamagedError where rows cannot be read.
        """
        known = str(read_attrs(self.location, self.table).get(n.DIGEST, ""))
        if known:
            return known
        made = RowsDigest()
        for first in range(0, self._n_rows(self.table), CELLS_PER_CHUNK):
            made.update(self._rows(self.table, slice(first, first + CELLS_PER_CHUNK)))
        open_writable(self.location, self.table).attrs[n.DIGEST] = made.value
        return made.value

    def remove(self) -> None:
        """Removes the log."""
        remove_group(self.location, self.path)

    def _counts_of_table(self, n_tiles: int) -> NDArray[np.int64]:
        """Cells of each tile in the ordered table; none where there is no table."""
        if not is_complete(self.location, self.table):
            return np.zeros(n_tiles, np.int64)
        return np.bincount(read_column(self.location, f"{self.table}/{n.TILE_INDEX}"), minlength=n_tiles)

    def _n_rows(self, path: str) -> int:
        """Rows that every column has: a kill while rows were added leaves some columns longer than others."""
        return min(int(open_column(self.location, f"{path}/{name}").shape[0]) for name in self.columns)

    def _rows(self, path: str, rows: slice) -> dict[str, NDArray[Any]]:
        with explain_read_errors(f"{self.location.url}/{path}"):
            columns = {name: self.location.array(f"{path}/{name}") for name in self.columns}
            return {name: np.asarray(column[rows]) for name, column in columns.items()}

    def _channels(self) -> NDArray[Any]:
        """Names of the image planes, where the columns refer to them."""
        if n.CHANNEL not in self.schema.coords:
            return np.empty(0, np.dtypes.StringDType())
        return read_column(self.location, f"{self.path}/{n.CHANNEL}")

    def _pass_over_unwritten(self) -> None:
        """A kill between the length of a column and its first rows in a chunk leaves a length without that chunk.

        No tile that is done has such rows. What comes next begins in a chunk of its own, so that rows are neither taken
        for zeros nor cut off, and a chunk that was lost is still missed by the tiles that have rows in it.
        """
        rows = self._n_rows(self.path)
        at = (rows - 1) // CELLS_PER_CHUNK
        columns = [open_column(self.location, f"{self.path}/{name}") for name in self.columns]
        if not rows or all(self._has_chunk(column, at) for column in columns):
            return
        for column in columns:
            begin = max((at + 1) * CELLS_PER_CHUNK, column.shape[0])
            column.resize((begin, *column.shape[1:]))

    def _has_chunk(self, column: zarr.Array[Any], at: int) -> bool:
        key = column.metadata.encode_chunk_key((at, *(0,) * (column.ndim - 1)))
        return self.location.size(f"{column.path}/{key}") is not None

    def _grow(self, n_tiles: int) -> None:
        first_cell = open_column(self.location, f"{self.path}/{n.FIRST_CELL}")
        before = first_cell.shape[0]
        if before < n_tiles:
            first_cell.resize((n_tiles,))
            first_cell[before:] = -1

    def _sync(self, first: int, last: int, tiles: Iterable[int]) -> None:
        """The log must be on the disk before `state` says that its tiles are done."""
        touched = range(first // CELLS_PER_CHUNK, last // CELLS_PER_CHUNK + 1)
        chunks: dict[str, Iterable[int]] = {f"{self.path}/{name}": touched for name in self.columns}
        chunks[f"{self.path}/{n.FIRST_CELL}"] = {tile // ROWS_PER_CHUNK for tile in tiles}
        sync_arrays(self.location, chunks)


class RowsDigest:
    """SHA-256 of a table that comes in parts, however it is cut into them."""

    def __init__(self) -> None:
        self._of_column: dict[str, Any] = {}

    def update(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Takes in the next rows, by column."""
        for name, values in rows.items():
            seen = self._of_column.setdefault(name, hashlib.sha256())
            seen.update(np.ascontiguousarray(values, values.dtype.newbyteorder("<")))

    @property
    def value(self) -> str:
        """Of all rows so far."""
        return settings_digest({name: seen.hexdigest() for name, seen in self._of_column.items()})


def _create(location: Location, path: str, schema: DatasetSchema, channels: NDArray[Any]) -> zarr.Group:
    ensure_group(location, path.rpartition("/")[0])
    group = ensure_group(location, path, group_attrs(schema, **{n.COMPLETE: False}))
    for name, spec in schema.variables.items():
        create_column(group, name, spec, shape=(0, channels.size)[: len(spec.dims)], rows=CELLS_PER_CHUNK)
    if n.CHANNEL in schema.coords:
        create_column(group, n.CHANNEL, schema.coords[n.CHANNEL], shape=(channels.size,))
        open_column(location, f"{path}/{n.CHANNEL}")[:] = channels
    return group


def _joined(tables: Sequence[tuple[int, ObjectTable]], columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    joined: dict[str, NDArray[Any]] = {
        name: np.concatenate([getattr(cells, name) for _, cells in tables]) for name in columns if name != n.TILE_INDEX
    }
    sizes = [cells.n_cells for _, cells in tables]
    joined[n.TILE_INDEX] = np.repeat(np.array([tile for tile, _ in tables], np.int32), sizes)
    return joined


def _extend(location: Location, path: str, before: int, rows: dict[str, NDArray[Any]]) -> None:
    for name, values in rows.items():
        write_rows(location, f"{path}/{name}", before, values)


def _in_chunks(parts: Iterable[dict[str, NDArray[Any]]]) -> Iterator[dict[str, NDArray[Any]]]:
    """`parts` brought together until they fill a chunk: a write costs a whole chunk, however few its rows."""
    waiting: list[dict[str, NDArray[Any]]] = []
    for part in parts:
        waiting.append(part)
        if sum(len(one[n.LABEL]) for one in waiting) >= CELLS_PER_CHUNK:
            yield _brought_together(waiting)
            waiting = []
    if waiting:
        yield _brought_together(waiting)


def _brought_together(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _contiguous(first_cell: NDArray[np.int64], counts: NDArray[np.integer[Any]]) -> Iterator[slice]:
    """Slices of the log that, one after another, give the tiles in order; neighbours are joined."""
    has_cells = np.flatnonzero(counts)
    start, stop = 0, 0
    for part in np.array_split(has_cells, math.ceil(has_cells.size / ROWS_PER_CHUNK) or 1):
        for first, count in zip(first_cell[part].tolist(), counts[part].tolist(), strict=True):
            if first != stop or stop - start >= CELLS_PER_CHUNK:
                if stop > start:
                    yield slice(start, stop)
                start = first
            stop = first + count
    if stop > start:
        yield slice(start, stop)
