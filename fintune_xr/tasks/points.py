"""Particles of the tiles of a cohort: the stored table of points, and the points of one tile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Particles of one tile: centres `yx` (point, 2) and `diameter_px` (point,), float64 in px of the stored tile."""

    yx: NDArray[np.float64]
    diameter_px: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.yx)


def points_table(tiles: Mapping[str, Points], *, source: Mapping[str, str], sha256: Mapping[str, str]) -> xr.Dataset:
    """The table of `Cohort.annotations` that holds the `tiles` (tile id -> its particles) in their order.

    `source` and `sha256` name the file of each tile's annotation and its digest.
    """
    counts = [len(points) for points in tiles.values()]
    columns: dict[str, NDArray[Any]] = {
        n.TILE_INDEX: np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        n.Y: np.concatenate([np.empty(0), *(points.yx[:, 0] for points in tiles.values())]),
        n.X: np.concatenate([np.empty(0), *(points.yx[:, 1] for points in tiles.values())]),
        n.DIAMETER_PX: np.concatenate([np.empty(0), *(points.diameter_px for points in tiles.values())]),
    }
    labels = {n.TILE: list(tiles), n.SOURCE: [source[tile] for tile in tiles], n.SHA256: [sha256[t] for t in tiles]}
    schema = datasets.POINTS
    return xr.Dataset(
        {name: ((n.POINT,), values, schema[name].attrs) for name, values in columns.items()},
        {name: ((n.TILE,), np.array(values, np.dtypes.StringDType()), schema[name].attrs)
         for name, values in labels.items()},
    )  # fmt: skip


def tile_points(points: xr.Dataset, tile: str) -> Points:
    """The particles of one annotated tile, of a loaded table of `Cohort.annotations`.

    Raises UnknownNameError where the tile is not annotated, which is not the same as holding no particle.
    """
    tiles = [str(name) for name in points[n.TILE].values]
    if tile not in tiles:
        raise unknown_name("annotated tile", tile, tiles)
    index = points[n.TILE_INDEX].values
    if index.size and np.any(np.diff(index) < 0):
        raise FintuneValueError("points: expected rows ordered by tile. Open them with Cohort.annotations.")
    rows = slice(*np.searchsorted(index, [tiles.index(tile), tiles.index(tile) + 1]))
    yx = np.column_stack([points[n.Y].values[rows], points[n.X].values[rows]]).astype(np.float64)
    return Points(yx, points[n.DIAMETER_PX].values[rows].astype(np.float64))
