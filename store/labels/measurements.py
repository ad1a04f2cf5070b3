"""Measured columns of the cells of a run, each a group of its own, and whether they are of the cells there now."""

from __future__ import annotations

from typing import Any

import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import AnswerError
from fintune_xr.store.zarr_io.groups import (
    group_exists,
    is_complete,
    open_unindexed,
    read_attrs,
    read_column,
    subgroups,
)
from fintune_xr.store.zarr_io.location import Location, explain_read_errors
from fintune_xr.tasks.cell_measures import CellMeasure, cell_measure


def measurement_path(run: str, column: str = "") -> str:
    """Group of a measured column, or of all those of a run."""
    return f"{n.MEASUREMENTS}/{run}/{column}".rstrip("/")


def measurement_identity(location: Location, run: str, measure: CellMeasure) -> dict[str, Any]:
    """What a column rests on now: its definition, and the cells it is of and measured to, by run."""
    digests = {one: cells_digest(location, one) for one in filter(None, (run, measure.to))}
    regions = {n.REGION_MASKS: region_facts(location)} if measure.column == n.REGION_CODE else {}
    return {n.DEFINITION: {"text": measure.definition, n.VERSION: measure.version}, n.CELLS: digests, **regions}


def region_facts(location: Location) -> dict[str, Any]:
    """Digest of the stored masks of regions, and the name of each code; empty where there are none, or not all yet."""
    if not is_complete(location, n.REGION_MASKS):
        return {}
    with explain_read_errors(f"{location.url}/{n.REGION_MASKS}"):
        told = location.array(f"{n.REGION_MASKS}/{n.REGION_MASK}").attrs.asdict()
        digest = read_attrs(location, n.REGION_MASKS)[n.DIGEST]
    return {n.DIGEST: digest, **{name: told[name] for name in (n.FLAG_VALUES, n.FLAG_MEANINGS)}}


def stored_identity(location: Location, run: str, column: str) -> dict[str, Any]:
    """What a stored column rests on."""
    found: dict[str, Any] = read_attrs(location, measurement_path(run, column))[n.IDENTITY]
    return found


def cells_digest(location: Location, run: str) -> str:
    """Digest of the ordered table of cells of a run; empty where there is none, or none was taken."""
    path = f"{n.CELLS}/{run}"
    return str(read_attrs(location, path).get(n.DIGEST, "")) if group_exists(location, path) else ""


def measurement_doubt(location: Location, run: str, column: str) -> str:
    """Why a stored column cannot be used for the cells that are there now; empty where it can."""
    path = measurement_path(run, column)
    try:
        stored = read_attrs(location, path)
        now = measurement_identity(location, run, cell_measure(column))
        if not stored.get(n.COMPLETE) or (read_column(location, f"{path}/{n.STATE}") != n.DONE).any():
            return "it is not finished"
        was = stored[n.IDENTITY]
    except AnswerError as error:
        return str(error)
    others = [name for name, digest in now[n.CELLS].items() if not digest or was[n.CELLS].get(name) != digest]
    if others:
        return f"the cells of {' and '.join(others)} are others now"
    if was.get(n.REGION_MASKS) != now.get(n.REGION_MASKS):
        return "the regions are others now"
    return "" if was[n.DEFINITION] == now[n.DEFINITION] else "its definition is another one now"


def _flags(location: Location, path: str) -> dict[str, Any]:
    """What the codes of a column mean, as CF says it; nothing of a column that holds none."""
    told = read_attrs(location, path)[n.IDENTITY].get(n.REGION_MASKS, {})
    return {name: told[name] for name in (n.FLAG_VALUES, n.FLAG_MEANINGS) if name in told}


def left_out_columns(location: Location, run: str) -> list[str]:
    """The measured columns of a run that cannot be used, each with the reason."""
    doubts = {column: measurement_doubt(location, run, column) for column in subgroups(location, measurement_path(run))}
    return [f"{column}: {told}" for column, told in doubts.items() if told]


def with_measurements(location: Location, run: str, cells: xr.Dataset) -> xr.Dataset:
    """`cells` of a run, opened without Dask, with the measured columns that can be used; nothing of them is read.

    Why others cannot, the attribute LEFT_OUT_COLUMNS tells, a line for each.
    """
    found = {}
    left_out = left_out_columns(location, run)
    unusable = {told.partition(":")[0] for told in left_out}
    for column in subgroups(location, measurement_path(run)):
        if column in unusable:
            continue
        measure = cell_measure(column)
        path = measurement_path(run, column)
        stored = open_unindexed(location, path, measure.schema, lazy=False)[n.VALUE].variable
        found[column] = stored.copy(deep=False)
        found[column].attrs = {"units": measure.units, "long_name": measure.definition, **_flags(location, path)}
    told_of = {n.LEFT_OUT_COLUMNS: "\n".join(left_out)} if left_out else {}
    return cells.assign(found).assign_attrs(told_of)
