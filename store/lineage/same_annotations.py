"""The same annotation under two tiles: a file that was copied under another name is the truth of one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.pixel_digest import profile, turned_sha256
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.same_bytes import same_values, tiles_of_same_bytes
from fintune_xr.tasks.detection import tile_points
from fintune_xr.tasks.task import DETECTION, INSTANCE, SEMANTIC
from fintune_xr.text import texts

REMEDY: Final = (
    "Unless these tiles do show the same, a file was copied under another name: correct it and annotate with --restart"
)
# Of more groups than these the rest is only counted.
_MOST: Final = 10
# Fewer particles may lie at the same places by chance.
_FEWEST_POINTS: Final = 3

_Groups = list[tuple[str, ...]]


def truth_profile(mask: NDArray[Any], *, are_codes: bool = False) -> int:
    """The profile of a mask (y, x) that annotations keep: of its cells, whatever their numbers are, or of its codes."""
    return profile(_drawn(mask, are_codes=are_codes))


def same_annotations(cohort: Cohort) -> list[str]:
    """What is the annotation of several tiles, one text for each group of them, a few of many.

    Masks without a cell, or of one class, are alike by right, and so are masks of tiles that show the same image or are
    told to show the same field. Others are a question, not damage: cells on a grid lie alike in every tile.
    """
    find = _FOUND.get(cohort.task.name)
    groups = [] if find is None or not cohort.has(n.ANNOTATIONS) else find(cohort)
    by_right = [set(group) for group in tiles_of_same_bytes(cohort)] if groups else []
    groups = [one for one in groups if not (any(one_right.issuperset(one) for one_right in by_right))]
    if not groups:
        return []
    lines = [f"the same annotation under {len(group)} tiles: {', '.join(group[:4])}" for group in groups[:_MOST]]
    return [*lines, *([f"and {len(groups) - _MOST} groups more"] if len(groups) > _MOST else []), REMEDY]


def _same_masks(cohort: Cohort) -> _Groups:
    truth, variable = cohort.annotations(lazy=False), str(cohort.task.array)
    alike = same_values(truth[n.TRUTH_PROFILE].values) if n.TRUTH_PROFILE in truth.coords else []
    if not alike:
        return []
    sizes, names, fields = _sizes(cohort, truth), texts(truth[n.TILE]), _fields(cohort)
    groups: _Groups = []
    for places in alike:
        same: defaultdict[str, list[str]] = defaultdict(list)
        for at in places:
            drawn = _drawn(tile_pixels(sizes, at, variable), are_codes=cohort.task.name == SEMANTIC)
            same[turned_sha256(drawn)].append(names[at])
        groups += [tuple(found) for found in same.values() if _count(found, fields) > 1]
    return groups


def _drawn(mask: NDArray[Any], *, are_codes: bool) -> NDArray[Any]:
    return (mask if are_codes else mask != 0)[np.newaxis]


def _sizes(cohort: Cohort, truth: xr.Dataset) -> xr.Dataset:
    """Annotations with the sizes of their tiles."""
    images = cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    rows = [place[tile] for tile in texts(truth[n.TILE])]
    return truth.assign_coords({side: (n.TILE, images[side].values[rows]) for side in (n.HEIGHT, n.WIDTH)})


def _fields(cohort: Cohort) -> Mapping[str, tuple[str, str]]:
    """Donor and field of each tile of which a field is told."""
    images = cohort.images(lazy=False)
    if n.FIELD not in images.coords:
        return {}
    rows = zip(*(texts(images[name]) for name in (n.TILE, n.DONOR, n.FIELD)), strict=True)
    return {tile: (donor, field) for tile, donor, field in rows if field}


def _count(tiles: list[str], fields: Mapping[str, tuple[str, str]]) -> int:
    """How many fields these tiles show."""
    return len({fields.get(tile, (tile, "")) for tile in tiles})


def _same_points(cohort: Cohort) -> _Groups:
    points = cohort.annotations(lazy=False).load()
    same: defaultdict[bytes, list[str]] = defaultdict(list)
    for tile in texts(points[n.TILE]):
        yx = tile_points(points, tile).yx
        if len(yx) >= _FEWEST_POINTS:
            same[yx[np.lexsort(yx.T)].tobytes()].append(tile)
    return [tuple(found) for found in same.values() if len(found) > 1]


_FOUND: Final[Mapping[str, Callable[[Cohort], _Groups]]] = {
    INSTANCE: _same_masks,
    SEMANTIC: _same_masks,
    DETECTION: _same_points,
}
