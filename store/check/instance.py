"""Verification of cells: as many in the mask as were counted, and those that their table has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.store.check.problem import Fault, Problem, array_at, first_few, remedy_of, values_at
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.cell_table import region_names
from fintune_xr.store.runs.object_log import CellLog
from fintune_xr.store.zarr_io.groups import read_column
from fintune_xr.text import texts


def check_masks(
    cohort: Cohort, run: str, done: NDArray[np.int64], counts: NDArray[np.int32], table: CellRows | None
) -> Iterator[Problem]:
    """Tiles of `done` whose mask holds other cells than `counts` (tile,), or than `table` where there is one."""
    mask = array_at(cohort, f"{n.RUNS}/{run}/{n.MASK}")

    def fault(tile: int) -> tuple[int, str]:
        pixels = values_at(mask, tile)
        if pixels is None:
            return tile, ""
        labels, areas = np.unique(pixels, return_counts=True)
        cells = labels != 0
        if np.count_nonzero(cells) != counts[tile]:
            return tile, n.N_CELLS
        differs = table is not None and not table.agrees(tile, labels[cells], areas[cells])
        return tile, n.CELLS if differs else ""

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = [hit for hit in ahead(pool, fault, (int(i) for i in done), depth=8) if hit[1]]
    for where, what in ((n.N_CELLS, "another number of cells in the mask"), (n.CELLS, "other cells than the table")):
        wrong = tuple(tile for tile, kind in found if kind == where)
        if wrong:
            yield Problem(
                f"{n.RUNS}/{run}/{where}", f"{len(wrong)} tile(s) have {what}: {first_few(wrong, 10)}",
                remedy_of(f"{n.RUNS}/{run}/{n.MASK}"), wrong,
            )  # fmt: skip


def check_regions(cohort: Cohort) -> Iterator[Fault]:
    """Tiles whose stored areas of regions are not those of their masks; none where no regions are stored."""
    if not cohort.has(n.REGION_MASKS):
        return
    regions = cohort.regions(lazy=False)
    codes = np.array(list(region_names(regions[n.REGION_MASK].attrs)), np.int64)
    masks, areas, wrong = array_at(cohort, f"{n.REGION_MASKS}/{n.REGION_MASK}"), regions[n.REGION_PX].values, []
    for at, tile in enumerate(texts(regions[n.TILE])):
        pixels = values_at(masks, at)
        if pixels is None:
            continue
        counts = np.bincount(pixels.ravel(), minlength=256)
        if (counts[codes] != areas[at]).any() or counts[1:].sum() != areas[at].sum():
            wrong.append(tile)
    if wrong:
        what = f"{len(wrong)} tile(s) have regions of other areas than are stored: {first_few(wrong)}"
        yield n.REGION_MASKS, what, "Annotate again with --as regions --restart"


class CellRows:
    """Rows of the cell table of a run, tile by tile; `fault` says why they cannot be compared."""

    def __init__(self, cohort: Cohort, run: str, done: NDArray[np.int64], counts: NDArray[np.int32]) -> None:
        path = f"{n.CELLS}/{run}"
        n_cells = np.zeros(counts.size, np.int64)
        n_cells[done] = counts[done]
        self.fault = ""
        if not cohort.has(path):
            self.fault = f"there is no table of the {n_cells.sum()} cells"
            return
        tile_index = read_column(cohort.location, f"{path}/{n.TILE_INDEX}")
        if not np.array_equal(tile_index, np.repeat(np.arange(counts.size), n_cells)):
            self.fault = f"{tile_index.size} rows are not those of {n_cells.sum()} cells in order of tiles"
        self.last = np.cumsum(n_cells)
        self.first = self.last - n_cells
        there = CellLog(cohort.location, run, cohort.run_product(run)).columns
        self.columns = [array_at(cohort, f"{path}/{name}") for name in (n.LABEL, n.AREA_PX) if name in there]

    def agrees(self, tile: int, *expected: NDArray[Any]) -> bool:
        """Whether the rows of `tile` hold the expected labels and areas."""
        rows = slice(int(self.first[tile]), int(self.last[tile]))
        return all(np.array_equal(c[rows], values) for c, values in zip(self.columns, expected, strict=True))
