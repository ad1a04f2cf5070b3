"""One index over all labels of a dim: ids, and what many of them share, such as the donor of a tile."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index

from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.store.zarr_io.portable import AS_VARIABLE_TEXT, plain_text

Labels = NDArray[Any]
Codes = tuple[NDArray[np.int64], dict[str, int]]

# xarray shows an index where it refuses to part it, or to align it with another, and says no more; adding an array by
# `assign` is such a case.
REMEDY: Final = (
    "Labels of one index stay together: add an array with .assign(name=array.variable); in place of .query() choose by "
    ".sel(), which takes labels and booleans; in place of .drop_attrs() take .drop_attrs(deep=False), of "
    ".reindex({dim}=…) .isel() or .reindex_like(); to leave labels out, .drop_indexes() of all of them first. An array "
    "of your own along {dim} that has some of its ids, or has them in another order, is brought into the order here "
    "by .reindex({dim}=dataset.{dim}.values)."
)


class GroupIndex(Index):
    """Index of the ids of a dim and of labels that its entries share; one `.sel` may ask for any of them together.

    A selection by labels keeps the dim, in stored order, however many entries have them; only a single id gives that
    one entry without the dim. `columns` holds an array (dim,) of text for each label, that of the ids under `dim`.
    Codes of a label are made when it is first asked for.
    """

    def __init__(self, dim: Hashable, columns: Mapping[Hashable, Labels]) -> None:
        self.dim = dim
        self.columns = dict(columns)
        self._codes: dict[Hashable, Codes] = {}

    @classmethod
    def from_variables(cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """Index of one-dimensional coordinates of one dim. Raises FintuneValueError for others."""
        dims = {variable.dims for variable in variables.values()}
        if len(dims) != 1 or len(next(iter(dims))) != 1:
            raise FintuneValueError(f"labels of one index: expected coordinates along one dim, got {sorted(dims)}")
        ((dim,),) = dims
        return cls(dim, {name: plain_text(variable.values) for name, variable in variables.items()})

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> dict[Any, xr.Variable]:
        """The coordinates, with the attributes of `variables`."""
        attrs = {name: variable.attrs for name, variable in (variables or {}).items()}
        return {
            name: xr.Variable((self.dim,), labels, attrs.get(name), AS_VARIABLE_TEXT)
            for name, labels in self.columns.items()
        }

    def to_pandas_index(self) -> pd.Index:
        """All labels as levels, ids first, so that data frames made of a dataset carry them."""
        names = list(self.columns)
        if len(names) == 1:
            return pd.Index(self.columns[names[0]], name=names[0])
        return pd.MultiIndex.from_arrays(list(self.columns.values()), names=names)

    def sel(self, labels: Mapping[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Positions of the entries that have all the wanted labels; of each label one, a list, or a slice of ids.

        Entries that are wanted may also be said by a boolean for each of them. Ids in an array along other dims give
        the entry of each, in their order and along their dims, as xarray has it.

        Raises UnknownNameError, a KeyError, for a label that no entry has, and FintuneValueError for an id that
        does not have the other labels that are asked for with it, and for a `method` or `tolerance`, as texts have no
        nearest ones. Warns of a label that is asked for twice, as a selection holds each entry once.
        """
        if method is not None or tolerance is not None:
            raise FintuneValueError(f"{', '.join(map(str, labels))}: labels are texts, of which none is near another")
        if _names_points(labels.get(self.dim), self.dim):
            return IndexSelResult({self.dim: self._points(labels)})
        positions = np.flatnonzero(self.having(labels))
        if self.dim not in labels or isinstance(labels[self.dim], slice) or np.ndim(_plain(labels[self.dim])) > 0:
            return IndexSelResult({self.dim: as_slice(positions)})
        if positions.size != 1:
            raise FintuneValueError(f"{dict(labels)}: {positions.size} entries have these labels; expected one")
        return IndexSelResult({self.dim: int(positions[0])})

    def _points(self, labels: Mapping[Any, Any]) -> xr.Variable | xr.DataArray:
        """Position of each of the ids, along their dims and with their coordinates."""
        wanted = labels[self.dim]
        if len(labels) > 1:
            others = ", ".join(str(name) for name in labels if name != self.dim)
            raise FintuneValueError(
                f"{self.dim}: ids along {', '.join(map(str, wanted.dims))} stand for the entry of each, in their "
                f"order, and {others} for all that have it. Ask for one after the other."
            )
        ids, names = pd.Index(self._ids()), [str(value) for value in wanted.values.ravel().tolist()]
        if not ids.is_unique:
            raise FintuneValueError(f"{self.dim}: some ids stand here several times; choose entries with .isel")
        at = ids.get_indexer(pd.Index(names, dtype=ids.dtype))
        if (at < 0).any():
            raise unknown_name(str(self.dim), names[int(np.argmin(at))], map(str, ids))
        points: xr.Variable | xr.DataArray = wanted.copy(data=at.reshape(wanted.shape))
        return points

    def having(self, labels: Mapping[Any, Any]) -> NDArray[np.bool_]:
        """Whether each entry has all the wanted labels. Raises UnknownNameError for a label that no entry has."""
        chosen = np.ones(len(self), bool)
        for name, wanted in labels.items():
            chosen &= self._having(name, wanted)
        return chosen

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """The index of a part; none where one entry is taken or entries are rearranged into other dims."""
        indexer = indexers[self.dim]
        if isinstance(indexer, xr.Variable):
            if indexer.dims != (self.dim,):
                return None
            indexer = indexer.values
        if not isinstance(indexer, slice) and np.ndim(indexer) == 0:
            return None
        return type(self)(self.dim, {name: labels[indexer] for name, labels in self.columns.items()})

    @classmethod
    def concat(cls, indexes: Sequence[Self], dim: Hashable, positions: Iterable[Iterable[int]] | None = None) -> Self:
        """The index of entries that follow each other, at `positions` where these are given."""
        order = None if positions is None else np.argsort(np.concatenate([list(places) for places in positions]))
        whole = {name: np.concatenate([index.columns[name] for index in indexes]) for name in indexes[0].columns}
        return cls(dim, whole if order is None else {name: labels[order] for name, labels in whole.items()})

    def join(self, other: Self, how: str = "inner") -> Self:
        """Entries of both (`inner`) or of either (`outer`), in stored order, those of `other` alone at the end."""
        mine, theirs = self._ids(), other._ids()
        if how == "inner":
            return self._part(np.isin(mine, theirs))
        new = ~np.isin(theirs, mine)
        return self.concat([self, other._part(new)], self.dim)

    def reindex_like(self, other: Self) -> dict[Hashable, Any]:
        """Positions of the entries of `other`; -1 for one that is not here."""
        return {self.dim: pd.Index(self._ids()).get_indexer(pd.Index(other._ids()))}

    def equals(self, other: Index, *, exclude: frozenset[Hashable] | None = None) -> bool:  # noqa: ARG002
        """Whether `other` has the same labels in the same order."""
        if not isinstance(other, GroupIndex) or self.dim != other.dim or self.columns.keys() != other.columns.keys():
            return False
        return all(np.array_equal(labels, other.columns[name]) for name, labels in self.columns.items())

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """The same under other names."""
        columns = {name_dict.get(name, name): labels for name, labels in self.columns.items()}
        return type(self)(dims_dict.get(self.dim, self.dim), columns)

    def roll(self, shifts: Mapping[Any, int]) -> Self:
        """The index of rolled entries."""
        return type(self)(self.dim, {name: np.roll(labels, shifts[self.dim]) for name, labels in self.columns.items()})

    def _copy(self, deep: bool = True, memo: dict[int, Any] | None = None) -> Self:  # noqa: ARG002
        return type(self)(self.dim, {name: labels.copy() if deep else labels for name, labels in self.columns.items()})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getstate__(self) -> dict[str, Any]:
        return {"dim": self.dim, "columns": self.columns, "_codes": {}}

    def __repr__(self) -> str:
        return f"{self._short()}\n{REMEDY.format(dim=self.dim)}"

    def _repr_inline_(self, max_width: int) -> str:
        return self._short()[:max_width]

    def _short(self) -> str:
        return f"GroupIndex({', '.join(map(str, self.columns))}; {len(self)} along {self.dim})"

    def _ids(self) -> Labels:
        return self.columns[self.dim if self.dim in self.columns else next(iter(self.columns))]

    def _part(self, chosen: NDArray[np.bool_]) -> Self:
        return type(self)(self.dim, {name: labels[chosen] for name, labels in self.columns.items()})

    def _coded(self, name: Hashable) -> Codes:
        if name not in self._codes:
            codes, entries = _factorized(self.columns[name])
            self._codes[name] = (codes, {str(entry): code for code, entry in enumerate(entries)})
        return self._codes[name]

    def _having(self, name: Hashable, wanted: Any) -> NDArray[np.bool_]:
        codes, known = self._coded(name)
        if isinstance(wanted, slice):
            return self._between(name, wanted)
        if is_booleans(wanted):
            return booleans_along(self.dim, len(self), name, wanted)
        values = [str(value) for value in np.atleast_1d(_plain(wanted)).tolist()]
        _warn_of_repeats(name, values)
        for value in values:
            if value not in known:
                raise unknown_name(str(name), value, known.keys())
        if len(values) == 1:
            return np.asarray(codes == known[values[0]])
        return np.isin(codes, [known[value] for value in values])

    def _between(self, name: Hashable, wanted: slice) -> NDArray[np.bool_]:
        """Entries from one id to another, both included, in stored order."""
        if name != self.dim or wanted.step is not None:
            raise TypeError(
                f"{name}: expected one label or a list of them, got {wanted}; slices are of ids, without step"
            )
        ends = []
        for end, otherwise in ((wanted.start, 0), (wanted.stop, len(self) - 1)):
            ends.append(otherwise if end is None else int(np.flatnonzero(self._having(name, end))[0]))
        places = np.arange(len(self))
        return (places >= ends[0]) & (places <= ends[1])


