"""Predicted masks as TIFF files, one for each tile, as other tools expect them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.pixel_side import resolution, sides_um
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.raw.layouts import safe_name

SUFFIX = "_pred.tif"


def write_masks(cohort: Cohort, run: str, folder: Path | str, *, workers: int | None = None) -> Iterator[Path]:
    """Paths of the masks of a run's finished tiles, each as soon as it is written; draw all to write all.

    `folder/<safe name of the tile>_pred.tif` holds the tile's own height and width, uint16 where its labels
    fit and else uint32, compressed with zlib; its description names the tile and the run in JSON, its resolution tells
    the size of a pixel where that is known. A file appears whole, in place of an older one.

    Raises UnknownNameError where there is no such run, StoreWriteError where `folder` cannot be written.
    """
    stored = cohort.run(run, lazy=False)
    sides = sides_um(cohort.images(lazy=False))
    done = np.flatnonzero(stored[n.STATE].values == n.DONE).tolist()
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        write = partial(_write_mask, stored, sides, run, Path(folder))
        yield from ahead(pool, write, done, depth=2 * (workers or len(os.sched_getaffinity(0))))


def label_dtype(mask: NDArray[Any]) -> type[np.uint16 | np.uint32]:
    """The smallest type that other tools read labels in and that holds those of `mask`."""
    return np.uint16 if int(mask.max(initial=0)) <= np.iinfo(np.uint16).max else np.uint32


def _write_mask(stored: xr.Dataset, sides: NDArray[np.float64], run: str, folder: Path, index: int) -> Path:
    tile, mask = str(stored[n.TILE].values[index]), tile_pixels(stored, index, n.MASK)
    path = folder / f"{safe_name(tile)}{SUFFIX}"
    with whole_file(path) as place:
        tifffile.imwrite(
            place, mask.astype(label_dtype(mask)), compression="zlib", photometric="minisblack", metadata=None,
            description=json.dumps({n.TILE: tile, n.RUN: run}), **resolution(sides[index]),
        )  # fmt: skip
    return path
