"""A run's cells and tiles as tables, Parquet or TSV, written part by part."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.labels.cell_table import cell_regions, columns_in_um, positive_cells
from fintune_xr.store.zarr_io.groups import CELLS_PER_CHUNK
from fintune_xr.tasks.cell_measures import is_measured
from fintune_xr.text import texts

TILE_LABELS: Final = (n.TILE, n.DONOR, n.MARKER, n.SPLIT)
SCHEMA_SUFFIX: Final = ".schema.json"
_TYPES: Final = {"b": "boolean", "i": "integer", "u": "integer", "f": "number"}
CELL_VALUES: Final = (n.LABEL, n.AREA_PX, n.CENTROID_Y, n.CENTROID_X, n.SCORE)


def write_cells(cohort: Cohort, run: str, path: Path | str) -> Path:
    """`path`, holding one row per cell of a run: run, tile, donor, marker, split, label, area, centroid, means.

    Columns `mean_intensity_<channel>` are raw counts, lengths are px; where the size of a pixel is known of some tiles,
    `area_um2`, `centroid_y_um` and `centroid_x_um` stand beside, empty for the others. Columns that `measure` added
    follow, lengths in px and in um alike, those of channels as `sd_intensity_<channel>`, `region` by its name. With
    stored positivity rules there is a column `positive_<rule>`, empty where the rule could not tell. A run that holds
    probabilities has candidates with a score instead of area and means. The suffix of `path` says whether it is Parquet
    or TSV. Memory holds one part of the rows and the labels of the tiles.

    Raises UnknownNameError where there is no such run, StoreNotFoundError where it has never come to its end,
    FintuneValueError for another suffix.
    """
    cells = cohort.cells(run, lazy=False)
    stored = cohort.run(run, lazy=False)
    rules = cohort.positivity(run) if cohort.has(f"{n.POSITIVITY}/{run}") else None
    parts = _cell_parts(cells, _labels(stored, run), sides_um(cohort.images(lazy=False)))
    return _written(Path(path), (_with_positive(part, table, stored, rules) for part, table in parts))


def write_tiles(cohort: Cohort, run: str, path: Path | str) -> Path:
    """`path`, holding one row per tile of a run: labels, size in px, state, counts, background, seconds.

    `mpp` is the side of a pixel in um, where it is known of some tiles, and empty for the others. Where regions are
    stored, `area_mm2_<region>` is that of each in mm², `area_px_<region>` in px where a tile does not tell the size of
    its pixels, both empty where the regions of a tile are not known.

    `n_cells` and `n_positive` are empty where they are unknown; with stored positivity rules there are columns
    `n_all_<rule>` and `n_positive_<rule>` too. The suffix of `path` says whether it is Parquet or TSV, in which text
    stands in quotes; beside a TSV, `<path>.schema.json` says which columns are text.

    Raises UnknownNameError where there is no such run, FintuneValueError for another suffix.
    """
    stored = cohort.run(run, lazy=False)
    table = _labels(stored, run).astype(str)
    for name in (n.HEIGHT, n.WIDTH):
        table[name] = stored[name].values
    sides = sides_um(cohort.images(lazy=False))[: len(table)]
    if (sides > 0).any():
        table[n.MPP] = np.where(sides > 0, sides, np.nan)
    table[n.STATE] = [n.STATE_MEANINGS[int(state)] for state in stored[n.STATE].values]
    table[n.REASON] = texts(stored[n.REASON])
    for name in (n.N_CELLS, n.N_POSITIVE):
        if name in stored:
            table[name] = _known(stored[name].values)
    if n.BACKGROUND in stored:
        for channel, values in _by_name(stored[n.BACKGROUND], n.CHANNEL):
            table[f"{n.BACKGROUND}_{channel}"] = values
    _add_regions(table, cohort)
    table[n.SECONDS] = stored[n.SECONDS].values
    if cohort.has(f"{n.POSITIVITY}/{run}"):
        rules = cohort.positivity(run)
        for name in (n.N_ALL, n.N_POSITIVE):
            for rule, values in _by_name(rules[name], n.RULE):
                table[f"{name}_{rule}"] = _known(values)[: len(table)]
    return _written(Path(path), [table])


def _add_regions(table: pd.DataFrame, cohort: Cohort) -> None:
    """The area of each region in each tile, in mm² where every tile tells the size of its pixels, else in px."""
    if not cohort.has(n.REGION_MASKS):
        return
    regions = cohort.regions(lazy=False)
    all_known = (sides_um(cohort.images(lazy=False)) > 0).all()
    unit, column = (n.REGION_MM2, n.AREA_MM2) if all_known else (n.REGION_PX, n.AREA_PX)
    for region, values in _by_name(regions[unit], n.REGION):
        areas = dict(zip(texts(regions[n.TILE]), values.tolist(), strict=True))
        table[f"{column}_{region}"] = [areas.get(str(tile)) for tile in table[n.TILE]]


def _labels(stored: xr.Dataset, run: str) -> pd.DataFrame:
    """Run, tile, donor, marker and split of every tile; repeated words are held once."""
    columns = {name: pd.Categorical(texts(stored[name])) for name in TILE_LABELS}
    return pd.DataFrame({n.RUN: pd.Categorical([run] * stored.sizes[n.TILE]), **columns})


def _cell_parts(
    cells: xr.Dataset, tiles: pd.DataFrame, sides: NDArray[np.float64]
) -> Iterator[tuple[xr.Dataset, pd.DataFrame]]:
    total = cells.sizes[n.CELL]
    for first in range(0, max(total, 1), CELLS_PER_CHUNK):
        part = cells.isel({n.CELL: slice(first, first + CELLS_PER_CHUNK)}).load()
        table = tiles.iloc[part[n.TILE_INDEX].values].reset_index(drop=True).astype(str)
        yield part, _with_values(table, part, sides)


def cell_table(
    part: xr.Dataset, stored: xr.Dataset, rules: xr.Dataset | None, sides: NDArray[np.float64]
) -> pd.DataFrame:
    """Measurements of a part of the cells of a run in memory, and whether they are positive under each of `rules`.

    `sides` (tile,) are those of pixels in um, 0 where they are not known.
    """
    bare = pd.DataFrame(index=range(part.sizes[n.CELL]))
    return _with_positive(part, _with_values(bare, part, sides), stored, rules)


def _with_values(table: pd.DataFrame, part: xr.Dataset, sides: NDArray[np.float64]) -> pd.DataFrame:
    for name in CELL_VALUES:
        if name in part:
            table[name] = part[name].values
    if (sides > 0).any():
        _add_um(table, np.where(sides > 0, sides, np.nan)[part[n.TILE_INDEX].values])
    if n.MEAN_INTENSITY in part:
        _add_by_channel(table, part[n.MEAN_INTENSITY])
    _add_measured(table, part, sides)
    return table


def measured_columns(cells: xr.Dataset) -> list[str]:
    """Names of those columns of `cells` that `measure` added, in the order of the alphabet."""
    return sorted(str(name) for name in cells.data_vars if is_measured(str(name)))


def _add_measured(table: pd.DataFrame, part: xr.Dataset, sides: NDArray[np.float64]) -> None:
    """Puts what was measured of the cells into `table`, lengths also in um where that of pixels is known."""
    for name in measured_columns(part):
        if n.CHANNEL in part[name].dims:
            _add_by_channel(table, part[name])
        elif name == n.REGION_CODE:
            table[n.REGION] = cell_regions(part)[n.REGION].values.astype(str)
        else:
            table[name] = part[name].values
    in_um = columns_in_um(part, sides)
    for name, column in in_um.items():
        table[name] = column.values


def _add_by_channel(table: pd.DataFrame, column: xr.DataArray) -> None:
    for channel, values in _by_name(column, n.CHANNEL):
        table[f"{column.name}_{channel}"] = values


def _add_um(table: pd.DataFrame, sides: NDArray[np.float64]) -> None:
    """Puts what is in px beside it in um; `sides` are those of a pixel of each row, NaN where it is not known.

    Positions count from the outer corner of the first pixel, whose centre is 0 in px.
    """
    if n.AREA_PX in table:
        table[n.AREA_UM2] = table[n.AREA_PX] * sides**2
    for px, um in ((n.CENTROID_Y, n.CENTROID_Y_UM), (n.CENTROID_X, n.CENTROID_X_UM)):
        table[um] = (table[px] + 0.5) * sides


def _with_positive(part: xr.Dataset, table: pd.DataFrame, stored: xr.Dataset, rules: xr.Dataset | None) -> pd.DataFrame:
    if rules is None:
        return table
    found = positive_cells(part, stored, rules)
    for (rule, positive), (_, decided) in zip(
        _by_name(found[n.POSITIVE], n.RULE), _by_name(found[n.DECIDED], n.RULE), strict=True
    ):
        table[f"{n.POSITIVE}_{rule}"] = pd.Series(positive).astype("boolean").mask(~decided)
    return table


def _by_name(array: xr.DataArray, dim: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for index, name in enumerate(texts(array[dim])):
        yield name, array.isel({dim: index}).values


def _known(counts: NDArray[Any]) -> pd.Series[Any]:
    """Counts with unknown ones, stored as -1, missing."""
    return pd.Series(counts).astype("Int64").mask(np.asarray(counts) < 0)


def _written(path: Path, parts: Iterable[pd.DataFrame]) -> Path:
    writers: dict[str, Callable[[Path, Iterable[pd.DataFrame]], None]] = {
        ".parquet": _write_parquet, ".tsv": _write_tsv,
    }  # fmt: skip
    if path.suffix not in writers:
        raise FintuneValueError(f"{path}: expected a name ending in {' or '.join(writers)}")
    first, parts = _peeked(parts)
    with whole_file(path) as place:
        writers[path.suffix](place, parts)
    if path.suffix == ".tsv":
        _write_schema(path, first)
    return path


def _peeked(parts: Iterable[pd.DataFrame]) -> tuple[pd.DataFrame, Iterable[pd.DataFrame]]:
    """The first part, and all of them."""
    rest = iter(parts)
    first = next(rest)
    return first, chain([first], rest)


def _write_parquet(place: Path, parts: Iterable[pd.DataFrame]) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for part in parts:
            table = pa.Table.from_pandas(part, preserve_index=False)
            if writer is None:
                writer = pq.ParquetWriter(place, _plain(table.schema), compression="zstd")
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()


def _plain(schema: pa.Schema) -> pa.Schema:
    """`schema` with text where an empty part had no type to tell."""
    fields: Sequence[pa.Field] = [
        field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema
    ]
    return pa.schema(fields)


def _write_tsv(place: Path, parts: Iterable[pd.DataFrame]) -> None:
    """Text in quotes, so that readers which mind them leave `007` as it is."""
    with place.open("w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            part.to_csv(
                file, sep="\t", index=False, header=number == 0, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC
            )


def _write_schema(table: Path, columns: pd.DataFrame) -> None:
    """`<table>.schema.json` beside a TSV: its columns in the words of the Table Schema, for programs that guess types.

    Reference: https://specs.frictionlessdata.io/table-schema. A tile `007` is text there and no number.
    """
    fields = [{"name": str(name), "type": _TYPES.get(column.dtype.kind, "string")} for name, column in columns.items()]
    with whole_file(table.with_name(f"{table.name}{SCHEMA_SUFFIX}")) as place:
        place.write_text(json.dumps({"fields": fields, "missingValues": [""]}, indent=1) + "\n", encoding="utf-8")