def _factorized(labels: Labels) -> tuple[NDArray[np.int64], Labels]:
    """Codes of labels and the labels that they stand for; of neighbours that are alike only the first is looked up.

    pandas makes an object of each that it looks at, 65 bytes for a donor.
    """
    is_first = np.ones(labels.size, bool)
    is_first[1:] = labels[1:] != labels[:-1]
    starts = np.flatnonzero(is_first)
    codes, entries = pd.factorize(labels[starts])
    return np.repeat(np.asarray(codes, np.int64), np.diff(starts, append=labels.size)), entries


def _warn_of_repeats(name: Hashable, values: Sequence[str]) -> None:
    """Whoever draws with replacement must not lose without a word what was drawn twice."""
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        warnings.warn(
            f"{name}: {twice!r} is asked for {values.count(twice)} times, and a selection holds each entry once, in "
            "stored order. To repeat entries, as in draws with replacement, use .isel.",
            stacklevel=2,
        )


def _plain(wanted: Any) -> Any:
    """Labels as an array of objects, or a single label; of an index of pandas that was made of all labels the ids."""
    if isinstance(wanted, pd.MultiIndex):
        wanted = wanted.get_level_values(0)
    values = getattr(wanted, "values", wanted)
    return values if isinstance(values, str) else np.asarray(values, dtype=object)


