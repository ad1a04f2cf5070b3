"""What lay among annotations and was not used: remembered with the images, for whoever reads results later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import update_attr
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.passed_over import told
from fintune_xr.store.raw.sources import Place
from fintune_xr.store.zarr_io.locks import writing_tiles

# Of more files than these, only how many they are is stored.
_MOST: Final = 50


def told_unused(ignored: Mapping[str, int], left_out: Sequence[LeftOut]) -> list[str]:
    """Lines about files that were passed over, with an example of each kind, and about those that were left out."""
    lines = told(ignored, products=True)
    lines += [f"left out {item.path}: {item.reason}" for item in left_out[:_MOST]]
    return [*lines, f"and {len(left_out) - _MOST} left out more"] if len(left_out) > _MOST else lines


def note_unused(cohort: Cohort, source: Place, lines: Sequence[str]) -> None:
    """Stores `lines` in place of what was said of `source` before."""
    root = root_of(str(source))
    with writing_tiles(cohort.location):
        update_attr(cohort, n.UNUSED_ANNOTATIONS, lambda before: {**(before or {}), root: list(lines)})
