"""An index for labels that many tiles share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex

from fintune_xr.errors import unknown_name


class GroupIndex(PandasIndex):
    """Index of a label with repeats, such as the donor of a tile: `.sel` gives every tile that has the label.

    pandas drops the dim where a label happens to be unique, and refuses a list of labels; here a selection
    always keeps the dim, in stored order, for one label or several.
    """

    def sel(self, labels: Mapping[Any, Any], method: Any = None, tolerance: Any = None) -> IndexSelResult:
        """Positions of all entries with the wanted label or labels.

        Raises UnknownNameError, which is a LookupError, for a label that no entry has.
        """
        if method is not None or tolerance is not None:
            raise TypeError("labels are matched exactly; method and tolerance have no meaning here")
        ((name, wanted),) = labels.items()
        if isinstance(wanted, slice):
            raise TypeError(f"{name}: expected one label or a list of them, got a slice")
        entries = np.array([str(entry) for entry in self.index], dtype=object)
        values = [str(value) for value in np.atleast_1d(np.asarray(wanted, dtype=object)).tolist()]
        for value in values:
            if value not in entries:
                raise unknown_name(str(name), value, set(entries.tolist()))
        return IndexSelResult({self.dim: np.flatnonzero(np.isin(entries, values))})
