"""What lay among annotations and was not used: remembered with the images, for whoever reads results later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.unfinished_annotations import note_end
from fintune_xr.store.raw.extra_files import extra_lines
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.sources import Place
from fintune_xr.store.zarr_io.locks import hold_tile_writes

# Of more files than these, only how many they are is stored.
_MOST: Final = 50


def unused_lines(ignored: Mapping[str, int], left_out: Sequence[LeftOut]) -> list[str]:
    """Lines about files that were passed over, with an example of each kind, and about those that were left out."""
    lines = extra_lines(ignored, products=True)
    lines += [f"left out {item.path}: {item.reason}" for item in left_out[:_MOST]]
    return [*lines, f"and {len(left_out) - _MOST} left out more"] if len(left_out) > _MOST else lines


def empty_lines(empty: Sequence[str], n_tiles: int) -> list[str]:
    """A line on tiles, of `n_tiles` annotated ones, whose annotations hold no object: what is made of that."""
    if not empty:
        return []
    return [
        f"{len(empty)} of {n_tiles} annotated tiles have annotations without an object, e.g. {empty[0]}: they count as "
        "tiles in which there is none"
    ]


def note_unused(cohort: Cohort, source: Place, lines: Sequence[str]) -> None:
    """Stores `lines` in place of what was said of `source` before, as the last change of its `annotate`."""
    with hold_tile_writes(cohort.location):
        note_end(cohort, source, lines)
