"""A run on disk: one coordinator, whole mask shards by workers, and `state` written last."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, unknown_name
from fintune_xr.store import shards
from fintune_xr.store.cell_log import CellLog
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.location import Location, sync_file, writing
from fintune_xr.store.locks import holding
from fintune_xr.store.tables import (
    COMPLETE,
    ROWS_PER_CHUNK,
    create_column,
    ensure_group,
    group_attrs,
    is_complete,
    open_column,
    open_writable,
    remove_group,
)
from fintune_xr.tiles import ShardPlan, ShardReceipt, TileResult

IDENTITY = "identity"
SHARDS_WANTED = 64
_SMALL = (n.N_CELLS, n.N_POSITIVE, n.BACKGROUND, n.REASON, n.SECONDS, n.STATE)
_INITIAL: dict[str, Any] = {
    n.N_CELLS: -1,
    n.N_POSITIVE: -1,
    n.BACKGROUND: np.nan,
    n.REASON: "",
    n.SECONDS: 0,
    n.STATE: n.PENDING,
}


def tiles_per_task(n_tiles: int) -> int:
    """Tiles in one mask shard, which is one task: about 64 tasks, and never more than 256 tiles in one."""
    return min(max(math.ceil(n_tiles / SHARDS_WANTED), 1), shards.MAX_TILES_PER_SHARD)


@dataclass(frozen=True, slots=True)
class RunWriter:
    """The only writer of a run's small arrays; made by `writing_run`."""

    cohort: Cohort
    name: str
    log: CellLog
    columns: dict[str, zarr.Array[Any]] = field(repr=False)

    @property
    def grid(self) -> shards.ShardGrid:
        """How the mask is cut; one shard is one task."""
        return run_grid(self.cohort.location, self.name)

    def states(self) -> NDArray[np.uint8]:
        """State of every tile (tile,)."""
        return np.asarray(self.columns[n.STATE][:])

    def plans(self) -> Iterator[ShardPlan]:
        """One plan for each shard that holds pending tiles, in order."""
        states, size = self.states(), self.grid.tiles_per_shard
        for shard in range(math.ceil(len(states) / size)):
            here = states[shard * size : (shard + 1) * size]
            todo = tuple(int(slot) for slot in np.flatnonzero(here == n.PENDING))
            if todo:
                yield ShardPlan(shard, shard * size, len(here), todo)

    def commit(self, receipts: Sequence[ShardReceipt]) -> None:
        """Writes the small numbers of finished shards, `state` after all others are durable."""
        with writing(f"{self.cohort.url}/{n.RUNS}/{self.name}"):
            self.log.append(receipts)
            for name in _SMALL:
                if name == n.STATE:
                    self._sync([c for c in _SMALL if c != n.STATE], receipts)
                if name != n.N_POSITIVE:
                    self._write_column(name, receipts)
            self._sync([n.STATE], receipts)

    def begin(self, *, retry: bool) -> None:
        """Gets the log of cells ready where anything is pending; `retry` sets quarantined tiles back."""
        states = self.states()
        if retry and (states == n.QUARANTINED).any():
            states[states == n.QUARANTINED] = n.PENDING
            self.columns[n.STATE][:] = states
        if (states == n.PENDING).any():
            self.log.open(self._counts(), _channels(self.cohort))

    def finish(self) -> bool:
        """Whether every tile is done or quarantined; then the table of cells is put in order."""
        if (self.states() == n.PENDING).any():
            return False
        self.log.put_in_order(self._counts())
        return True

    def _counts(self) -> NDArray[np.int32]:
        counts: NDArray[np.int32] = np.asarray(self.columns[n.N_CELLS][:])
        return np.maximum(counts, 0)

    def _write_column(self, name: str, receipts: Sequence[ShardReceipt]) -> None:
        column = self.columns[name]
        for receipt in receipts:
            plan = receipt.plan
            values = np.asarray(column[plan.first : plan.first + plan.n_slots])
            for slot, result in zip(plan.todo, receipt.results, strict=True):
                values[slot] = _value(name, result)
            column[plan.first : plan.first + plan.n_slots] = values

    def _sync(self, names: Sequence[str], receipts: Sequence[ShardReceipt]) -> None:
        if not self.cohort.location.is_local:
            return
        for name in names:
            folder = self.cohort.location.path / n.RUNS / self.name / name
            chunks = {
                row // ROWS_PER_CHUNK
                for r in receipts
                for row in (r.plan.first, r.plan.first + r.plan.n_slots - 1)
            }
            for chunk in chunks:
                for file in folder.glob(f"c.{chunk}*"):
                    if not file.name.endswith(".partial"):
                        sync_file(file)


