"""More columns of the cells of a run, from its stored masks; nothing is segmented again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile
from fintune_xr.cluster.session import session
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.dask_blocks import GATHERING_S, gather_batches, map_plans
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.instance.measure_block import MeasureContext, measure_block
from fintune_xr.pipelines.steps.positivity import require_masks
from fintune_xr.pipelines.workers.devices import profile_and_rest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.lineage.tile_counts import require_finished
from fintune_xr.store.runs.measurement_writer import MeasurementWriter, writing_measurements
from fintune_xr.tasks.cell_measures import MEASURES, REGION_MEASURE, CellMeasure, cell_measure


@dataclass(frozen=True, slots=True)
class ColumnSummary:
    """A column after `measure`: its name in the table of cells, its unit, and how many cells this call measured."""

    column: str
    units: str
    n_cells: int
    n_new: int


def measure(
    store: str | Path,
    *,
    run: str,
    columns: Sequence[str] = (),
    cluster: str = "threads",
    overrides: Sequence[str] = (),
    restart: bool = False,
) -> list[ColumnSummary]:
    """Adds `columns` to the cells of a finished run, one row for each cell there is, stored under `measurements/<run>`.

    Columns are eccentricity, solidity, perimeter, major_axis, minor_axis, skeleton_length, branch_points, texture (the
    standard deviation of raw intensity in each channel), region, of those that `annotate --as regions` stored, and
    distance:RUN, to the nearest object of another run; without `columns` all but the last two. Lengths are stored in px
    and shown in um as well where the size of a pixel is known. Blocks of rows are measured by the workers of the
    profile `cluster`; killed anywhere, the same call continues. What is there already stays, but for columns of other
    cells or another definition, which are measured anew, as are all with `restart`.

    Raises UnknownNameError for a run or a column that is not known, FintuneValueError for runs without masks or that
    are not finished, RunBusyError where another process writes one of them.
    """
    cohort = open_cohort(store).opened_once()
    measures = _measures(run, columns)
    for name in {run, *(one.to for one in measures if one.to)}:
        cohort.require_run(name)
        require_masks(cohort, name)
        require_finished(cohort, name)
    if any(one is REGION_MEASURE for one in measures):
        cohort.regions(lazy=False)
    profile, rest = profile_and_rest(cluster, overrides)
    if rest:
        raise FintuneValueError(f"measure: expected settings of the cluster alone, cluster.KEY=VALUE, got {rest[0]!r}")
    n_cells = cohort.cells(run, lazy=False).sizes[n.CELL]
    with writing_measurements(cohort, run, measures, restart=restart) as writer:
        for column, told in writer.remade.items():
            say(f"measure: {column} is measured anew: {told}")
        n_new = _measure_pending(writer, profile)
    return [ColumnSummary(one.column, one.units, n_cells, n_new[one.column]) for one in measures]


def column_table(found: Sequence[ColumnSummary]) -> pd.DataFrame:
    """One row per column: column, units, n_cells, n_new."""
    rows = [(one.column, one.units, one.n_cells, one.n_new) for one in found]
    return pd.DataFrame(rows, columns=["column", "units", "n_cells", "n_new"])


def _measures(run: str, columns: Sequence[str]) -> list[CellMeasure]:
    wanted = [cell_measure(name) for name in columns] if columns else list(MEASURES.values())
    if any(one.to == run for one in wanted):
        raise FintuneValueError(f"distance:{run}: every cell of {run} is 0 from itself. Name another run.")
    return list({one.column: one for one in wanted}.values())


def _measure_pending(writer: MeasurementWriter, profile: Profile) -> dict[str, int]:
    """Measures what is not done; how many rows of each column that were."""
    blocks = writer.blocks()
    n_new = {one.column: 0 for one in writer.measures}
    if not blocks:
        return n_new
    context = MeasureContext(writer.cohort.location, writer.run, writer.creations)
    left = {(block.first, block.last) for block in blocks}
    with (
        session(profile, left=lambda: len(left), report=say) as client,
        progress(f"measure {writer.run}", sum(block.last - block.first for block in blocks), unit="cells") as advance,
    ):
        finished = map_plans(client, measure_block, blocks, context=context, name=f"measure-{writer.run}")
        with contextlib.closing(finished):
            for done in gather_batches(finished, seconds=GATHERING_S):
                writer.commit(done)
                left.difference_update((block.first, block.last) for block in done)
                advance(sum(block.last - block.first for block in done))
                for block in done:
                    n_new |= {column: n_new[column] + block.last - block.first for column in block.columns}
    return n_new
