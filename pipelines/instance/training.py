"""Annotated tiles of a cohort of cells in the form that a network learns from."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from fintune_xr import names as n
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import annotated_part
from fintune_xr.text import texts


def tiles_for_training(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> AnnotatedTiles:
    """Annotated tiles of one part of the split, read one at a time.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where none is left.
    """
    tiles = annotated_part(cohort, part, markers).tiles
    return AnnotatedTiles(
        names=texts(tiles[n.TILE]),
        channels=tuple(texts(tiles[n.CHANNEL])),
        image=tiles[n.IMAGE],
        mask=_masks_of(cohort, tiles),
        height=tiles[n.HEIGHT].values.tolist(),
        width=tiles[n.WIDTH].values.tolist(),
    )


def _masks_of(cohort: Cohort, tiles: xr.Dataset) -> xr.DataArray:
    truth = cohort.annotations(lazy=False)
    place = {name: i for i, name in enumerate(texts(truth[n.TILE]))}
    return truth[n.MASK].isel({n.TILE: [place[name] for name in texts(tiles[n.TILE])]})
