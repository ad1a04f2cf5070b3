"""The index of a dim with names for labels, which says in words which names there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from xarray.core.indexing import IndexSelResult
from xarray.indexes import Index, PandasIndex

from fintune_xr.errors import unknown_name


class _OfPandas(type(Index)):  # type: ignore[misc]
    """Kind of the index below: to xarray, which aligns only indexes of one class, that class is pandas' own.

    Without it no table of a user, whose labels have xarray's index, would meet a dataset that has this one.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is PandasIndex

    def __hash__(cls) -> int:
        return hash(PandasIndex)


class LabelIndex(PandasIndex, metaclass=_OfPandas):
    """xarray's own index, but for what it says of a name that is not there."""

    def sel(self, labels: Mapping[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Positions of labels. Raises UnknownNameError, a KeyError, for one that no entry has."""
        try:
            return super().sel(dict(labels), method=method, tolerance=tolerance)
        except KeyError as error:
            ((dim, wanted),) = labels.items()
            known = [str(name) for name in self.index]
            missing = [name for name in _names(wanted) if name not in known]
            if not missing:
                raise
            raise unknown_name(str(dim), missing[0], known) from error


def _names(wanted: Any) -> list[str]:
    """Names that are asked for: one, several, or the ends of a slice."""
    if isinstance(wanted, slice):
        return [str(end) for end in (wanted.start, wanted.stop) if end is not None]
    return [str(name) for name in np.ravel(np.asarray(getattr(wanted, "values", wanted), dtype=object)).tolist()]
