"""Micrographs of a cohort in the form that a particle network learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.finetune.detection.tiles import ParticleTiles, Truth
from fintune_xr.models.checkpoints import Checkpoint, read_state
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import annotated_part
from fintune_xr.tasks.detection import Points, tile_points
from fintune_xr.text import texts


def annotated_micrographs(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> ParticleTiles:
    """Annotated micrographs of one part of the split with their particles.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where no tile is left.
    """
    tiles = annotated_part(cohort, part, markers).tiles
    points = cohort.annotations(lazy=False).load()
    return particle_tiles(tiles, [tile_points(points, tile) for tile in texts(tiles[n.TILE])])


def particle_tiles(tiles: xr.Dataset, truth: Sequence[Truth]) -> ParticleTiles:
    """Images opened without Dask, `tiles`, with what is known of each."""
    return ParticleTiles(
        names=texts(tiles[n.TILE]),
        channels=tuple(texts(tiles[n.CHANNEL])),
        image=tiles[n.IMAGE],
        truth=list(truth),
        height=tiles[n.HEIGHT].values.tolist(),
        width=tiles[n.WIDTH].values.tolist(),
    )


def with_diameter(
    settings: UnetTrainSettings, tiles: ParticleTiles, start: Checkpoint | None = None
) -> UnetTrainSettings:
    """`settings` with the diameter of a particle stated: that of `start`, or the median of the annotated ones.

    Raises FintuneValueError where nothing tells it.
    """
    if settings.diameter_px is not None:
        return settings
    if start is not None:
        diameter = float(read_state(start)["architecture"][n.DIAMETER_PX])
    else:
        known = np.concatenate([one.diameter_px for one in tiles.truth if isinstance(one, Points)])
        if not known.size:
            raise FintuneValueError("no annotated particle tells the diameter of one; give diameter_px")
        diameter = float(np.median(known))
    return settings.model_copy(update={n.DIAMETER_PX: diameter})
