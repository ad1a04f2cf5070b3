"""What blocks of one run read besides pixels, opened once in a process and not for every block."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.cohort import product_at
from fintune_xr.store.runs.run import run_grid
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.tile_reader import TileReader
from fintune_xr.tasks.product import Product

_OPENING = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class OpenedRun:
    """Tiles of the images, the columns of their sizes, and what the run stores, on which `grid` where it has pixels."""

    images: TileReader
    columns: tuple[NDArray[Any], ...]
    product: Product
    grid: shards.ShardGrid | None

    def sizes(self, rows: slice) -> list[NDArray[Any]]:
        """Depth where there is one, height and width of these tiles."""
        return [column[rows] for column in self.columns]


def opened_run(location: Location, run: str, creation: str, *, n_tiles: int = 0) -> OpenedRun:
    """The run as it was opened last in this process, anew where the images have grown beyond that to `n_tiles`.

    `creation` tells one run from a later one of the same name in the same place; without it nothing is kept.
    """
    if not creation:
        return _opened.__wrapped__(location, run, creation)
    # Threads that begin together would each open it.
    with _OPENING:
        found = _opened(location, run, creation)
        if found.images.shape[0] < n_tiles:
            _opened.cache_clear()
            found = _opened(location, run, creation)
    return found


@functools.lru_cache(maxsize=4)
def _opened(location: Location, run: str, creation: str) -> OpenedRun:  # noqa: ARG001 - told apart by it
    product = product_at(location, f"{n.RUNS}/{run}")
    images = TileReader(location, f"{n.IMAGES}/{n.IMAGE}")
    sides = (n.DEPTH, n.HEIGHT, n.WIDTH)[-(len(images.shape) - 2) :]
    # Of tiles that the images do not count yet, whoever appends them may still write others.
    known = slice(0, images.shape[0])
    columns = tuple(np.asarray(location.array(f"{n.IMAGES}/{side}")[known]) for side in sides)
    return OpenedRun(images, columns, product, run_grid(location, run) if product.array is not None else None)
