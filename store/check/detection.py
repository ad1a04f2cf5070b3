"""Verification of what lies at points: annotated particles, candidates and picks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import AnswerError
from fintune_xr.schema import DatasetSchema
from fintune_xr.store.check.problem import Fault, first_few
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.picks import picked_names, stale_reason
from fintune_xr.store.zarr_io.groups import subgroups
from fintune_xr.tasks.detection import CANDIDATES, PICKS
from fintune_xr.text import text_array

# Candidates on the outermost pixels may be moved by half a pixel, to the top of the parabola through three of them.
_EDGE_PX = 0.5


def check_points(cohort: Cohort) -> Iterator[Fault]:
    """What is wrong with the annotated particles of a cohort that has some."""
    remedy = "Annotate again with --restart"
    points = cohort.annotations(lazy=False).load()
    tiles, images = text_array(points[n.TILE]), cohort.images(lazy=False)
    stored = text_array(images[n.TILE])
    strange = sorted(set(tiles) - set(stored))
    if strange:
        yield n.ANNOTATIONS, f"{len(strange)} annotated tile(s) are not among the images: {first_few(strange)}", remedy
    if len(set(tiles)) < tiles.size:
        yield n.ANNOTATIONS, "an annotated tile is there twice", remedy
    place = {tile: at for at, tile in enumerate(stored)}
    of_images = np.array([place.get(tile, -1) for tile in tiles], np.int64)
    at = points[n.TILE_INDEX].values
    yield from ((n.ANNOTATIONS, what, remedy) for what in _order(at, tiles.size))
    known = (at >= 0) & (at < tiles.size)
    index = np.where(known, of_images[np.clip(at, 0, max(tiles.size - 1, 0))] if tiles.size else -1, -1)
    yield from ((n.ANNOTATIONS, what, remedy) for what in _outside(index, points[n.Y], points[n.X], images))
    diameters = points[n.DIAMETER_PX].values
    if not (np.isfinite(diameters).all() and (diameters > 0).all()):
        yield n.ANNOTATIONS, "expected diameters above 0 px, found others", remedy


def check_picks(cohort: Cohort) -> Iterator[Fault]:
    """What is wrong with picks, and with candidates of pickers that are no runs."""
    for run in subgroups(cohort.location, n.CANDIDATES):
        remedy = f"Pick again: `fintune-xr pick --run {run} --model log`"
        yield from _table(cohort, f"{n.CANDIDATES}/{run}", CANDIDATES, (n.CENTROID_Y, n.CENTROID_X), remedy)
    for run in picked_names(cohort):
        remedy = f"Pick again: `fintune-xr pick --run {run}`"
        path = f"{n.PICKS}/{run}"
        yield from _table(cohort, path, PICKS, (n.Y, n.X), remedy)
        try:
            picks = cohort.read(path, PICKS).load()
            stale = stale_reason(cohort, run, picks)
        except AnswerError as error:
            yield path, str(error), remedy
            continue
        if stale:
            yield path, stale, remedy
        low = picks[n.SCORE].values < np.float32(picks.attrs.get(n.THRESHOLD, np.nan))
        if low.any():
            yield path, f"{int(low.sum())} pick(s) score less than the threshold", remedy


def _table(cohort: Cohort, path: str, schema: DatasetSchema, places: tuple[str, str], remedy: str) -> Iterator[Fault]:
    try:
        table = cohort.read(path, schema).load()
    except AnswerError as error:
        yield path, str(error), remedy
        return
    images = cohort.images(lazy=False)
    at = table[n.TILE_INDEX].values
    for what in (*_order(at, images.sizes[n.TILE]), *_outside(at, table[places[0]], table[places[1]], images)):
        yield path, what, remedy
    if not np.isfinite(table[n.SCORE].values).all():
        yield path, "expected scores that are numbers, found others", remedy


def _order(index: NDArray[Any], n_tiles: int) -> Iterator[str]:
    if index.size and np.any(np.diff(index) < 0):
        yield "rows are not in order of tiles"
    unknown = int(np.count_nonzero((index < 0) | (index >= n_tiles)))
    if unknown:
        yield f"{unknown} row(s) name a tile that is not there"


def _outside(index: NDArray[Any], y: xr.DataArray, x: xr.DataArray, images: xr.Dataset) -> Iterator[str]:
    known = (index >= 0) & (index < images.sizes[n.TILE])
    if not known.any():
        return
    inside = np.ones(int(known.sum()), np.bool_)
    for places, side in ((y, n.HEIGHT), (x, n.WIDTH)):
        last = images[side].values[index[known]] - 1
        where = places.values[known]
        inside &= (where >= -_EDGE_PX) & (where <= last + _EDGE_PX)
    if not inside.all():
        wrong = sorted(set(text_array(images[n.TILE])[index[known][~inside]]))
        yield f"{int((~inside).sum())} point(s) lie outside their tiles: {first_few(wrong)}"
