"""A run as AnnData: its cells, or its tiles, by what was measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, MissingPackageError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.label_layers import Choice, chosen_tiles
from fintune_xr.store.export.tables import TILE_LABELS, cell_table
from fintune_xr.tasks.product import CLASSES, INSTANCES, SCORES
from fintune_xr.text import texts

SUFFIX: Final = ".h5ad"
SPATIAL: Final = "spatial"
# What of a run's columns becomes X where a row is a tile, and along which dim its names lie.
_OF_TILES: Final = {
    CLASSES.name: ((n.CLASS_PX, n.CLASS),),
    SCORES.name: ((n.EMBEDDING, n.FEATURE), (n.LOGITS, n.CLASS)),
}


def write_anndata(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """`folder/<run>.h5ad` of each chosen run, as soon as it is written.

    Of cells a row is a cell: X holds its mean raw intensity in each channel, `obsm["spatial"]` its centre (x, y) in px,
    `obs` tile, donor, marker, split, label, area and whether it is positive under each rule. Of maps of classes and of
    volumes a row is a tile that is done, and X holds its pixels of each class, or its features. AnnData is a format in
    memory: a whole run is held while it is written; name donors where that is too much.

    Raises MissingPackageError without anndata, UnknownNameError for a run, donor or tile that is not there,
    FintuneValueError where no run has rows.
    """
    anndata = required_anndata()
    runs = choice.runs or tuple(name for name in cohort.run_names() if _has_rows(cohort, name))
    if not runs:
        raise FintuneValueError(f"{cohort.url} has no run to export. Run: fintune-xr infer {cohort.url} --run R")
    rows = np.array(chosen_tiles(cohort, choice), np.int64)
    for run in runs:
        cohort.require_run(run)
        table = run_table(anndata, cohort, run, rows)
        path = folder / f"{run}{SUFFIX}"
        with whole_file(path) as place:
            table.write_h5ad(place)
        yield path


def required_anndata() -> Any:
    """The package anndata. Raises MissingPackageError where it is not installed."""
    try:
        import anndata
    except ImportError as error:
        raise MissingPackageError(
            "--to anndata needs the package anndata: pip install 'fintune-xr[anndata]'. Tables for everything else: "
            "--to tables"
        ) from error
    return anndata


def run_table(anndata: Any, cohort: Cohort, run: str, rows: np.ndarray[Any, Any]) -> Any:
    """The AnnData of a run, of the tiles at these positions."""
    if cohort.run_product(run) is INSTANCES:
        return _of_cells(anndata, cohort, run, rows)
    if cohort.run_product(run).name not in _OF_TILES:
        raise FintuneValueError(f"run {run!r} holds maps of probability: it has no table. Export its picks as csv.")
    return _of_tiles(anndata, cohort, run, rows)


def _has_rows(cohort: Cohort, run: str) -> bool:
    product = cohort.run_product(run)
    return product.name in _OF_TILES or (product is INSTANCES and cohort.has(f"{n.CELLS}/{run}"))


def _of_cells(anndata: Any, cohort: Cohort, run: str, rows: np.ndarray[Any, Any]) -> Any:
    cells, tiles = cohort.cells(run, lazy=False), cohort.run(run, lazy=False)
    of_tile = cells[n.TILE_INDEX].values
    part = cells.isel({n.CELL: np.flatnonzero(np.isin(of_tile, rows))}).load()
    rules = cohort.positivity(run) if cohort.has(f"{n.POSITIVITY}/{run}") else None
    measured = cell_table(part, tiles, rules, sides_um(cohort.images(lazy=False)))
    channels = texts(cells[n.CHANNEL])
    means = [f"{n.MEAN_INTENSITY}_{channel}" for channel in channels]
    labels = _labels(tiles, part[n.TILE_INDEX].values)
    names = pd.Index(labels[n.TILE].astype(str) + "#" + measured[n.LABEL].astype(str), dtype=object)
    obs = pd.concat([labels, measured.drop(columns=[*means, n.CENTROID_X, n.CENTROID_Y])], axis=1).set_index(names)
    return anndata.AnnData(
        X=measured[means].to_numpy(np.float32),
        obs=_plain(obs),
        var=pd.DataFrame(index=pd.Index(channels, dtype=object)),
        obsm={SPATIAL: measured[[n.CENTROID_X, n.CENTROID_Y]].to_numpy(np.float64)},
        uns={n.RUN: run, "units": "raw counts; px"},
    )


def _of_tiles(anndata: Any, cohort: Cohort, run: str, rows: np.ndarray[Any, Any]) -> Any:
    stored = cohort.run(run, lazy=False)
    done = np.array([row for row in rows if row < stored.sizes[n.TILE] and stored[n.STATE].values[row] == n.DONE], int)
    parts = [(stored[name], dim) for name, dim in _OF_TILES[cohort.run_product(run).name] if name in stored]
    values = np.concatenate([array.isel({n.TILE: done}).values.astype(np.float32) for array, _ in parts], axis=1)
    names = [name for array, dim in parts for name in _along(array, dim)]
    obs = _labels(stored, done).set_index(pd.Index(_labels(stored, done)[n.TILE].astype(str), dtype=object))
    var = pd.DataFrame(index=pd.Index(names, dtype=object))
    return anndata.AnnData(X=values, obs=_plain(obs), var=var, uns={n.RUN: run})


def _along(array: xr.DataArray, dim: str) -> list[str]:
    told = texts(array[dim]) if dim in array.coords else [str(at) for at in range(array.sizes[dim])]
    return [f"{array.name}_{one}" for one in told]


def _labels(tiles: xr.Dataset, rows: np.ndarray[Any, Any]) -> pd.DataFrame:
    columns = {name: np.array(texts(tiles[name]), object)[rows] for name in TILE_LABELS}
    return pd.DataFrame({name: pd.Categorical(values) for name, values in columns.items()})


def _plain(obs: pd.DataFrame) -> pd.DataFrame:
    """`obs` with text as objects: what pandas 3 keeps text in is not written by every release of anndata."""
    told = obs.copy()
    for name in told:
        if isinstance(told[name].dtype, pd.StringDtype):
            told[name] = pd.Categorical(told[name].astype(object))
        if isinstance(told[name].dtype, pd.CategoricalDtype):
            told[name] = told[name].cat.rename_categories([str(one) for one in told[name].cat.categories])
            told[name] = told[name].cat.set_categories(told[name].cat.categories.astype(object))
    told.index.name = None
    return told
