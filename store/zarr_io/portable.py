"""Datasets as xarray's own tools and formats take them: plain text, attributes that NetCDF can hold, no encodings."""

from __future__ import annotations

import json
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.coding.common import lazy_elemwise_func

from fintune_xr.store.zarr_io.location import explain_read_errors

# Text of fixed width can be plotted and is known everywhere; labels of a very large cohort would fill the memory.
FIXED_WIDTH_BYTES: Final = 128 << 20
# Zarr v3 has no settled form for text of fixed width: xarray writes it with variable length.
AS_VARIABLE_TEXT: Final = {"dtype": object}


class Record(str):
    """An attribute with a structure: its JSON text, which every format holds, that answers for its parts by name.

    `Record({"seed": 3})["seed"]` is 3. Two are equal where what they hold is.
    """

    value: Any

    def __new__(cls, value: Any) -> Record:
        made = super().__new__(cls, json.dumps(value, ensure_ascii=False))
        made.value = value
        return made

    def __getnewargs__(self) -> tuple[Any]:
        return (self.value,)

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __contains__(self, key: object) -> bool:
        return key in self.value

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, Record) else other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return super().__hash__()

    def get(self, key: Any, default: Any = None) -> Any:
        """What is held under `key`."""
        return self.value.get(key, default)

    def keys(self) -> KeysView[str]:
        """Names of the parts."""
        return self.value.keys()  # type: ignore[no-any-return]

    def values(self) -> ValuesView[Any]:
        """The parts."""
        return self.value.values()  # type: ignore[no-any-return]

    def items(self) -> ItemsView[str, Any]:
        """Names and parts."""
        return self.value.items()  # type: ignore[no-any-return]


def portable(dataset: xr.Dataset) -> xr.Dataset:
    """`dataset` with text as plain `str`, structured attributes as `Record`, without encodings and without indexes.

    Labels are read at once, and have a fixed width where that takes little memory; all else is as lazy as before.
    """
    labels = {name: _label(variable) for name, variable in dataset.coords.variables.items()}
    variables = {name: _lazy(variable) for name, variable in dataset.data_vars.variables.items()}
    return xr.Dataset(variables, xr.Coordinates(labels, indexes={}), _attributes(dataset.attrs))


def plain_text(values: NDArray[Any]) -> NDArray[Any]:
    """`values` as text of fixed width where that takes little memory, else as objects; both plain `str`."""
    if values.dtype.kind == "U" and values.nbytes <= FIXED_WIDTH_BYTES:
        return values
    if values.dtype.kind == "T":
        return values.astype(_text_dtype(np.strings.str_len(values).max(initial=0), values.size))
    texts = [str(value) for value in values.ravel().tolist()]
    return np.array(texts, _text_dtype(max(map(len, texts), default=0), values.size)).reshape(values.shape)


def stored_attributes(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Attributes as they are stored: what a `Record` holds in its place."""
    return {str(name): _stored(value) for name, value in attrs.items()}


def _label(variable: xr.Variable) -> xr.Variable:
    if variable.dtype.kind != "T" or variable.ndim > 1:
        return _lazy(variable)
    return xr.Variable(variable.dims, plain_text(variable.values), _attributes(variable.attrs), AS_VARIABLE_TEXT)


class _Checked(BackendArray):
    """A stored array whose bytes, where they do not decode, are an error that names it, whenever they are read."""

    __slots__ = ("array", "dtype", "shape", "what")

    def __init__(self, array: Any, what: str) -> None:
        self.array, self.what = array, what
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, key: Any) -> Any:
        with explain_read_errors(self.what):
            return self.array[key]


def guard_decoding(dataset: xr.Dataset, what: str) -> xr.Dataset:
    """`dataset`, as xarray has opened it, that raises StoreDamagedError when values are read that do not decode."""
    for name, variable in dataset.variables.items():
        # xarray has laid its own wrappers around what reads; none of them needs to know.
        outer = variable._data
        while hasattr(outer, "array") and not isinstance(outer.array, BackendArray):
            outer = outer.array
        if hasattr(outer, "array"):
            outer.array = _Checked(outer.array, f"{what}/{name}")
    return dataset


def _lazy(variable: xr.Variable) -> xr.Variable:
    data, attrs = variable._data, _attributes(variable.attrs)
    if variable.dtype.kind == "T":
        data = lazy_elemwise_func(data, _objects, np.dtype(object))
    return xr.Variable(variable.dims, data, attrs)


def _text_dtype(widest: int, n_labels: int) -> np.dtype[Any]:
    fits = 4 * max(widest, 1) * n_labels <= FIXED_WIDTH_BYTES
    return np.dtype(f"U{max(widest, 1)}" if fits else object)


def _objects(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values).astype(object)


def _attributes(attrs: dict[Any, Any]) -> dict[Any, Any]:
    return {name: _attribute(value) for name, value in attrs.items() if value is not None}


def _attribute(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list) and value and all(type(part) in (int, float) for part in value):
        return value
    return Record(value) if isinstance(value, (dict, list)) else value


def _stored(value: Any) -> Any:
    if isinstance(value, Record):
        return _stored(value.value)
    if isinstance(value, dict):
        return {key: _stored(part) for key, part in value.items()}
    return [_stored(part) for part in value] if isinstance(value, (list, tuple)) else value
