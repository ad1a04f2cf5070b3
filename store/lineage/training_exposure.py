"""What a model has seen in training: scores on those tiles would say nothing about new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.models.checkpoints import Checkpoint, training_facts
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import text_array, texts

LEARNED: Final = "learned"
JUDGED: Final = "judged"

_SHORT: Final = 16
# Tells digests of pixels from those of ids and files.
_PIXELS: Final = "px:"


def seen_in_training(
    cohort: Cohort, *, learned: Iterable[str], judged: Iterable[str], start: Checkpoint | None
) -> dict[str, list[str]]:
    """Digests of the tiles that a training learns from, and of those that choose its best epoch.

    Of each tile one of its id and files, and one of its pixels. What the weights that it starts from have seen is among
    them. JSON, for the record of the training.
    """
    before = {} if start is None else training_facts(start).get(n.SEEN, {})
    names = {LEARNED: set(map(str, learned)), JUDGED: set(map(str, judged))}
    digests = _digests(cohort.images(lazy=False), set.union(*names.values()))
    return {
        key: sorted({*chain.from_iterable(digests[tile] for tile in tiles)} | {*before.get(key, ())})
        for key, tiles in names.items()
    }


def seen_by_choice(cohort: Cohort, runs: Iterable[str], judged: Iterable[str]) -> dict[str, list[str]]:
    """What the models of all `runs` together have seen, and the tiles `judged` that chose between them."""
    found = [_seen(cohort.run_attrs(run)) for run in runs]
    found.append({JUDGED: [*chain.from_iterable(_digests(cohort.images(lazy=False), set(judged)).values())]})
    return {key: sorted({one for seen in found for one in seen.get(key, ())}) for key in (LEARNED, JUDGED)}


def require_unseen(cohort: Cohort, run: str, tiles: Iterable[str]) -> None:
    """Tiles of the test part must be new to the model of a run, those of the val part may have chosen its epoch.

    Tiles of the train part are scored as they are asked for; nothing is known of a model that was trained elsewhere.

    Raises SplitError naming the tiles that the model has seen under another split.
    """
    _refuse_seen(cohort, f"the model of run {run!r}", _seen(cohort.run_attrs(run)), tiles)


def require_unseen_by(cohort: Cohort, checkpoint: Checkpoint, tiles: Iterable[str]) -> None:
    """The same of a model that has no run yet."""
    _refuse_seen(cohort, f"model {checkpoint.name!r}", training_facts(checkpoint).get(n.SEEN, {}), tiles)


def seen_tiles(cohort: Cohort, run: str, tiles: Iterable[str]) -> dict[str, str]:
    """Those of `tiles` that the model of a run has seen: `learned` where it learned from them, else `judged`."""
    seen = _seen(cohort.run_attrs(run))
    digests = _digests(cohort.images(lazy=False), {*tiles})
    # Learned last: what was learned from may have been judged on as well.
    found: dict[str, str] = {}
    for key in (JUDGED, LEARNED):
        found |= {tile: key for tile, ones in digests.items() if not ones.isdisjoint(seen.get(key, ()))}
    return found


def unseen_tiles(cohort: Cohort, run: str, tiles: Iterable[str]) -> list[str]:
    """Those of `tiles` that the model of a run has neither learned from nor been chosen by, as far as is known."""
    wanted = list(tiles)
    seen = seen_tiles(cohort, run, wanted)
    return [tile for tile in wanted if tile not in seen]


def _refuse_seen(cohort: Cohort, who: str, seen: Mapping[str, list[str]], tiles: Iterable[str]) -> None:
    forbidden = {n.VAL: {*seen.get(LEARNED, ())}, n.TEST: {*seen.get(LEARNED, ()), *seen.get(JUDGED, ())}}
    images = cohort.images(lazy=False)
    parts = dict(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
    digests = _digests(images, {*tiles}) if seen else {}
    known = [tile for tile, ones in digests.items() if not ones.isdisjoint(forbidden.get(parts[tile], ()))]
    if known:
        raise SplitError(
            f"{who} has seen in training {len(known)} of the tiles that it would be scored on "
            f"({', '.join(known[:5])}): the split is another one now, or other files held the same pixels. Train again "
            "on it, or leave the run out."
        )


def _seen(attrs: Mapping[str, Any]) -> Mapping[str, list[str]]:
    found: Mapping[str, list[str]] = attrs[n.PROVENANCE].get(n.TRAINING, {}).get(n.SEEN, {})
    return found


def _digests(images: xr.Dataset, wanted: set[str]) -> dict[str, set[str]]:
    """Short digests of each tile: of its id and files, as one file may hold many tiles, and of its pixels.

    Stores that were made before pixels had digests are read for them.
    """
    names = text_array(images[n.TILE])
    where = np.flatnonzero(np.isin(names, sorted(wanted)))
    files = text_array(images[n.SHA256].isel({n.TILE: where}))
    taken = text_array(images[n.PIXELS_SHA256]) if n.PIXELS_SHA256 in images.coords else None
    found = {}
    for at, of_tile in zip(where.tolist(), files, strict=True):
        tile = str(names[at])
        told = str(taken[at]) if taken is not None else ""
        told = told or pixels_sha256(tile_pixels(images, at))
        of_files = hashlib.sha256("\n".join([tile, *map(str, of_tile)]).encode()).hexdigest()[:_SHORT]
        found[tile] = {of_files, f"{_PIXELS}{told[:_SHORT]}"} if told != n.SHOWS_NOTHING else {of_files}
    return found
