"""Declared shapes of datasets, checked by metadata only and at the doors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from fintune_xr.errors import SchemaError


@dataclass(frozen=True, slots=True)
class VariableSpec:
    """What one stored array must look like.

    `dtype` is what a new array is created with; `kinds` are the NumPy dtype
    kinds accepted on reading (by default the kind of `dtype`). Values are stored
    divided by `scale`, which readers of CF attributes, such as xarray, undo.

    `initial` is what stands where nothing is known yet: in the rows of tiles that are pending or failed, and, of an
    array of pixels, around and in place of tiles without any. Columns without one are written with all their values.
    `missing` is the value that stands for one that is not known: readers of CF attributes see no number there.
    """

    dims: tuple[str, ...]
    dtype: str
    meaning: str
    units: str = "1"
    kinds: str = ""
    required: bool = True
    scale: float = 1.0
    initial: int | float | str | None = None
    missing: int | None = None

    @property
    def accepted_kinds(self) -> str:
        """NumPy dtype kinds that a stored array of this variable may have."""
        if self.kinds:
            return self.kinds
        return (
            "TUO"
            if self.dtype == "str"
            else {"uint": "u", "int": "i", "float": "f", "bool": "b"}[self.dtype.rstrip("0123456789")]
        )

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes written with the stored array."""
        scaled = {} if self.scale == 1.0 else {"scale_factor": self.scale}
        filled = {} if self.missing is None else {"_FillValue": self.missing}
        return {"units": self.units, "long_name": self.meaning, **scaled, **filled}


@dataclass(frozen=True, slots=True)
class DatasetSchema:
    """Name, version and arrays of one group of the store."""

    name: str
    version: int
    variables: Mapping[str, VariableSpec]
    coords: Mapping[str, VariableSpec] = field(default_factory=dict)

    def __getitem__(self, name: str) -> VariableSpec:
        return self.variables[name] if name in self.variables else self.coords[name]


def check_dataset(dataset: xr.Dataset, schema: DatasetSchema) -> xr.Dataset:
    """`dataset` itself, once every array is known to fit `schema`.

    Raises SchemaError naming all problems at once; values are never read.
    """
    problems: list[str] = []
    for kind, specs, present in (
        ("variable", schema.variables, dataset.variables),
        ("coordinate", schema.coords, dataset.coords),
    ):
        for name, spec in specs.items():
            if name in present:
                problems += _faults(name, dataset[name], spec)
            elif spec.required:
                problems.append(f"{name}: {kind} missing")
    if problems:
        raise SchemaError("\n  ".join([f"{schema.name} v{schema.version}:", *problems]))
    return dataset


def _faults(name: str, array: xr.DataArray, spec: VariableSpec) -> list[str]:
    faults = []
    if array.dims != spec.dims:
        faults.append(f"{name}: expected dims {spec.dims}, got {array.dims}")
    if array.dtype.kind not in spec.accepted_kinds:
        faults.append(f"{name}: expected dtype kind in {spec.accepted_kinds!r}, got {array.dtype}")
    return faults
