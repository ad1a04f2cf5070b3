"""Masks that another program made, as a run: counted, judged, scored and correlated like any other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.positivity.rules import OtsuRule
from fintune_xr.datasets import SCHEMA_VERSION
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.instance.mask_placement import placement, placement_lines
from fintune_xr.pipelines.steps.positivity import apply_positivity, is_counted, last_rule
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.provenance import provenance
from fintune_xr.store.annotations.instance import MaskFile, Taken, checked_mask, drawn_lines, found_masks
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout, layout_of_folder
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.runs.run import run_creation, run_grid
from fintune_xr.store.runs.run_shard import Encoded, ShardGrid, encode_empty, encode_tile, write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.tasks.records import ShardPlan, ShardReceipt, TileResult
from fintune_xr.tasks.task import INSTANCE
from fintune_xr.text import texts

NO_MASK = "no mask was imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """How a folder of masks is read: its layout and pattern, and what becomes of pieces and of drawn objects."""

    layout: str | None = None
    pattern: str | None = None
    join: bool = False
    taken: Taken = field(default_factory=Taken)

    def as_dict(self, layout: str) -> dict[str, Any]:
        """All of it in plain values, with the `layout` that was found where none was named."""
        drawn = self.taken.drawn
        how = {"pattern": self.pattern, "pieces": self.taken.pieces, "overlap": drawn.overlap}
        # Runs of before know no more words than these.
        more: dict[str, Any] = {} if drawn.classes is None else {"classes": sorted(drawn.classes)}
        more |= {"unit": drawn.unit or "", "scale": drawn.scale} if drawn.is_told else {}
        return {"layout": layout, "join": self.join, **{name: value or "" for name, value in how.items()}, **more}


@dataclass(frozen=True, slots=True)
class Imported:
    """Tiles of the run now: done, quarantined, pending; and files that could not be used, with the reason of each."""

    n_done: int
    n_quarantined: int
    n_pending: int
    left_out: tuple[LeftOut, ...]


def import_run(
    source: str | Path,
    store: str | Path,
    *,
    run: str,
    made_by: str,
    masks: Masks | None = None,
    rest_lost: bool = False,
    restart: bool = False,
) -> Imported:
    """Stores the masks under `source` as run `run`, measures their cells, and counts positive ones once it is done.

    `made_by` says what made them; with how `masks` are read it is the identity of the run: another one is refused.
    Binary masks become instances by 8-connected components. A mask that cannot be used quarantines its tile, with its
    reason. Tiles without a mask stay pending for a later call, or are quarantined with `rest_lost`; masks that are
    stored stay as they are. `restart` throws the stored run away first. Killed anywhere, it continues when called
    again.

    Raises FintuneValueError for a cohort that has no masks of cells, where nothing fits or `made_by` is empty,
    RunMismatchError for a run of that name that was made otherwise, RunBusyError where another process writes it.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("import-run", tasks=[INSTANCE])
    if not made_by.strip():
        raise FintuneValueError("say what made the masks, with its version: --made-by 'StarDist 0.9 2D_versatile_fluo'")
    how = masks or Masks()
    layout = how.layout or layout_of_folder(source).name
    found = found_masks(cohort, source, choose_mask_layout(layout, pattern=how.pattern, join=how.join))
    for line in drawn_lines(source, found.masks, how.taken.drawn):
        say(f"import-run: {line}")
    settings, taken = how.as_dict(layout), replace(how.taken, join=how.join)
    identity = {n.IMPORTED: made_by, "settings": settings, "schema_version": SCHEMA_VERSION}
    facts = provenance(**{n.IMPORTED: made_by}, source=root_of(str(source)), settings=settings)
    tiles, of_tile = texts(cohort.images(lazy=False)[n.TILE]), {mask.tile: mask for mask in found.masks}
    wanted = np.array([rest_lost or tile in of_tile for tile in tiles])
    with writing_run(cohort, run, identity=identity, facts=facts, restart=restart) as writer:
        plans = list(writer.plans(wanted))
        placed: dict[str, Any] = {}
        with progress(f"import {run}", sum(len(plan.todo) for plan in plans)) as advance:
            for plan in plans:
                todo = [of_tile.get(tiles[plan.first + slot]) for slot in plan.todo]
                writer.commit([_write_shard(cohort, run, plan, _Source(source, taken, todo), placed)])
                advance(len(plan.todo))
        has_ended = writer.finish()
        states = writer.states()
    if has_ended:
        _count_positive(cohort, run)
    for line in [*_empty_lines(cohort, run), *placement_lines(placed)]:
        say(f"import-run: {line}")
    return _told(states, found.left_out)


