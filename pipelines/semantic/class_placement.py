"""Whether class masks lie on the tissue that their patches show, or only once they are turned, or on that of others."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr.pipelines.semantic.patches import patches_of
from fintune_xr.pipelines.task_parts.placements import Floats, Placements, Words, spread, without_none
from fintune_xr.pixels.orientations import orientations
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import annotated_tiles

# Looked at this small, and so many pixels of it joined.
_SIDE: Final = 256
_JOINED: Final = 5
# Share of a colour's variance that classes tell: from the first on a mask lies on its patch, below the second it does
# not.
_LIES, _LIES_NOT = 0.1, 0.02
_WORDS: Final = Words(
    what="classes",
    tiles="tiles",
    turned="They are stored as they came: turn the files, and take them anew with --restart",
    lost="Are they masks of other patches?",
)


def class_placement(image: NDArray[Any], codes: NDArray[Any], ignored: Collection[int] = ()) -> Floats | None:
    """The share of the variance of a patch (channel, y, x) that its codes (y, x) tell (orientation,), 0 where it does
    not fit.

    Of the colours, and of how rough the patch is, the one counts of which they tell most; pixels of `ignored` codes
    take no part. None where there are not two classes.
    """
    step = max(1, max(codes.shape) // _SIDE)
    small = codes[::step, ::step]
    if np.setdiff1d(small, list(ignored)).size < 2:
        return None
    planes = [*image[:, ::step, ::step].astype(np.float64)]
    planes.append(np.hypot(*np.gradient(np.mean(planes, axis=0))))
    shown = [ndimage.uniform_filter(plane, _JOINED) for plane in planes]
    turned = orientations(small)
    return np.array([_told_share(one, shown, ignored) if one.shape == small.shape else 0.0 for one in turned])


def _told_share(codes: NDArray[Any], planes: list[Floats], ignored: Collection[int]) -> float:
    known = ~np.isin(codes, list(ignored))
    _, of = np.unique(codes[known], return_inverse=True)
    counts = np.bincount(of)
    shares = [0.0]
    for plane in planes:
        values = plane[known] - plane[known].mean()
        means = np.bincount(of, values) / counts
        total = float((values**2).sum())
        shares.append(float((counts * means**2).sum()) / total if total > 0 else 0.0)
    return max(shares)


def class_placement_lines(cohort: Cohort) -> list[str]:
    """What is to be said of the annotated patches, nothing where all masks lie on what theirs show."""
    patches = patches_of(cohort, annotated_tiles(cohort))

    def look(row: int) -> Floats | None:
        return class_placement(*patches.read(row), patches.ignored)

    rows = spread(len(patches))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = dict(zip((patches.names[row] for row in rows), pool.map(look, rows), strict=True))
    return Placements(without_none(found), _LIES, _LIES_NOT).lines(_WORDS)
