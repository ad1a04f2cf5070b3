"""Columns of a run, a value or a few for each tile: made, grown with the cohort, and set back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError
from fintune_xr.provenance import differences
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.zarr_io.groups import ROWS_PER_CHUNK, create_column, open_column, read_column, write_rows
from fintune_xr.store.zarr_io.location import Location, sync_arrays
from fintune_xr.tasks.product import Product

Sizes: TypeAlias = Mapping[str, int | Sequence[str]]
"""What lies along the further dims of the columns: the names, where the schema has a coordinate of the dim, else how
many there are."""


def stored_columns(location: Location, path: str, product: Product) -> tuple[str, ...]:
    """The columns of `product` that the run under `path` was made with, `state` last."""
    return tuple(
        name
        for name in product.columns
        if product.run[name].required or location.size(f"{path}/{name}/zarr.json") is not None
    )


def create_columns(location: Location, group: zarr.Group, product: Product, sizes: Sizes, tiles: NDArray[Any]) -> None:
    """Makes the columns of a run of `tiles` (tile,), of which nothing is known, and what does not grow with them.

    A column that is not required is made where `sizes` tells the length of each of its dims.

    Raises FintuneValueError where `sizes` lacks a dim of a required column, or has one that none is along.
    """
    schema, lengths = product.run, _lengths(product.run, sizes)
    for name in (n.TILE, *product.columns):
        spec = schema[name]
        unknown = [dim for dim in spec.dims[1:] if dim not in lengths]
        if not unknown:
            column = create_column(group, name, spec, shape=(len(tiles), *(lengths[dim] for dim in spec.dims[1:])))
            column[:] = _unknown(product, name, tiles, column)
        elif spec.required:
            raise FintuneValueError(f"a run of {schema.name}: {name} needs the size of {', '.join(unknown)}")
    group[n.STATE].attrs["flag_meanings"] = " ".join(n.STATE_MEANINGS.values())
    _create_labels(location, group, schema, sizes)
    _sync_rows(location, group.path, stored_columns(location, group.path, product), range(len(tiles)))


def _create_labels(location: Location, group: zarr.Group, schema: DatasetSchema, sizes: Sizes) -> None:
    """The coordinates that name what lies along a dim."""
    lengths = _lengths(schema, sizes)
    for name in _labelled(schema):
        if name in sizes:
            create_column(group, name, schema[name], shape=(lengths[name],))
            open_column(location, f"{group.path}/{name}")[:] = np.asarray(sizes[name], np.dtypes.StringDType())
        elif schema[name].required:
            raise FintuneValueError(f"a run of {schema.name}: expected the names along {name}")


def require_same_sizes(
    location: Location, path: str, product: Product, sizes: Sizes, columns: Mapping[str, zarr.Array[Any]]
) -> None:
    """Raises RunMismatchError where the run under `path`, of these opened `columns`, was made with other sizes."""
    stored = _stored_sizes(location, path, product, columns)
    now = {dim: size if isinstance(size, int) else list(map(str, size)) for dim, size in sizes.items()}
    differing = differences(stored, now)
    if differing:
        lines = [f"{dim}: stored {there}, now {here}" for dim, (there, here) in differing.items()]
        raise RunMismatchError(
            "\n  ".join([f"{path} was made with other sizes:", *lines])
            + "\nChoose another --run name, or --restart to throw the stored run away."
        )


def _stored_sizes(
    location: Location, path: str, product: Product, columns: Mapping[str, zarr.Array[Any]]
) -> dict[str, int | list[str]]:
    """Sizes as they were given when the run was made, but for those of the cohort."""
    found: dict[str, int | list[str]] = {}
    for name, column in columns.items():
        found |= dict(zip(product.run[name].dims[1:], column.shape[1:], strict=True))
    labelled = [name for name in _labelled(product.run) if location.size(f"{path}/{name}/zarr.json") is not None]
    found |= {name: list(map(str, read_column(location, f"{path}/{name}").tolist())) for name in labelled}
    found.pop(n.CHANNEL, None)
    return found


def grow_columns(location: Location, path: str, product: Product, tiles: NDArray[Any], *, before: int) -> None:
    """Adds rows from `before` on for these `tiles` (tile,), each with what stands where nothing is known."""
    names = stored_columns(location, path, product)
    for name in (n.TILE, *names):
        column = open_column(location, f"{path}/{name}")
        write_rows(location, f"{path}/{name}", before, _unknown(product, name, tiles, column))
    _sync_rows(location, path, names, range(before, before + len(tiles)))


def _unknown(product: Product, name: str, tiles: NDArray[Any], column: zarr.Array[Any]) -> NDArray[Any]:
    """Rows of a column for these `tiles` (tile,), of which nothing is known yet."""
    rows = np.empty((len(tiles), *column.shape[1:]), column.dtype)
    rows[:] = tiles if name == n.TILE else product.initial(name)
    return rows


def _sync_rows(location: Location, path: str, names: Sequence[str], rows: range) -> None:
    """Forces these rows of columns, and of the ids of the tiles, to the disk."""
    touched = range(rows.start // ROWS_PER_CHUNK, rows.stop // ROWS_PER_CHUNK + 1)
    sync_arrays(location, {f"{path}/{name}": touched for name in (n.TILE, *names)})


def set_back(location: Location, path: str, rows: NDArray[np.int64], value: Any) -> None:
    """Puts `value` into rows of a column; a chunk whose rows are all among them is not read before."""
    column = open_column(location, path)
    for chunk in np.unique(rows // ROWS_PER_CHUNK):
        first = int(chunk) * ROWS_PER_CHUNK
        last = min(first + ROWS_PER_CHUNK, column.shape[0])
        here = rows[rows // ROWS_PER_CHUNK == chunk]
        if here.size == last - first:
            column[first:last] = value
        else:
            values = read_column(location, path, slice(first, last))
            values[here - first] = value
            column[first:last] = values


def _labelled(schema: DatasetSchema) -> list[str]:
    """Coordinates that name what lies along a dim, but for the tiles."""
    return [name for name, spec in schema.coords.items() if spec.dims == (name,) and name != n.TILE]


def _lengths(schema: DatasetSchema, sizes: Sizes) -> dict[str, int]:
    known = {dim for spec in schema.variables.values() for dim in spec.dims} - {n.TILE}
    labelled = _labelled(schema)
    for dim, size in sizes.items():
        if dim not in known:
            raise FintuneValueError(f"a run of {schema.name} has nothing along {dim}; dims: {', '.join(sorted(known))}")
        if isinstance(size, (int, np.integer)) == (dim in labelled):
            expected = "the names" if dim in labelled else "the number"
            raise FintuneValueError(f"a run of {schema.name}: expected {expected} along {dim}, got {size!r}")
    return {dim: size if isinstance(size, int) else len(size) for dim, size in sizes.items()}