@contextlib.contextmanager
def writing_run(
    cohort: Cohort,
    name: str,
    *,
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
    restart: bool = False,
    retry: bool = False,
) -> Iterator[RunWriter]:
    """The writer of run `name`, made or continued, with new tiles of the cohort added as pending.

    `identity` (checkpoint and settings digests) must equal that of the stored run; `facts` is its provenance.
    `restart` throws the stored run away first; `retry` sets its quarantined tiles back to pending.

    Raises RunMismatchError where it does not, RunBusyError where another process writes the run.
    """
    check_run_name(name)
    with holding(cohort.location, name, what=f"writing run {name!r}"):
        path = f"{n.RUNS}/{name}"
        if restart:
            remove_run(cohort, name)
        if not is_complete(cohort.location, path):
            remove_group(cohort.location, path)
            _create(cohort, name, identity, facts)
        _check_identity(cohort, name, identity)
        cohort.location.sweep(path)
        _grow(cohort, name)
        columns = {c: open_column(cohort.location, f"{path}/{c}") for c in _SMALL}
        writer = RunWriter(cohort, name, CellLog(cohort.location, name), columns)
        writer.begin(retry=retry)
        yield writer


def write_mask_shard(location: Location, run: str, plan: ShardPlan, fresh: Iterator[shards.Encoded]) -> int:
    """Number of bytes of the mask shard: `fresh` tiles in the slots to do, the others carried over."""
    grid = run_grid(location, run)
    todo = set(plan.todo)
    kept = shards.read_encoded(location, grid, plan.shard) if len(todo) < plan.n_slots else []
    tiles = (next(fresh) if slot in todo else kept[slot] for slot in range(plan.n_slots))
    return shards.write_shard(location, grid, plan.shard, tiles)


def run_grid(location: Location, run: str) -> shards.ShardGrid:
    """How the mask of a run is cut."""
    array = zarr.open_array(location.zarr(), path=f"{n.RUNS}/{run}/{n.MASK}", mode="r")
    return shards.grid_of(array)


def run_attrs(cohort: Cohort, name: str) -> dict[str, Any]:
    """Identity and provenance of a run."""
    cohort.require_run(name)
    group = zarr.open_group(cohort.location.zarr(), path=f"{n.RUNS}/{name}", mode="r")
    return group.attrs.asdict()


def write_positive(cohort: Cohort, run: str, counts: NDArray[np.int32], *, rule: str) -> None:
    """Stores marker-positive cells per tile (tile,) as the run's active count, with the rule's name."""
    path = f"{n.RUNS}/{run}/{n.N_POSITIVE}"
    column = open_column(cohort.location, path)
    if column.shape != counts.shape:
        raise FintuneValueError(f"{path}: expected {column.shape[0]} tiles, got {counts.shape}")
    with writing(f"{cohort.url}/{path}"):
        column.attrs[n.RULE] = "being written"
        column[:] = counts
        column.attrs[n.RULE] = rule


def mark_pending(cohort: Cohort, run: str, tiles: Sequence[int]) -> None:
    """Sets tiles (positions) of a run back to pending, so that `infer` makes them again.

    Raises RunBusyError where another process writes the run.
    """
    with holding(cohort.location, run, what=f"writing run {run!r}"):
        column = open_column(cohort.location, f"{n.RUNS}/{run}/{n.STATE}")
        states = np.asarray(column[:])
        states[list(tiles)] = n.PENDING
        with writing(f"{cohort.url}/{n.RUNS}/{run}/{n.STATE}"):
            column[:] = states