def _names_points(wanted: Any, dim: Hashable) -> bool:
    """Whether ids are asked for by an array that lies along other dims than they."""
    return isinstance(wanted, (xr.DataArray, xr.Variable)) and wanted.dims not in ((), (dim,)) and wanted.dtype != bool


def is_booleans(wanted: Any) -> bool:
    """Whether entries are said by booleans, not by their labels."""
    return bool(np.ndim(wanted)) and np.asarray(wanted).dtype == bool


def booleans_along(dim: Hashable, size: int, name: Hashable, wanted: Any) -> NDArray[np.bool_]:
    """Booleans by which the label `name` was asked for, one for each of the `size` entries along `dim`.

    Raises FintuneValueError for as many as something else has, or that say that they lie along another dim.
    """
    chosen, dims = np.asarray(wanted), getattr(wanted, "dims", (dim,))
    if chosen.shape == (size,) and dims == (dim,):
        return chosen
    found = " x ".join(map(str, chosen.shape)) + ("" if dims == (dim,) else f" along {', '.join(map(str, dims))}")
    raise FintuneValueError(
        f"{name}: expected {size} booleans along {dim}, one for each, got {found}. Make them from a variable along "
        f"{dim} of this very selection, or ask for {name} by its labels."
    )


def as_slice(positions: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Neighbouring positions as a slice, with which chunks are cut and not gathered."""
    if positions.size and positions[-1] - positions[0] + 1 == positions.size:
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def with_labels(dataset: xr.Dataset, **labels: Any) -> xr.Dataset:
    """`dataset` whose index over tile, donor, … also answers for `labels`, one text for each entry of that dim.

    A label that is there already is replaced. Raises FintuneValueError where the dataset has no such index or a label
    has another length.
    """
    indexes = [index for index in dataset.xindexes.values() if isinstance(index, GroupIndex)]
    if not indexes:
        raise FintuneValueError("with_labels: expected a dataset with labelled tiles, such as cohort.images()")
    index = indexes[0]
    for name, values in labels.items():
        if np.shape(values) != (len(index),):
            raise FintuneValueError(f"{name}: expected {len(index)} labels along {index.dim}, got {np.shape(values)}")
    names = list(index.columns)
    bare = dataset.drop_indexes(names).assign_coords(
        {name: (index.dim, plain_text(np.asarray(values, dtype=object))) for name, values in labels.items()}
    )
    return bare.set_xindex([*names, *(name for name in labels if name not in names)], GroupIndex)
