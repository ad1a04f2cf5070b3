"""Small labelled datasets in the store: written beside the old ones, then put in their place."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.dtype import VariableLengthUTF8

from fintune_xr import names as n
from fintune_xr.errors import StoreDamagedError
from fintune_xr.schema import DatasetSchema, VariableSpec, check_dataset
from fintune_xr.store.zarr_io.label_index import LabelIndex
from fintune_xr.store.zarr_io.location import Location, explain_read_errors, explain_write_errors
from fintune_xr.store.zarr_io.locks import hold_replacement
from fintune_xr.store.zarr_io.portable import guard_decoding, portable, stored_attributes
from fintune_xr.store.zarr_io.recovery import GONE, OLD, recover_group, staging_prefix
from fintune_xr.store.zarr_io.refusals import explain_refusals

ROWS_PER_CHUNK = 4096
CELLS_PER_CHUNK = 65536

_CANNOT_BE_OPENED = (
    "{what} cannot be opened: {error}. A step was interrupted while it wrote; run the same command again."
)

# What compressors of these settings say when they shall compress something: asked once in a process.
_FAULTS: dict[str, str] = {}


def create_column(
    group: zarr.Group, name: str, spec: VariableSpec, *, shape: tuple[int, ...], rows: int = ROWS_PER_CHUNK
) -> zarr.Array[Any]:
    """A new array of small values, `rows` along its first dim in one checksummed chunk."""
    data_type: Any = VariableLengthUTF8() if spec.dtype == "str" else np.dtype(spec.dtype)
    return group.create_array(
        name,
        shape=shape,
        dtype=data_type,
        chunks=(rows, *(max(1, size) for size in shape[1:])),
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=spec.dims,
        attributes=spec.attrs,
        config={"write_empty_chunks": True},
    )


def open_writable(location: Location, path: str) -> zarr.Group:
    """An existing group, for writing attributes and adding arrays.

    Raises StoreDamagedError where what lies there is no group.
    """
    with explain_read_errors(f"{location.url}/{path}"):
        return zarr.open_group(location.zarr(read_only=False), path=path, mode="r+")


def read_attrs(location: Location, path: str = "") -> dict[str, Any]:
    """Attributes of a group, of the store itself by default. Raises StoreDamagedError where no group can be read."""
    with explain_read_errors(f"{location.url}/{path}".rstrip("/")):
        return location.group_attributes(path)


def open_column(location: Location, path: str) -> zarr.Array[Any]:
    """An existing array, for writing; chunks of zeros are written, so that an absent one is damage.

    Raises StoreDamagedError where its description tells of codecs that write nothing.
    """
    column = location.array(path, read_only=False)
    if fault := codecs_fault(column):
        raise StoreDamagedError(
            f"{location.url}/{path} cannot be written: the codecs that its description tells of fail ({fault}). "
            "Run `fintune-xr check` to list what is damaged and how to repair it."
        )
    return column


def codecs_fault(column: zarr.Array[Any]) -> str:
    """Why the codecs of an array write nothing, empty where they do; what they are set to is not looked at before."""
    if column.shards is not None:
        return ""
    known = repr(column.compressors)
    if known not in _FAULTS:
        _FAULTS[known] = _compression_fault(column.compressors)
    return _FAULTS[known]


def _compression_fault(compressors: Any) -> str:
    try:
        zarr.create_array({}, shape=(1,), dtype="uint8", compressors=compressors)[:] = 1
    except Exception as error:  # noqa: BLE001 - in memory: whatever fails is the codecs' fault
        return str(error)
    return ""


def read_column(location: Location, path: str, rows: slice = slice(None)) -> NDArray[Any]:
    """Values of a small array; raises StoreDamagedError where a chunk is missing or does not decode."""
    with explain_read_errors(f"{location.url}/{path}"):
        return np.asarray(location.array(path)[rows])


def write_rows(location: Location, path: str, first: int, values: NDArray[Any]) -> None:
    """Makes `values` the rows of an array from `first` to its new end.

    Raises StoreDamagedError where the row before `first` is in the same chunk and cannot be read: zarr would write
    zeros over it.
    """
    column = open_column(location, path)
    if first % column.chunks[0]:
        with explain_read_errors(f"{location.url}/{path}"):
            location.array(path)[first - 1 : first]
    column.resize((first + len(values), *column.shape[1:]))
    column[first:] = values


def group_attrs(schema: DatasetSchema, **attrs: Any) -> dict[str, Any]:
    """Attributes of a group: its schema, and the coordinates that xarray should restore as such."""
    extra = [name for name, spec in schema.coords.items() if spec.dims != (name,)]
    return {"schema": schema.name, "schema_version": schema.version, "coordinates": " ".join(extra), **attrs}


def open_dataset(location: Location, path: str, schema: DatasetSchema | None, *, lazy: bool = True) -> xr.Dataset:
    """The dataset stored under `path`, checked against `schema`, each dim with its index; Dask-backed when `lazy`.

    Raises as `open_unindexed` does.
    """
    return with_dim_indexes(open_unindexed(location, path, schema, lazy=lazy))


def with_dim_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """`dataset` with an index for every dim that has labels and no index yet."""
    bare = [name for name in dataset.dims if name in dataset.coords and name not in dataset.xindexes]
    for name in bare:
        dataset = dataset.set_xindex([name], LabelIndex if dataset[name].dtype.kind in "OU" else None)
    return dataset


def open_unindexed(location: Location, path: str, schema: DatasetSchema | None, *, lazy: bool = True) -> xr.Dataset:
    """The dataset stored under `path` without any index: one of a million labels costs a second and 100 MB.

    Raises StoreDamagedError where arrays disagree in length or the group was left half-written, and
    SchemaError where an array is not what the schema declares.
    """
    store: Any = location.zarr()
    with explain_read_errors(f"{path} in {location.url}", _CANNOT_BE_OPENED):
        dataset = xr.open_dataset(
            store, engine="zarr", group=path, consolidated=False, chunks=None, decode_coords="coordinates",
            mask_and_scale=False, decode_times=False, decode_timedelta=False, create_default_indexes=False,
        )  # fmt: skip
    if dataset.attrs.get(n.COMPLETE) is False:
        raise StoreDamagedError(f"{path} in {location.url} was left half-written. Run the step that makes it again.")
    if schema is not None:
        check_dataset(dataset, schema)
    with explain_read_errors(f"{location.url}/{path}"):
        plain = _in_order(portable(guard_decoding(dataset, f"{location.url}/{path}")), schema)
    return in_blocks(plain) if lazy else plain


def _in_order(dataset: xr.Dataset, schema: DatasetSchema | None) -> xr.Dataset:
    """`dataset` with its variables as the schema lists them, others after them by name: a folder has no order.

    Coordinates come last: dims have the order in which variables name them, outer ones first.
    """
    declared = [*schema.variables, *schema.coords] if schema is not None else []
    place = {name: at for at, name in enumerate(declared)}
    return dataset[sorted(dataset.variables, key=lambda name: (place.get(str(name), len(place)), str(name)))]


def replace_group(location: Location, path: str, dataset: xr.Dataset, schema: DatasetSchema | None) -> None:
    """Stores `dataset` under `path` in place of what was there.

    The new group is written whole beside the old one first; a kill leaves the old or the new one, or, between
    two renames, neither: then the next `open_cohort` puts the old one back.

    Raises RunBusyError where another process replaces the same group.
    """
    if schema is not None:
        check_dataset(dataset, schema)
    fresh = f"{staging_prefix(path)}{uuid.uuid4().hex}" if location.is_local else path
    with hold_replacement(location, path), explain_write_errors(f"{location.url}/{path}"):
        recover_group(location, path)
        for child in (fresh, path):
            if "/" in child:
                ensure_group(location, child.rpartition("/")[0])
        _write(location, fresh, dataset, schema)
        if location.is_local:
            _put_in_place(location, fresh, path)


def group_exists(location: Location, path: str) -> bool:
    """Whether a group is stored under `path`."""
    return location.size(f"{path}/zarr.json") is not None


def subgroups(location: Location, path: str) -> list[str]:
    """Names of the groups right under `path`, sorted; empty where there are none."""
    if not group_exists(location, path):
        return []
    if location.is_local:
        # Without reading them: one that is damaged must not hide the others.
        with explain_refusals(f"{location.url}/{path}"):
            names = sorted(entry.name for entry in (location.path / path).iterdir())
        return [name for name in names if group_exists(location, f"{path}/{name}")]
    return sorted(zarr.open_group(location.zarr(), path=path, mode="r").group_keys())


def ensure_group(location: Location, path: str, attrs: Mapping[str, Any] | None = None) -> zarr.Group:
    """The group under `path`, made with `attrs` where it is missing."""
    with explain_write_errors(f"{location.url}/{path}"):
        if group_exists(location, path):
            return open_writable(location, path)
        return zarr.open_group(
            location.zarr(read_only=False), path=path, mode="a", zarr_format=3, attributes=dict(attrs or {})
        )


def remove_group(location: Location, path: str) -> None:
    """Removes a group and all in it; it vanishes at once, then its files are deleted."""
    location.forget_repeated(path)
    if not location.is_local:
        location.remove(path)
    elif (location.path / path).exists():
        ensure_group(location, n.STAGING)
        gone = location.path / n.STAGING / f"{GONE}{uuid.uuid4().hex}"
        (location.path / path).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def is_complete(location: Location, path: str) -> bool:
    """Whether a group exists and was written to its end."""
    if not group_exists(location, path):
        return False
    return bool(read_attrs(location, path).get(n.COMPLETE))


def in_blocks(dataset: xr.Dataset) -> xr.Dataset:
    """Dask-backed variables, cut alike along each dim, as functions over blocks of a dataset ask for.

    Pixels are in chunks of one tile, because a shard of tiles may not fit in memory; columns alone in as many rows as
    are stored together. Columns beside pixels are left to xarray's own laziness: cut as those are, each would be a task
    for every tile. So is text, which needs to be looked at when it is written.
    """
    numbers = {name: array for name, array in dataset.data_vars.variables.items() if array.dtype.kind != "O"}
    along_tiles = {name for name, array in numbers.items() if n.TILE in array.dims}
    pixels = {name for name in along_tiles if n.Y in numbers[name].dims}
    beside = along_tiles - pixels if pixels else set()
    rows = 1 if pixels else ROWS_PER_CHUNK
    # The variables alone: to chunk data arrays would make a graph of each of their coordinates too.
    return dataset.assign(
        {k: v.chunk({n.TILE: rows} if k in along_tiles else {}) for k, v in numbers.items() if k not in beside}
    )


def _write(location: Location, path: str, dataset: xr.Dataset, schema: DatasetSchema | None) -> None:
    attrs = {**stored_attributes(dataset.attrs), n.COMPLETE: False}
    if schema is not None:
        attrs |= {"schema": schema.name, "schema_version": schema.version}
    store = location.zarr(read_only=False)
    described = _with_variable_text(_with_meanings(dataset.assign_attrs(attrs), schema))
    encoding = {str(name): _encoding(array) for name, array in described.variables.items()}
    described.drop_encoding().to_zarr(
        store, group=path, mode="w", consolidated=False, encoding=encoding, zarr_format=3,
        write_empty_chunks=True,
    )  # fmt: skip
    open_writable(location, path).attrs[n.COMPLETE] = True


def _with_meanings(dataset: xr.Dataset, schema: DatasetSchema | None) -> xr.Dataset:
    """Variables that say neither unit nor meaning say what the schema does, whatever they were put together from."""
    known = {**schema.variables, **schema.coords} if schema is not None else {}
    described = dataset.copy()
    for name, spec in known.items():
        if name in described.variables:
            array = described.variables[name]
            array.attrs = {"units": spec.units, "long_name": spec.meaning, **array.attrs}
    return described


def _with_variable_text(dataset: xr.Dataset) -> xr.Dataset:
    """Fixed-width text has no settled form in Zarr v3; stored text is always of variable length."""
    stored = {}
    for name, array in dataset.variables.items():
        text = array.dtype.kind in "UO"
        values = array.values.astype(np.dtypes.StringDType()) if text else array._data
        stored[name] = xr.Variable(array.dims, values, stored_attributes(array.attrs), array.encoding)
    coords = {name: array for name, array in stored.items() if name in dataset.coords}
    variables = {name: array for name, array in stored.items() if name not in coords}
    return xr.Dataset(variables, xr.Coordinates(coords, indexes={}), dataset.attrs)


def _encoding(array: xr.Variable) -> dict[str, Any]:
    if array.ndim == 0:
        return {}
    chunks = {"chunks": tuple(sizes[0] for sizes in array.chunks)} if array.chunks else {}
    return {
        **chunks,
        "compressors": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
        "chunk_key_encoding": {"name": "default", "separator": "."},
    }


def _put_in_place(location: Location, fresh: str, path: str) -> None:
    target = location.path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    old = location.path / f"{fresh}{OLD}"
    if target.exists():
        target.rename(old)
    (location.path / fresh).rename(target)
    remove_group(location, f"{fresh}{OLD}")
