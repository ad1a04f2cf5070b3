"""Detection: every particle has a centre and a diameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import xarray as xr

from fintune_xr import datasets
from fintune_xr.provenance import settings_digest
from fintune_xr.tasks.points import tile_points
from fintune_xr.tasks.task import DETECTION, Task


def points_digest(annotations: xr.Dataset, tiles: Sequence[str]) -> str:
    """A digest of the particles themselves: one file may tell those of many tiles.

    Raises UnknownNameError for a tile without an annotation.
    """
    points = annotations.load()
    known = {tile: tile_points(points, tile) for tile in tiles}
    return settings_digest({tile: [one.yx.tolist(), one.diameter_px.tolist()] for tile, one in known.items()})


DETECTION_TASK: Final = Task(DETECTION, datasets.POINTS, source="COORDINATES", digest=points_digest)
