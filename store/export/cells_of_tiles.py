"""Rows of a run's table of cells tile by tile, with what they are called and whether they are positive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.tables import cell_table
from fintune_xr.store.zarr_io.groups import CELLS_PER_CHUNK


class CellsOfTiles:
    """Cells of a run by tile; tiles that follow each other are read from one block of rows."""

    def __init__(self, cohort: Cohort, run: str) -> None:
        self.tiles = cohort.run(run, lazy=False)
        self.cells = cohort.cells(run, lazy=False)
        self.sides = sides_um(cohort.images(lazy=False))
        self.rules = cohort.positivity(run) if cohort.has(f"{n.POSITIVITY}/{run}") else None
        self.rule = str(self.tiles[n.N_POSITIVE].attrs.get(n.RULE, "")) if n.N_POSITIVE in self.tiles else ""
        counts = np.maximum(self.tiles[n.N_CELLS].values.astype(np.int64), 0)
        self.last = np.cumsum(counts)
        self.first = self.last - counts
        self._block = (-1, xr.Dataset())

    def of_tile(self, row: int) -> pd.DataFrame:
        """Columns as in the exported table of cells, of the tile at this position alone."""
        part = self._rows(int(self.first[row]), int(self.last[row]))
        return cell_table(part, self.tiles, self.rules, self.sides)

    @property
    def positive(self) -> str:
        """Name of the column that says which cells are positive by the active rule; empty where none was applied."""
        return f"{n.POSITIVE}_{self.rule}" if self.rule and self.rules is not None else ""

    def _rows(self, first: int, last: int) -> xr.Dataset:
        start, _ = divmod(first, CELLS_PER_CHUNK)
        if last > (start + 1) * CELLS_PER_CHUNK:
            return self.cells.isel({n.CELL: slice(first, last)}).load()
        if self._block[0] != start:
            rows = slice(start * CELLS_PER_CHUNK, (start + 1) * CELLS_PER_CHUNK)
            self._block = (start, self.cells.isel({n.CELL: rows}).load())
        offset = start * CELLS_PER_CHUNK
        return self._block[1].isel({n.CELL: slice(first - offset, last - offset)})
