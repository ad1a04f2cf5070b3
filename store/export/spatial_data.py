"""Chosen tiles as one SpatialData: images, label images of runs and annotations, and a table of each run's cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, MissingPackageError
from fintune_xr.execution.whole_file import whole_folder
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.annotated_data import required_anndata, run_table
from fintune_xr.store.export.label_layers import Choice, chosen_tiles, label_layers
from fintune_xr.store.labels.ome_zarr import pixel_sides
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.text import texts

FILE: Final = "tiles.sdata.zarr"
REGION_KEY: Final = "element"
"""Column of a table that names the label image of each row."""


def write_spatialdata(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """`folder/tiles.sdata.zarr` with all chosen tiles, whole or not at all.

    An image (c, y, x) of each tile under its name, `<run>.<tile>` and `annotated.<tile>` (y, x) where there are labels,
    and for each run of cells a table as `write_anndata` makes it, which names the label image and label of each row.
    Each tile has a coordinate system of its own, in um where it tells the size of its pixels and else in px.
    SpatialData is a format of some tiles and no cohort's: all of them are in memory.

    Raises FintuneValueError where no tile or donor is named, or two tiles have one name there, MissingPackageError
    without spatialdata, UnknownNameError for a run, donor or tile that is not there.
    """
    if not (choice.donors or choice.tiles):
        raise FintuneValueError("--to spatialdata is of some tiles, which it holds in memory: name --donor or --tile")
    package, rows = _required(), chosen_tiles(cohort, choice)
    images, layers = cohort.images(lazy=False), label_layers(cohort, choice.runs)
    names, channels = _element_names([texts(images[n.TILE])[at] for at in rows]), texts(images[n.CHANNEL])
    frames = {
        at: _frame(package, name, pixel_sides(images.isel({n.TILE: [at]})))
        for at, name in zip(rows, names, strict=True)
    }
    shown: dict[str, Any] = {
        name: package.models.Image2DModel.parse(
            tile_pixels(images, at), dims=("c", "y", "x"), c_coords=channels, transformations=frames[at]
        )
        for at, name in zip(rows, names, strict=True)
    }
    labels: dict[str, Any] = {}
    for layer in layers:
        for at, name in zip(rows, names, strict=True):
            found = layer.of_tile(images, at)
            if found is not None:
                labels[f"{layer.name}.{name}"] = package.models.Labels2DModel.parse(
                    found.astype(np.int64), dims=("y", "x"), transformations=frames[at]
                )
    runs = [layer.name for layer in layers if layer.name in cohort.run_names()]
    of_tile = dict(zip((texts(images[n.TILE])[at] for at in rows), names, strict=True))
    tables = {
        run: _table(package, cohort, run, rows, {tile: f"{run}.{name}" for tile, name in of_tile.items()}, labels)
        for run in runs
        if cohort.run_product(run) is INSTANCES and cohort.has(f"{n.CELLS}/{run}")
    }
    yield _written(package.SpatialData(images=shown, labels=labels, tables=tables), folder / FILE)


def _required() -> Any:
    """The package spatialdata. Raises MissingPackageError where it, or what it asks for, is not installed."""
    try:
        import spatialdata
        import spatialdata.models
        import spatialdata.transformations
    except ImportError as error:
        raise MissingPackageError(
            f"--to spatialdata needs the package spatialdata ({error}): pip install 'fintune-xr[spatialdata]'. Images "
            "and labels for everything else: --to ome-zarr"
        ) from error
    return spatialdata


def _element_names(tiles: Sequence[str]) -> list[str]:
    """Names of letters, digits and `_.-`, as SpatialData wants them. Raises FintuneValueError where two are alike."""
    names = [safe_name(tile).replace("%", "-") for tile in tiles]
    first: dict[str, str] = {}
    for tile, name in zip(tiles, names, strict=True):
        other = first.setdefault(name.lower(), tile)
        if other != tile:
            raise FintuneValueError(
                f"tiles {other!r} and {tile!r} are both called {name!r} in SpatialData; export them one at a time"
            )
    return names


def _frame(package: Any, name: str, sides: Mapping[str, float]) -> dict[str, Any]:
    """The coordinate system of a tile: px, or um where its `sides` are known."""
    made = package.transformations
    known = [sides.get(axis, 0.0) for axis in (n.Y, n.X)]
    return {name: made.Scale(known, axes=("y", "x")) if all(known) else made.Identity()}


def _table(
    package: Any, cohort: Cohort, run: str, rows: Sequence[int], element: Mapping[str, str], labels: Mapping[str, Any]
) -> Any:
    table = run_table(required_anndata(), cohort, run, np.array(rows, np.int64))
    of_rows = [element[tile] for tile in table.obs[n.TILE].astype(str)]
    there = [name for name in element.values() if name in labels]
    table.obs[REGION_KEY] = pd.Categorical(of_rows, categories=pd.Index(there, dtype=object))
    table.obs[n.LABEL] = table.obs[n.LABEL].astype(np.int64)
    return package.models.TableModel.parse(table, region=there, region_key=REGION_KEY, instance_key=n.LABEL)


def _written(data: Any, path: Path) -> Path:
    with whole_folder(path) as partial:
        data.write(partial, update_sdata_path=False)
    return path
