"""Pseudo-labels on disk: one group per round of a self-training, written once and whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.discs import UNKNOWN
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import is_complete, open_dataset, open_writable, remove_group
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.tasks.detection import PSEUDO

Labels = NDArray[np.int8]


def pseudo_path(name: str) -> str:
    """Group of the pseudo-labels `name`."""
    return f"{n.PSEUDO}/{name}"


def write_pseudo(cohort: Cohort, name: str, labels: Iterable[tuple[str, Labels]], *, facts: Mapping[str, Any]) -> None:
    """Stores `labels` (tile id, target (y, x) int8) one by one as `pseudo/<name>`, with `facts` as its attributes.

    What was there before is replaced; killed on the way, the group says that it is half-written.
    """
    path = pseudo_path(name)
    target = growing.Growing(cohort.location, PSEUDO, path, n.TARGET)
    sizes = cohort.images(lazy=False).sizes
    remove_group(cohort.location, path)
    shape, attrs = (sizes[n.Y], sizes[n.X]), {**facts, n.COMPLETE: False}
    growing.create_growing(target, dtype="int8", tile_shape=shape, constants={}, attrs=attrs)
    for _ in growing.append(target, _encoded(labels, target.grid)):
        pass
    with explain_write_errors(f"{cohort.url}/{path}"):
        open_writable(cohort.location, path).attrs[n.COMPLETE] = True


def read_pseudo(cohort: Cohort, name: str) -> xr.Dataset:
    """`target` (tile, y, x) int8 of `pseudo/<name>`, opened without Dask.

    Raises StoreDamagedError where it was left half-written.
    """
    return open_dataset(cohort.location, pseudo_path(name), PSEUDO, lazy=False)


def has_pseudo(cohort: Cohort, name: str, facts: Mapping[str, Any]) -> bool:
    """Whether `pseudo/<name>` is there, whole, and made of the same `facts`."""
    if not is_complete(cohort.location, pseudo_path(name)):
        return False
    stored = read_pseudo(cohort, name).attrs
    return all(stored.get(key) == value for key, value in facts.items())


def _encoded(
    labels: Iterable[tuple[str, Labels]], grid: shards.ShardGrid
) -> Iterator[tuple[growing.Labels, shards.Encoded]]:
    for tile, target in labels:
        # Past the edge of a smaller tile nothing is known, and 0 would say background.
        whole = np.full(grid.shard[1:], UNKNOWN, np.int8)
        whole[: target.shape[0], : target.shape[1]] = target
        yield {n.TILE: tile}, shards.encode_tile(whole, grid)
