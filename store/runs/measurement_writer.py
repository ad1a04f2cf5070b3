"""Measured columns of the cells of a run on disk: blocks of rows by workers, whole, and `state` written last."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import RunMismatchError, StoreDamagedError, UnreadableFileError
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.measurements import measurement_doubt, measurement_identity, measurement_path
from fintune_xr.store.runs.object_log import CellLog
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
    subgroups,
)
from fintune_xr.store.zarr_io.location import (
    Location,
    explain_read_errors,
    explain_write_errors,
    sync_array,
)
from fintune_xr.store.zarr_io.locks import hold_lock
from fintune_xr.tasks.cell_measures import CellMeasure

BLOCKS_WANTED: Final = 64
LEAST_ROWS = 4096


@dataclass(frozen=True, slots=True)
class CellBlock:
    """Rows `first` to `last` of the table of cells, and the columns that are to be measured there."""

    first: int
    last: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MeasurementWriter:
    """The only writer of the states of measured columns; made by `writing_measurements`.

    `remade` tells of columns that were thrown away why, by column; `creations` what workers write each column with.
    """

    cohort: Cohort
    run: str
    measures: Sequence[CellMeasure]
    remade: Mapping[str, str]
    creations: Mapping[str, str]

    def blocks(self) -> list[CellBlock]:
        """What is not done yet, in order; columns that lack the same rows are measured together."""
        lacking: dict[tuple[int, int], list[str]] = {}
        for measure in self.measures:
            path = measurement_path(self.run, measure.column)
            value = self.cohort.location.array(f"{path}/{n.VALUE}")
            states = read_column(self.cohort.location, f"{path}/{n.STATE}")
            for block in np.flatnonzero(states == n.PENDING).tolist():
                first = block * value.chunks[0]
                rows = (first, min(first + value.chunks[0], value.shape[0]))
                lacking.setdefault(rows, []).append(measure.column)
        return [CellBlock(*rows, tuple(columns)) for rows, columns in sorted(lacking.items())]

    def commit(self, done: Sequence[CellBlock]) -> None:
        """Says of blocks whose values are durable that they are done."""
        by_column: dict[str, list[int]] = {}
        for block in done:
            for column in block.columns:
                by_column.setdefault(column, []).append(block.first)
        for column, firsts in by_column.items():
            path = measurement_path(self.run, column)
            with explain_write_errors(f"{self.cohort.url}/{path}"):
                size = self.cohort.location.array(f"{path}/{n.VALUE}").chunks[0]
                states = read_column(self.cohort.location, f"{path}/{n.STATE}")
                states[[first // size for first in firsts]] = n.DONE
                _write_states(self.cohort.location, path, states)


@contextlib.contextmanager
def writing_measurements(
    cohort: Cohort, run: str, measures: Sequence[CellMeasure], *, restart: bool = False
) -> Iterator[MeasurementWriter]:
    """The writer of `measures` of the cells of `run`, whose columns are made or continued.

    A column of other cells or of another definition is thrown away, and so is an unfinished one that another version of
    its library began; with `restart` all that are asked for. The run, and those that distances are to, are held: nobody
    can change their cells meanwhile.

    Raises RunBusyError where another process writes one of the runs.
    """
    runs = sorted({run, *(one.to for one in measures if one.to)})
    with contextlib.ExitStack() as held:
        for name in runs:
            held.enter_context(hold_lock(cohort.location, f"run-{name}", what=f"writing run {name!r}"))
        for name in runs:
            CellLog(cohort.location, name, cohort.run_product(name)).digest()
        remade: dict[str, str] = {}
        for measure in measures:
            told = _reason_to_remake(cohort.location, run, measure, restart=restart)
            if told is not None:
                remade |= {measure.column: told} if told else {}
                _create(cohort, run, measure)
            cohort.location.sweep(measurement_path(run, measure.column))
        creations = {one.column: measurement_creation(cohort.location, run, one.column) for one in measures}
        yield MeasurementWriter(cohort, run, measures, remade, creations)


def write_measured(
    location: Location,
    run: str,
    block: CellBlock,
    values: Mapping[str, NDArray[np.float32]],
    creations: Mapping[str, str],
) -> None:
    """Stores the `values` of a block by column, each as one whole chunk, durable when this returns.

    Raises RunMismatchError where a column was thrown away and made anew since `creations` were given out.
    """
    for column in block.columns:
        path = measurement_path(run, column)
        if measurement_creation(location, run, column) != creations[column]:
            raise RunMismatchError(f"{path} of {location.url} was made anew; rows from {block.first} are given up")
        with explain_write_errors(f"{location.url}/{path}"):
            array = open_column(location, f"{path}/{n.VALUE}")
            array[block.first : block.last] = values[column]
            sync_array(location, f"{path}/{n.VALUE}", [block.first // array.chunks[0]])


def measurement_creation(location: Location, run: str, column: str) -> str:
    """What blocks of this column are written with; another one each time that it is made."""
    return str(read_attrs(location, measurement_path(run, column)).get(n.CREATION, ""))


def set_back_damaged(location: Location, run: str) -> list[str]:
    """Sets blocks that cannot be read back to pending, so that `measure` makes just these again; their columns.

    A column whose states or description cannot be read is removed; one with a file that its disk cannot give stays as
    it is. Raises RunBusyError where another process writes the run.
    """
    names = subgroups(location, measurement_path(run))
    if not names:
        return []
    with hold_lock(location, f"run-{run}", what=f"writing run {run!r}"):
        return [column for column in names if _was_damaged(location, measurement_path(run, column))]


def _was_damaged(location: Location, path: str) -> bool:
    try:
        states = read_column(location, f"{path}/{n.STATE}")
        with explain_read_errors(f"{location.url}/{path}"):
            value = location.array(f"{path}/{n.VALUE}")
        bad = [block for block in range(states.size) if not _is_readable(value, block)]
    except UnreadableFileError:
        # It may be sound. `check`, which calls this, has named it.
        return False
    except StoreDamagedError:
        remove_group(location, path)
        return True
    with explain_write_errors(f"{location.url}/{path}"):
        if bad:
            states[bad] = n.PENDING
            _write_states(location, path, states)
        for block in bad:
            first = block * value.chunks[0]
            rows = slice(first, min(first + value.chunks[0], value.shape[0]))
            open_column(location, f"{path}/{n.VALUE}")[rows] = np.nan
    return bool(bad)


def _write_states(location: Location, path: str, states: NDArray[np.uint8]) -> None:
    open_column(location, f"{path}/{n.STATE}")[:] = states
    sync_array(location, f"{path}/{n.STATE}", range(states.size // ROWS_PER_CHUNK + 1))


def _is_readable(value: Any, block: int) -> bool:
    try:
        with explain_read_errors(str(value.store_path)):
            value[block * value.chunks[0] : (block + 1) * value.chunks[0]]
    except StoreDamagedError:
        return False
    return True


def _reason_to_remake(location: Location, run: str, measure: CellMeasure, *, restart: bool) -> str | None:
    """None where the stored column is gone on with; else why it is thrown away, empty where there is none."""
    path = measurement_path(run, measure.column)
    if not is_complete(location, path):
        return ""
    if restart:
        return "asked for anew"
    stored = read_attrs(location, path)
    with explain_read_errors(f"{location.url}/{path}"):
        is_done = bool((read_column(location, f"{path}/{n.STATE}") == n.DONE).all())
        if stored[n.IDENTITY] != measurement_identity(location, run, measure):
            told = measurement_doubt(location, run, measure.column) if is_done else "it was begun of other cells"
            return told or "it rests on something else now"
        was, now = (one["packages"].get(measure.library) for one in (stored[n.PROVENANCE], provenance()))
    if not is_done and was != now:
        return f"it was begun with {measure.library} {was}, now it is {now}"
    return None


def _create(cohort: Cohort, run: str, measure: CellMeasure) -> None:
    """An empty column; whole at the end."""
    location, path = cohort.location, measurement_path(run, measure.column)
    n_rows = location.array(f"{n.CELLS}/{run}/{n.LABEL}").shape[0]
    rows = int(np.clip(math.ceil(n_rows / BLOCKS_WANTED), LEAST_ROWS, CELLS_PER_CHUNK))
    channels = read_column(location, f"{n.IMAGES}/{n.CHANNEL}")
    shape = (n_rows, channels.size)[: 1 + measure.by_channel]
    remove_group(location, path)
    for above in (n.MEASUREMENTS, measurement_path(run)):
        ensure_group(location, above)
    stated = {
        n.IDENTITY: measurement_identity(location, run, measure),
        n.PROVENANCE: provenance(),
        n.CREATION: uuid4().hex,
    }
    with explain_write_errors(f"{cohort.url}/{path}"):
        group = ensure_group(location, path, group_attrs(measure.schema, **stated, **{n.COMPLETE: False}))
        create_column(group, n.VALUE, measure.schema[n.VALUE], shape=shape, rows=rows).attrs.update(
            {"units": measure.units, "long_name": measure.definition}
        )
        create_column(group, n.STATE, measure.schema[n.STATE], shape=(math.ceil(n_rows / rows),))
        if measure.by_channel:
            create_column(group, n.CHANNEL, measure.schema[n.CHANNEL], shape=(channels.size,))
            open_column(location, f"{path}/{n.CHANNEL}")[:] = channels
        # A chunk that is not there is damage, whatever the state of its block.
        open_column(location, f"{path}/{n.VALUE}")[:] = np.float32(np.nan)
        open_column(location, f"{path}/{n.STATE}")[:] = n.PENDING
        open_writable(location, path).attrs[n.COMPLETE] = True