def remove_run(cohort: Cohort, name: str) -> None:
    """Removes a run with its cells, counts and unfinished log."""
    for path in (f"{n.RUNS}/{name}", f"{n.CELLS}/{name}", f"{n.POSITIVITY}/{name}"):
        remove_group(cohort.location, path)
    CellLog(cohort.location, name).remove()


def check_run_name(name: str) -> None:
    """Raises FintuneValueError unless `name` is a plain word that may name a folder."""
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] in "._-":
        raise FintuneValueError(f"run name {name!r}: use letters, digits, '-', '_' and '.', e.g. generic-v1")


def _value(name: str, result: TileResult) -> Any:
    cells = result.cells
    if name == n.N_CELLS:
        return cells.n_cells if cells is not None else -1
    if name == n.BACKGROUND:
        return cells.background if cells is not None else np.nan
    return {n.REASON: result.reason, n.SECONDS: result.seconds, n.STATE: result.state}[name]


def _create(cohort: Cohort, name: str, identity: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    images = cohort.images()
    path = f"{n.RUNS}/{name}"
    ensure_group(cohort.location, n.RUNS)
    with writing(f"{cohort.url}/{path}"):
        stated = {IDENTITY: dict(identity), "provenance": dict(facts), COMPLETE: False}
        attrs = group_attrs(datasets.RUN, **stated)
        group = ensure_group(cohort.location, path, attrs)
        sizes = (images.sizes[n.Y], images.sizes[n.X])
        per_task = tiles_per_task(images.sizes[n.TILE])
        grid = shards.plan_grid(f"{path}/{n.MASK}", datasets.MASK_DTYPE, sizes, per_task)
        spec = datasets.RUN.variables[n.MASK]
        shards.create_sharded(group, n.MASK, grid, shape=(0, *sizes), dims=spec.dims, attrs=spec.attrs)
        for column in (n.TILE, *_SMALL):
            spec = datasets.RUN[column]
            shape = (0, images.sizes[n.CHANNEL])[: len(spec.dims)]
            create_column(group, column, spec, shape=shape)
        group[n.STATE].attrs["flag_meanings"] = " ".join(n.STATE_MEANINGS.values())
        create_column(group, n.CHANNEL, datasets.RUN.coords[n.CHANNEL], shape=(images.sizes[n.CHANNEL],))
        open_column(cohort.location, f"{path}/{n.CHANNEL}")[:] = _channels(cohort)
        open_writable(cohort.location, path).attrs[COMPLETE] = True


def _grow(cohort: Cohort, name: str) -> None:
    """Adds the tiles that the cohort has gained; `mask` last, so that a kill is seen and mended next time."""
    path = f"{n.RUNS}/{name}"
    tiles = cohort.images()[n.TILE].values
    mask = open_column(cohort.location, f"{path}/{n.MASK}")
    before, after = mask.shape[0], len(tiles)
    if before == after:
        return
    with writing(f"{cohort.url}/{path}"):
        for column in (n.TILE, *_SMALL):
            array = open_column(cohort.location, f"{path}/{column}")
            array.resize((after, *array.shape[1:]))
            if column == n.TILE:
                array[before:after] = tiles[before:after]
            else:
                array[before:after] = _INITIAL[column]
        mask.resize((after, *mask.shape[1:]))


def _channels(cohort: Cohort) -> NDArray[Any]:
    return np.asarray(cohort.images()[n.CHANNEL].values)


def _check_identity(cohort: Cohort, name: str, identity: Mapping[str, Any]) -> None:
    stored = run_attrs(cohort, name)[IDENTITY]
    differing = sorted(k for k in {*stored, *identity} if stored.get(k) != identity.get(k))
    if differing:
        lines = [f"{key}: stored {stored.get(key)!r}, now {identity.get(key)!r}" for key in differing]
        raise RunMismatchError(
            "\n  ".join([f"run {name!r} was made with something else:", *lines])
            + "\nChoose another --run name, or --restart to throw the stored run away."
        )


def require_known_run(cohort: Cohort, names: Sequence[str]) -> None:
    """Raises UnknownNameError for the first of `names` that is no run of the cohort."""
    known = cohort.run_names()
    for name in names:
        if name not in known:
            raise unknown_name("run", name, known)