def _empty_lines(cohort: Cohort, run: str) -> list[str]:
    """A line on masks without an object, whose tiles count as such that have no cell."""
    stored = cohort.run(run, lazy=False)
    empty = np.flatnonzero((stored[n.STATE].values == n.DONE) & (stored[n.N_CELLS].values == 0))
    if not empty.size:
        return []
    n_done = int((stored[n.STATE].values == n.DONE).sum())
    first = str(stored[n.TILE].values[empty[0]])
    return [f"{empty.size} of {n_done} masks are empty, e.g. {first}: they count as tiles in which there is no cell"]


def _count_positive(cohort: Cohort, run: str) -> None:
    """By the rule that the run was counted with before, or by the usual one."""
    if n.MARKER_CHANNEL not in texts(cohort.images(lazy=False)[n.CHANNEL]):
        return
    rule = last_rule(cohort, run) or OtsuRule()
    if not is_counted(cohort, run, rule):
        apply_positivity(cohort, run, rule)


def _told(states: NDArray[np.uint8], left_out: tuple[LeftOut, ...]) -> Imported:
    n_done, n_quarantined, n_pending = (int((states == one).sum()) for one in (n.DONE, n.QUARANTINED, n.PENDING))
    if n_pending:
        say(f"import-run: {n_pending} tile(s) have no mask and are pending; import them, or give them up: --rest-lost")
    return Imported(n_done, n_quarantined, n_pending, left_out)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the masks of some tiles lie, None where there is none, and how they are taken."""

    place: str | Path
    taken: Taken
    masks: Sequence[MaskFile | None]

    def read(self, at: int) -> NDArray[Any] | str:
        """Instances (y, x), or why there are none."""
        mask = self.masks[at]
        if mask is None:
            return NO_MASK
        found = checked_mask(self.place, {}, self.taken, mask)
        return f"{found.path}: {found.reason}" if isinstance(found, LeftOut) else found.instances


def _write_shard(cohort: Cohort, run: str, plan: ShardPlan, source: _Source, placed: dict[str, Any]) -> ShardReceipt:
    """Writes a shard, and notes in `placed` how the mask of each tile lies on its image."""
    grid, images = run_grid(cohort.location, run), cohort.images(lazy=False)
    results: list[TileResult] = []

    def made(at: int) -> tuple[Encoded, TileResult]:
        index, instances = plan.first + plan.todo[at], source.read(at)
        if not isinstance(instances, str):
            placed[str(images[n.TILE].values[index])] = placement(instances, tile_pixels(images, index))
        return _tile(grid, images, index, instances)

    def encoded() -> Iterator[Encoded]:
        workers = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(workers) as pool:
            for one, result in ahead(pool, made, range(len(plan.todo)), depth=2 * workers):
                results.append(result)
                yield one

    write_run_shard(cohort.location, run, plan, encoded(), creation=run_creation(cohort.location, run))
    return ShardReceipt(plan, tuple(results))


def _tile(grid: ShardGrid, images: xr.Dataset, at: int, instances: NDArray[Any] | str) -> tuple[Encoded, TileResult]:
    began = time.perf_counter()
    if isinstance(instances, str):
        return encode_empty(grid), TileResult(n.QUARANTINED, 0.0, instances)
    cells = measure_cells(instances, tile_pixels(images, at))
    encoded = encode_tile(instances, grid)
    return encoded, TileResult(n.DONE, time.perf_counter() - began, values=cells.of_tile, objects=cells)
