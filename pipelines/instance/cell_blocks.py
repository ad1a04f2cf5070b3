"""The cells of a run read block by block, so that no process ever holds all cells of a cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.positivity.counting import CellBlocks
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.store.cohort import Cohort, explain_read_errors

# Four stored chunks: a few MB of cells, and some ten times that while they are counted.
CELLS_PER_BLOCK: Final = 1 << 18


def cell_blocks(cohort: Cohort, run: str, columns: Sequence[str]) -> CellBlocks:
    """Reads `columns` of the cells of a run in order; the next block is read while one is in use, and none is kept."""
    cells = cohort.cells(run, lazy=False)[list(columns)]

    def load(first: int) -> xr.Dataset:
        with explain_read_errors(f"{n.CELLS}/{run} of {cohort.url}"):
            return cells.isel({n.CELL: slice(first, first + CELLS_PER_BLOCK)}).load()

    def blocks() -> Iterator[xr.Dataset]:
        with ThreadPoolExecutor(1) as pool:
            yield from ahead(pool, load, range(0, cells.sizes[n.CELL], CELLS_PER_BLOCK), depth=1)

    return blocks
