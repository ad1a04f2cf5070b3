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

from fintune_xr import names as n
from fintune_xr.datasets import PROGRESS
from fintune_xr.errors import FintuneValueError, RunMismatchError
from fintune_xr.provenance import differences
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.ome_zarr import describe, image_ome, of_labels, stored_sides
from fintune_xr.store.runs.columns import Sizes, require_same_sizes, set_back, stored_columns
from fintune_xr.store.runs.create import create_run, grow_run, remove_run
from fintune_xr.store.runs.object_log import CellLog
from fintune_xr.store.runs.run import check_run_name, run_grid, run_tiles_per_shard
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import ROWS_PER_CHUNK, is_complete, open_column, read_column
from fintune_xr.store.zarr_io.location import explain_write_errors, sync_arrays
from fintune_xr.store.zarr_io.locks import hold_lock
from fintune_xr.store.zarr_io.recovery import ordering_prefix, sweep_staging
from fintune_xr.tasks.product import INSTANCES, Product
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult

# Counted later and by another step, of tiles that are done.
_COUNTED = (n.N_POSITIVE,)


@dataclass(frozen=True, slots=True)
class RunWriter:
    """The only writer of a run's small arrays; made by `writing_run`.

    `log` gathers the objects, where the product has any; `columns` are the small arrays, `state` last.
    """

    cohort: Cohort
    name: str
    product: Product
    log: CellLog | None
    columns: dict[str, zarr.Array[Any]] = field(repr=False)

    @property
    def small(self) -> tuple[str, ...]:
        """Names of the small arrays, `state` last."""
        return tuple(self.columns)

    @property
    def grid(self) -> shards.ShardGrid:
        """How the pixels are cut; one shard is one task. Raises FintuneValueError for a run without pixels."""
        return run_grid(self.cohort.location, self.name)

    def states(self) -> NDArray[np.uint8]:
        """State of every tile (tile,)."""
        return read_column(self.cohort.location, f"{n.RUNS}/{self.name}/{n.STATE}")

    def plans(self, wanted: NDArray[np.bool_] | None = None) -> Iterator[ShardPlan]:
        """One plan for each shard that holds pending tiles, in order; with `wanted` (tile,) of those tiles only."""
        states, size = self.states(), run_tiles_per_shard(self.cohort.location, self.name)
        chosen = np.ones(len(states), bool) if wanted is None else wanted
        for shard in range(math.ceil(len(states) / size)):
            here = slice(shard * size, (shard + 1) * size)
            pending = states[here] == n.PENDING
            todo, later = (np.flatnonzero(pending & now).tolist() for now in (chosen[here], ~chosen[here]))
            if todo:
                yield ShardPlan(shard, shard * size, pending.size, tuple(todo), tuple(later))

    def commit(self, receipts: Sequence[ShardReceipt]) -> None:
        """Writes the small numbers of finished shards, `state` after all others are durable.

        Raises FintuneValueError where a tile that is done lacks a value of some column, or brings one of another shape.
        """
        for result in (result for receipt in receipts for result in receipt.results):
            self._require_values(result)
        with explain_write_errors(f"{self.cohort.url}/{n.RUNS}/{self.name}"):
            if self.log is not None:
                self.log.append(receipts)
            for name in self.small:
                if name == n.STATE:
                    self._sync([c for c in self.small if c != n.STATE], receipts)
                if name not in _COUNTED:
                    self._write_column(name, receipts)
            self._sync([n.STATE], receipts)

    def begin(self, *, retry: bool) -> None:
        """Gets the log of objects ready where anything is pending; `retry` sets quarantined tiles back.

        Positive cells counted before are then no longer those of the run, and are marked so.
        """
        path = f"{n.RUNS}/{self.name}"
        for name in (n.TILE, *self.small):
            read_column(self.cohort.location, f"{path}/{name}")
        with explain_write_errors(f"{self.cohort.url}/{path}"):
            states = self.states()
            if retry and (states == n.QUARANTINED).any():
                states[states == n.QUARANTINED] = n.PENDING
                self.columns[n.STATE][:] = states
            if (states == n.PENDING).any():
                if n.N_POSITIVE in self.columns:
                    self.columns[n.N_POSITIVE].attrs[n.RULE] = ""
                if self.log is not None:
                    self.log.open(states.size, _channels(self.cohort))

    def finish(self) -> bool:
        """Whether every tile is done or quarantined; then the table of objects is put in order, where there is one.

        Called when no worker writes any more: what killed ones left unfinished is removed.
        """
        self.cohort.location.sweep(f"{n.RUNS}/{self.name}")
        if (self.states() == n.PENDING).any():
            return False
        if self.log is None:
            return True
        counts = read_column(self.cohort.location, f"{n.RUNS}/{self.name}/{n.N_CELLS}")
        with explain_write_errors(f"{self.cohort.url}/{n.CELLS}/{self.name}"):
            self.log.put_in_order(np.maximum(counts, 0))
        return True

    def _write_column(self, name: str, receipts: Sequence[ShardReceipt]) -> None:
        """All receipts in one write: each costs a chunk of thousands of tiles, however few of them change."""
        column = self.columns[name]
        first = min(receipt.plan.first for receipt in receipts)
        last = max(receipt.plan.first + receipt.plan.n_slots for receipt in receipts)
        values = np.asarray(column[first:last])
        for receipt in receipts:
            for slot, result in zip(receipt.plan.todo, receipt.results, strict=True):
                values[receipt.plan.first - first + slot] = self._value(name, result)
        column[first:last] = values

    def _value(self, name: str, result: TileResult) -> Any:
        if name in PROGRESS:
            return {n.REASON: result.reason, n.SECONDS: result.seconds, n.STATE: result.state}[name]
        return result.values[name] if result.state == n.DONE else self.product.initial(name)

    def _require_values(self, result: TileResult) -> None:
        """A missing value would be stored as one that is not known, and NumPy would stretch a short one."""
        if result.state != n.DONE:
            return
        expected = {name: self.columns[name].shape[1:] for name in self.small if name not in (*PROGRESS, *_COUNTED)}
        got = {name: np.shape(value) for name, value in result.values.items()}
        if got != expected:
            raise FintuneValueError(
                f"run {self.name!r} of {self.cohort.url}: expected for each tile values of shapes {expected}, got {got}"
            )

    def _sync(self, names: Sequence[str], receipts: Sequence[ShardReceipt]) -> None:
        rows = [row for r in receipts for row in (r.plan.first, r.plan.first + r.plan.n_slots - 1)]
        touched = {row // ROWS_PER_CHUNK for row in rows}
        sync_arrays(self.cohort.location, {f"{n.RUNS}/{self.name}/{name}": touched for name in names})


@contextlib.contextmanager
def writing_run(
    cohort: Cohort,
    name: str,
    *,
    identity: Mapping[str, Any],
    facts: Mapping[str, Any],
    product: Product = INSTANCES,
    sizes: Sizes | None = None,
    attrs: Mapping[str, Mapping[str, Any]] | None = None,
    restart: bool = False,
    retry: bool = False,
) -> Iterator[RunWriter]:
    """The writer of run `name` of this `product`, made or continued, with new tiles of the cohort added as pending.

    `identity` (checkpoint and settings digests) must equal that of the stored run; `facts` is its provenance. `sizes`
    tells what lies along the dims of columns beyond `tile`: the names along a dim that has a coordinate, how many
    along any other; those of the stored run must be the same. A new run's arrays get the attributes `attrs` holds
    under their names.
    `restart` throws the stored run away first; `retry` sets its quarantined tiles back to pending.

    Raises RunMismatchError where it does not, RunBusyError where another process writes the run.
    """
    check_run_name(name)
    with _holding_run(cohort, name):
        path = f"{n.RUNS}/{name}"
        if restart or not is_complete(cohort.location, path):
            remove_run(cohort, name)
            stated = {n.IDENTITY: dict(identity), n.PROVENANCE: dict(facts)}
            create_run(cohort, name, product, sizes or {}, attrs or {}, stated)
        _check_identity(cohort, name, identity)
        cohort.location.sweep(path)
        sweep_staging(cohort.location, ordering_prefix(name))
        stored = cohort.run_product(name)
        columns = grow_run(cohort, name, stored)
        _describe(cohort, name, stored)
        if sizes is not None:
            require_same_sizes(cohort.location, path, stored, sizes, columns)
        log = CellLog(cohort.location, name, stored) if stored.objects is not None else None
        writer = RunWriter(cohort, name, stored, log, columns)
        writer.begin(retry=retry)
        yield writer


def _holding_run(cohort: Cohort, name: str) -> contextlib.AbstractContextManager[None]:
    return hold_lock(cohort.location, f"run-{name}", what=f"writing run {name!r}")


def write_positive(cohort: Cohort, run: str, counts: NDArray[np.int32], *, rule: str) -> None:
    """Stores marker-positive cells per tile (tile,) as the run's active count, with the rule's name.

    Raises RunBusyError where another process writes the run.
    """
    path = f"{n.RUNS}/{run}/{n.N_POSITIVE}"
    with _holding_run(cohort, run), explain_write_errors(f"{cohort.url}/{path}"):
        column = open_column(cohort.location, path)
        if column.shape != counts.shape:
            raise FintuneValueError(f"{path}: expected {column.shape[0]} tiles, got {counts.shape}")
        column.attrs[n.RULE] = "being written"
        column[:] = counts
        column.attrs[n.RULE] = rule


def mark_pending(cohort: Cohort, run: str, tiles: Sequence[int]) -> None:
    """Sets tiles (positions) of a run back to pending, so that `infer` makes them again.

    Chunks of the small arrays that hold these tiles are written anew, whether or not they can still be read.

    Raises RunBusyError where another process writes the run.
    """
    rows = np.unique(np.asarray(tiles, np.int64))
    product, path = cohort.run_product(run), f"{n.RUNS}/{run}"
    small = stored_columns(cohort.location, path, product)
    with _holding_run(cohort, run), explain_write_errors(f"{cohort.url}/{n.RUNS}/{run}"):
        # First of all, what makes others refuse the counts, then the state: killed in between, nothing is believed.
        if n.N_POSITIVE in small:
            open_column(cohort.location, f"{n.RUNS}/{run}/{n.N_POSITIVE}").attrs[n.RULE] = ""
        for name in (n.STATE, *(c for c in small if c != n.STATE)):
            set_back(cohort.location, f"{path}/{name}", rows, product.initial(name))


def _describe(cohort: Cohort, name: str, product: Product) -> None:
    """Says to viewers what the run's pixels are; they are as large as those of the images."""
    if product.array is None:
        return
    dims = product.pixels.dims
    ome = image_ome(name, dims, stored_sides(cohort.location), levels=[product.array])
    are_labels = product.pixels.dtype.startswith("uint") and product.pixels.scale == 1.0
    describe(cohort.location, f"{n.RUNS}/{name}", of_labels(ome, f"../../{n.IMAGES}") if are_labels else ome)


def _channels(cohort: Cohort) -> NDArray[Any]:
    return read_column(cohort.location, f"{n.IMAGES}/{n.CHANNEL}")


def _check_identity(cohort: Cohort, name: str, identity: Mapping[str, Any]) -> None:
    stored = cohort.run_attrs(name)[n.IDENTITY]
    differing = differences(stored, identity)
    if differing:
        # The digest of the settings says no more than the settings that differ.
        told = {key: both for key, both in differing.items() if not key.endswith("settings_digest")} or differing
        lines = [f"{key}: stored {was!r}, now {now!r}" for key, (was, now) in told.items()]
        raise RunMismatchError(
            "\n  ".join([f"run {name!r} was made with something else:", *lines])
            + "\nChoose another --run name, or --restart to throw the stored run away."
        )
