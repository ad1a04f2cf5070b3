"""What a model has seen in training: scores on those tiles would say nothing about new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.models.checkpoints import Checkpoint, training_facts
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs.run import run_attrs
from fintune_xr.text import text_array, texts

_LEARNED: Final = "learned"
_JUDGED: Final = "judged"


def seen_in_training(
    cohort: Cohort, *, learned: Iterable[str], judged: Iterable[str], start: Checkpoint | None
) -> dict[str, list[str]]:
    """Digests of the tiles that a training learns from, and of those that choose its best epoch.

    What the weights that it starts from have seen is among them. JSON, for the record of the training.
    """
    before = {} if start is None else training_facts(start).get(n.SEEN, {})
    names = {_LEARNED: set(map(str, learned)), _JUDGED: set(map(str, judged))}
    digests = _digests(cohort.images(lazy=False), set.union(*names.values()))
    return {key: sorted({digests[tile] for tile in tiles} | {*before.get(key, ())}) for key, tiles in names.items()}


def seen_by_choice(cohort: Cohort, runs: Iterable[str], judged: Iterable[str]) -> dict[str, list[str]]:
    """What the models of all `runs` together have seen, and the tiles `judged` that chose between them."""
    found = [_seen(run_attrs(cohort, run)) for run in runs]
    found.append({_JUDGED: [*_digests(cohort.images(lazy=False), set(judged)).values()]})
    return {key: sorted({one for seen in found for one in seen.get(key, ())}) for key in (_LEARNED, _JUDGED)}


def require_unseen(cohort: Cohort, run: str, tiles: Iterable[str]) -> None:
    """Tiles of the test part must be new to the model of a run, those of the val part may have chosen its epoch.

    Tiles of the train part are scored as they are asked for; nothing is known of a model that was trained elsewhere.

    Raises SplitError naming the tiles that the model has seen under another split.
    """
    _refuse_seen(cohort, f"the model of run {run!r}", _seen(run_attrs(cohort, run)), tiles)


def require_unseen_by(cohort: Cohort, checkpoint: Checkpoint, tiles: Iterable[str]) -> None:
    """The same of a model that has no run yet."""
    _refuse_seen(cohort, f"model {checkpoint.name!r}", training_facts(checkpoint).get(n.SEEN, {}), tiles)


def unseen_tiles(cohort: Cohort, run: str, tiles: Iterable[str]) -> list[str]:
    """Those of `tiles` that the model of a run has neither learned from nor been chosen by, as far as is known."""
    seen, wanted = _seen(run_attrs(cohort, run)), list(tiles)
    known = {*seen.get(_LEARNED, ()), *seen.get(_JUDGED, ())}
    digests = _digests(cohort.images(lazy=False), set(wanted))
    return [tile for tile in wanted if digests[tile] not in known]


def _refuse_seen(cohort: Cohort, who: str, seen: Mapping[str, list[str]], tiles: Iterable[str]) -> None:
    forbidden = {n.VAL: {*seen.get(_LEARNED, ())}, n.TEST: {*seen.get(_LEARNED, ()), *seen.get(_JUDGED, ())}}
    images = cohort.images(lazy=False)
    parts = dict(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
    known = [tile for tile, one in _digests(images, {*tiles}).items() if one in forbidden.get(parts[tile], ())]
    if known:
        raise SplitError(
            f"{who} has seen in training {len(known)} of the tiles that it would be scored on "
            f"({', '.join(known[:5])}): the split is another one now. Train again on it, or leave the run out."
        )


def _seen(attrs: Mapping[str, Any]) -> Mapping[str, list[str]]:
    found: Mapping[str, list[str]] = attrs[n.PROVENANCE].get(n.TRAINING, {}).get(n.SEEN, {})
    return found


def _digests(images: xr.Dataset, wanted: set[str]) -> dict[str, str]:
    """A short digest of id and files of each tile; the id, because one file may hold many tiles."""
    names = text_array(images[n.TILE])
    where = np.flatnonzero(np.isin(names, sorted(wanted)))
    files = text_array(images[n.SHA256].isel({n.TILE: where}))
    return {
        str(tile): hashlib.sha256("\n".join([str(tile), *map(str, of_tile)]).encode()).hexdigest()[:16]
        for tile, of_tile in zip(names[where], files, strict=True)
    }
