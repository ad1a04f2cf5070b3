"""A run's cells and tiles as tables, Parquet or TSV, written part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from fintune_xr.store.labels.cell_table import positive_cells
from fintune_xr.store.zarr_io.groups import CELLS_PER_CHUNK
from fintune_xr.text import texts

TILE_LABELS: Final = (n.TILE, n.DONOR, n.MARKER, n.SPLIT)
CELL_VALUES: Final = (n.LABEL, n.AREA_PX, n.CENTROID_Y, n.CENTROID_X, n.SCORE)


def write_cells(cohort: Cohort, run: str, path: Path | str) -> Path:
    """`path`, holding one row per cell of a run: run, tile, donor, marker, split, label, area, centroid, means.

    Columns `mean_intensity_<channel>` are raw counts, lengths are px; where the size of a pixel is known of some tiles,
    `area_um2`, `centroid_y_um` and `centroid_x_um` stand beside, empty for the others. With stored positivity rules
    there is a column `positive_<rule>`, empty where the rule could not tell. A run that holds probabilities has
    candidates with a score instead of area and means. The suffix of `path` says whether it is Parquet or TSV. Memory
    holds one part of the rows and the labels of the tiles.

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

    `mpp` is the side of a pixel in um, where it is known of some tiles, and empty for the others.

    `n_cells` and `n_positive` are empty where they are unknown; with stored positivity rules there are columns
    `n_all_<rule>` and `n_positive_<rule>` too. The suffix of `path` says whether it is Parquet or TSV.

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
    table[n.SECONDS] = stored[n.SECONDS].values
    if cohort.has(f"{n.POSITIVITY}/{run}"):
        rules = cohort.positivity(run)
        for name in (n.N_ALL, n.N_POSITIVE):
            for rule, values in _by_name(rules[name], n.RULE):
                table[f"{name}_{rule}"] = _known(values)[: len(table)]
    return _written(Path(path), [table])


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
        for channel, values in _by_name(part[n.MEAN_INTENSITY], n.CHANNEL):
            table[f"{n.MEAN_INTENSITY}_{channel}"] = values
    return table


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
    with whole_file(path) as place:
        writers[path.suffix](place, parts)
    return path


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
    with place.open("w", encoding="utf-8", newline="") as file:
        for number, part in enumerate(parts):
            part.to_csv(file, sep="\t", index=False, header=number == 0, lineterminator="\n")
