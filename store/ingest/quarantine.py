"""The list of what ingest left out: each ingest replaces what it said before about the same files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.layouts import Layout
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.microscope import holds_fields

COLUMNS = tuple(datasets.QUARANTINE.variables)

Row: TypeAlias = tuple[str, ...]
"""Values of COLUMNS."""


def quarantine_rows(cohort: Cohort) -> list[Row]:
    """Everything that is quarantined, in stored order."""
    if not cohort.has(n.QUARANTINE):
        return []
    stored = cohort.quarantine()
    absent = [""] * stored.sizes[n.ITEM]
    columns = [stored[name].values.tolist() if name in stored else absent for name in COLUMNS]
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]


def quarantined_tiles(cohort: Cohort, root: str) -> set[str]:
    """Ids of the tiles of one source folder that are quarantined."""
    tile, at = COLUMNS.index(n.TILE), COLUMNS.index(n.ROOT)
    return {row[tile] for row in quarantine_rows(cohort) if row[at] == root}


def replace_quarantine(
    cohort: Cohort, left_out: Sequence[LeftOut], *, root: str, layout: Layout,
    covers: Callable[[str], bool] | None = None,
) -> None:  # fmt: skip
    """Puts `left_out` in place of earlier items of the same folder whose names fit the same layout.

    `covers` says of a path whether this ingest has looked at it, where that is not told by the layout alone.
    """
    before = quarantine_rows(cohort)
    after = [row for row in before if not _is_superseded(row, root, layout, covers)]
    after += [_row(item, root) for item in left_out]
    if after != before or not cohort.has(n.QUARANTINE):
        cohort.write(n.QUARANTINE, _dataset(after), datasets.QUARANTINE)


def _is_superseded(row: Row, root: str, layout: Layout, covers: Callable[[str], bool] | None) -> bool:
    path = row[COLUMNS.index(n.PATH)]
    if covers is not None:
        return row[COLUMNS.index(n.ROOT)] == root and covers(path)
    file = re.sub(r"#\d+$", "", path)
    named = file if layout.pages_are_tiles or layout.planes or holds_fields(file) else path
    return row[COLUMNS.index(n.ROOT)] == root and layout.parse(named) is not None


def _row(item: LeftOut, root: str) -> Row:
    values = {
        n.PATH: item.path, n.DONOR: item.donor, n.MARKER: item.marker, n.REASON: item.reason,
        n.TILE: item.tile, n.ROOT: root,
    }  # fmt: skip
    return tuple(values[name] for name in COLUMNS)


def _dataset(rows: Sequence[Row]) -> xr.Dataset:
    columns = zip(*rows, strict=True) if rows else ((),) * len(COLUMNS)
    return xr.Dataset(
        {
            name: ((n.ITEM,), np.array(values, np.dtypes.StringDType()), datasets.QUARANTINE[name].attrs)
            for name, values in zip(COLUMNS, columns, strict=True)
        }
    )
