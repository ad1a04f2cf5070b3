"""The cells of a run as a table that joins: what is known of their tiles, and which are positive, as lazy columns."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.coding.common import lazy_elemwise_func
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.store.labels.group_index import REMEDY, GroupIndex, as_slice, booleans_along, is_booleans
from fintune_xr.store.zarr_io.groups import CELLS_PER_CHUNK, with_dim_indexes
from fintune_xr.store.zarr_io.portable import AS_VARIABLE_TEXT
from fintune_xr.tasks.cell_measures import column_in_um

# Four stored chunks: few enough tasks for hundreds of millions of cells, and a few MB each.
CELLS_PER_BLOCK: Final = 4 * CELLS_PER_CHUNK


class CellIndex(Index):
    """Index of the labels that cells have from their tiles, kept once for each tile and not for each cell.

    `tiles` is the index of the tiles and `tile_index` (cell,) the position of each cell's tile in it, which is read
    when a query is first made; then only where it changes is kept. The cells are known by their `rows` (cell,) in the
    table of the run. Data frames have the labels as levels of their index.
    """

    def __init__(self, tiles: GroupIndex, tile_index: xr.Variable, rows: xr.Variable | None = None) -> None:
        self.tiles = tiles
        self.tile_index = tile_index
        numbers = da.arange(tile_index.size, chunks=CELLS_PER_BLOCK)
        self.rows = xr.Variable((n.CELL,), numbers) if rows is None else rows
        self._changes: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> dict[Any, xr.Variable]:
        """The labels of every cell, looked up when they are asked for: xarray's own laziness, as text of Dask cannot
        be stored without a warning.
        """
        attrs = {name: variable.attrs for name, variable in (variables or {}).items()}
        made = {n.CELL: xr.Variable((n.CELL,), self.rows.data, attrs.get(n.CELL))}
        for name, labels in self.tiles.columns.items():
            of_cells = lazy_elemwise_func(self.tile_index._data, partial(_of_tile, labels), labels.dtype)
            made[str(name)] = xr.Variable((n.CELL,), of_cells, attrs.get(name), AS_VARIABLE_TEXT)
        return made

    def to_pandas_index(self) -> pd.Index:
        """Rows and all labels as levels."""
        tile = self.tile_index.values
        levels = [self.rows.values, *(labels[tile] for labels in self.tiles.columns.values())]
        return pd.MultiIndex.from_arrays(levels, names=[n.CELL, *self.tiles.columns])

    def sel(self, labels: Mapping[Any, Any]) -> IndexSelResult:
        """Positions of the cells of the tiles that have all the wanted labels, in stored order.

        Cells that are wanted may also be said by a boolean for each of them, under any name, tiles by an array along
        `tile`.

        Raises UnknownNameError, a KeyError, for a label that no tile has, FintuneValueError for numbers of cells
        and for booleans of another number.
        """
        if n.CELL in labels and not _is_of_cells(labels[n.CELL]):
            raise FintuneValueError("cell: rows of the table are chosen with .isel(cell=…); .sel takes labels of tiles")
        of_cells = {name: wanted for name, wanted in labels.items() if _is_of_cells(wanted)}
        positions = self._cells_of(self.tiles.having({k: v for k, v in labels.items() if k not in of_cells}))
        for name, wanted in of_cells.items():
            positions = positions[booleans_along(n.CELL, self.tile_index.size, name, wanted)[positions]]
        return IndexSelResult({n.CELL: as_slice(positions)})

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """The index of a part; none where one cell is taken or cells are rearranged into other dims."""
        here = {n.CELL: indexers[n.CELL]}
        part = self.tile_index.isel(here)
        return type(self)(self.tiles, part, self.rows.isel(here)) if part.dims == (n.CELL,) else None

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """The index of cells that follow each other, at `positions` where these are given."""
        starts = np.cumsum([0, *(len(index.tiles) for index in indexes)])
        tile = np.concatenate([one.tile_index.values + start for one, start in zip(indexes, starts, strict=False)])
        rows = np.concatenate([one.rows.values for one in indexes])
        if positions is not None:
            order = np.argsort(np.concatenate([list(places) for places in positions]))
            tile, rows = tile[order], rows[order]
        tiles = GroupIndex.concat([index.tiles for index in indexes], n.TILE)
        return cls(tiles, xr.Variable((dim,), tile), xr.Variable((dim,), rows))

    def equals(self, other: Index, *, exclude: frozenset[Hashable] | None = None) -> bool:  # noqa: ARG002
        """Whether the cells of `other` are the same rows, of the same tiles, in the same order."""
        if not isinstance(other, CellIndex) or not self.tiles.equals(other.tiles):
            return False
        if not _same_rows(self.rows, other.rows):
            return False
        if self.tile_index is other.tile_index:
            return True
        mine, theirs = self._runs_of_one_tile(), other._runs_of_one_tile()
        return all(np.array_equal(one, two) for one, two in zip(mine, theirs, strict=True))

    def _copy(self, deep: bool = True, memo: dict[int, Any] | None = None) -> Self:  # noqa: ARG002
        return type(self)(self.tiles, self.tile_index, self.rows)

    def __repr__(self) -> str:
        return f"{self._short()}\n{REMEDY.format(dim=n.CELL)}"

    def _repr_inline_(self, max_width: int) -> str:
        return self._short()[:max_width]

    def _short(self) -> str:
        return f"CellIndex({', '.join(map(str, self.tiles.columns))}; {self.tile_index.size} cells)"

    def _cells_of(self, tiles: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions of the cells of chosen tiles."""
        first, tile = self._runs_of_one_tile()
        chosen = np.flatnonzero(tiles[tile])
        parts = [np.arange(first[run], first[run + 1]) for run in chosen.tolist()]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _runs_of_one_tile(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First cell of each run of cells of one tile, with the end of the last, and the tile of each run."""
        if self._changes is None:
            places, tiles, before = [], [], -1
            for first in range(0, self.tile_index.size, CELLS_PER_BLOCK):
                block = self.tile_index[first : first + CELLS_PER_BLOCK].values
                at = np.flatnonzero(np.diff(block, prepend=before))
                places.append(at + first)
                tiles.append(block[at])
                before = int(block[-1])
            ends = np.array([self.tile_index.size])
            self._changes = np.concatenate([*places, ends]), np.concatenate([*tiles, ends[:0]])
        return self._changes


def _is_of_cells(wanted: Any) -> bool:
    return is_booleans(wanted) and getattr(wanted, "dims", (n.CELL,)) != (n.TILE,)


def _same_rows(one: xr.Variable, other: xr.Variable) -> bool:
    """Whether two lists of rows are the same; those that were made alike are known without reading them."""
    names = [getattr(rows.data, "name", None) for rows in (one, other)]
    if one.sizes != other.sizes or (names[0] is not None and names[0] == names[1]):
        return one.sizes == other.sizes
    return bool(np.array_equal(one.values, other.values))


def labelled_cells(
    cells: xr.Dataset, tiles: xr.Dataset, rules: xr.Dataset | None, sides: NDArray[np.float64]
) -> xr.Dataset:
    """`cells` of a run in lazy blocks, with the labels of their tiles and, where `rules` were applied, `positive`.

    `cells` has its columns as they are stored, not in memory; `tiles` is the run (tile,) with its labels and
    `background`, `rules` the positivity of the run; `sides` (tile,) are those of a pixel in um, 0 where they are not
    known, and measured lengths are there in um too where any is. Nothing of the cells is read.
    """
    (index,) = {id(one): one for one in tiles.xindexes.values() if isinstance(one, GroupIndex)}.values()
    of_cells = CellIndex(index, cells.variables[n.TILE_INDEX])
    meaning = {name: tiles[name].variable for name in index.columns}
    row = xr.Variable((n.CELL,), np.empty(0), {"long_name": "Row of the cell in the table of its run."})
    labels = of_cells.create_variables({n.CELL: row, **meaning})
    lazy = cells.chunk({n.CELL: CELLS_PER_BLOCK})
    lazy = lazy.assign(columns_in_um(lazy, sides)).assign_coords(cell_regions(cells))
    if rules is not None:
        lazy = lazy.merge(positive_cells(lazy, tiles, rules))
    return with_dim_indexes(lazy.assign_coords(xr.Coordinates(labels, dict.fromkeys(labels, of_cells))))


def positive_cells(cells: xr.Dataset, tiles: xr.Dataset, rules: xr.Dataset) -> xr.Dataset:
    """`positive` and `decided` (rule, cell) bool of any part of the cells of a run, as lazy as `cells` are.

    A cell is positive where its mean in the marker channel less the background of its tile is above the rule's
    threshold for the tile. `decided` is False, and so is `positive`, where there is no such threshold or background.
    The rule `detected` has no thresholds: it counts in tiles and decides on no single cell.
    """
    background = tiles[n.BACKGROUND].sel({n.CHANNEL: n.MARKER_CHANNEL}).values
    limits = rules[n.THRESHOLD].values
    added_since = max(background.size - limits.shape[1], 0)
    limits = np.pad(limits, ((0, 0), (0, added_since)), constant_values=np.nan)
    intensity = cells[n.MEAN_INTENSITY].sel({n.CHANNEL: n.MARKER_CHANNEL}, drop=True)
    tile = cells[n.TILE_INDEX]
    signal = (intensity - _looked_up(tile, background)).astype(np.float32)
    limit = [_looked_up(tile, one) for one in limits]
    names = rules[n.RULE].variable
    known = [signal.notnull() & one.notnull() for one in limit]
    above = [signal > one for one in limit]
    return xr.Dataset(
        {
            n.POSITIVE: _stacked(above, names, "Whether the cell is marker-positive under the rule."),
            n.DECIDED: _stacked(known, names, "Whether the rule could tell: False is unknown, not negative."),
        }
    )


def cell_regions(cells: xr.Dataset) -> dict[str, xr.Variable]:
    """`region` (cell,), the name of the region of each cell, looked up when it is asked for; nothing where not
    measured.

    `none` is no region, and empty a tile whose regions are not known.
    """
    if n.REGION_CODE not in cells:
        return {}
    code = cells.variables[n.REGION_CODE]
    names = {0: n.NO_REGION, **region_names(code.attrs)}
    table = np.array([names.get(value, "") for value in range(257)])
    named = lazy_elemwise_func(code._data, partial(_named, table), table.dtype)
    told = {"long_name": "Region of tissue that the cell's centre lies in; empty where it is not known."}
    return {n.REGION: xr.Variable((n.CELL,), named, told, AS_VARIABLE_TEXT)}


def region_names(attrs: Mapping[str, Any]) -> dict[int, str]:
    """The name of each code of regions, from the attributes of what holds codes."""
    values = [int(code) for code in attrs[n.FLAG_VALUES]]
    return dict(zip(values, str(attrs[n.FLAG_MEANINGS]).split(), strict=True))


def _named(table: NDArray[Any], codes: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Names by code; that after the last code stands for what is not known."""
    found: NDArray[Any] = table[np.where(np.isnan(codes), table.size - 1, codes).astype(np.int64)]
    return found


def columns_in_um(cells: xr.Dataset, sides: NDArray[np.float64]) -> dict[str, xr.DataArray]:
    """The measured lengths of `cells` in um, as lazy as they are; none where no tile tells the size of its pixels.

    `sides` (tile,) are those of a pixel in um, 0 where they are not known: there the lengths are NaN.
    """
    if not (sides > 0).any():
        return {}
    side = _looked_up(cells[n.TILE_INDEX], np.where(sides > 0, sides, np.nan).astype(np.float32))
    found = {}
    for name, column in cells.data_vars.items():
        in_um = column_in_um(str(name))
        if in_um:
            told = {**column.attrs, "units": "um"}
            found[in_um] = (column * side).assign_attrs(told)
    return found


def _of_tile(values: NDArray[Any], tile: NDArray[np.integer[Any]]) -> NDArray[Any]:
    found: NDArray[Any] = values[tile]
    return found


def _looked_up(tile: xr.DataArray, values: NDArray[Any]) -> xr.DataArray:
    """`values` (tile,) of the tile of each cell."""
    of_cells: xr.DataArray = xr.apply_ufunc(
        partial(_of_tile, values), tile, dask="parallelized", output_dtypes=[values.dtype]
    )
    return of_cells


def _stacked(parts: list[xr.DataArray], names: xr.Variable, meaning: str) -> xr.DataArray:
    rows: xr.DataArray = xr.concat(parts, n.RULE, coords="minimal", compat="override")
    # Only assigned as it is does the coordinate keep how its text is stored.
    named = rows.assign_coords(xr.Coordinates({n.RULE: names}, indexes={}))
    return named.assign_attrs({"long_name": meaning, "units": "1"})
