"""What a model has seen in training: scores on those tiles would say nothing about new ones."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.models.checkpoints import Checkpoint, training_facts, weights_before
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.pixels.real_part import real_part
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.corrections import corrected_from, corrected_from_model
from fintune_xr.store.zarr_io.tile_reader import TileReader
from fintune_xr.text import text_array, texts

LEARNED: Final = "learned"
JUDGED: Final = "judged"
CORRECTED: Final = "corrected"

_SHORT: Final = 16
# Tells digests of pixels from those of ids and files.
_PIXELS: Final = "px:"
# And those that a tile shares with itself mirrored or turned.
_TURNED: Final = "turned:"


def training_exposure(
    cohort: Cohort, *, learned: Iterable[str], judged: Iterable[str], start: Checkpoint | None
) -> dict[str, list[str]]:
    """Digests of the tiles that a training learns from, and of those that choose its best epoch.

    Of each tile one of its id and files, and one of its pixels. What the weights that it starts from have seen is among
    them. JSON, for the record of the training.
    """
    before = {} if start is None else training_facts(start).get(n.SEEN, {})
    names = {LEARNED: set(map(str, learned)), JUDGED: set(map(str, judged))}
    digests = _digests(cohort, set.union(*names.values()))
    return {
        key: sorted({*chain.from_iterable(digests[tile] for tile in tiles)} | {*before.get(key, ())})
        for key, tiles in names.items()
    }


def choice_exposure(cohort: Cohort, runs: Iterable[str], judged: Iterable[str]) -> dict[str, list[str]]:
    """What the models of all `runs` together have seen, and the tiles `judged` that chose between them."""
    found = [_seen(cohort.run_attrs(run)) for run in runs]
    found.append({JUDGED: [*chain.from_iterable(_digests(cohort, set(judged)).values())]})
    return {key: sorted({one for seen in found for one in seen.get(key, ())}) for key in (LEARNED, JUDGED)}


def weights_of_training(cohort: Cohort, run: str) -> set[str]:
    """Digests of the weights that the model of a run was trained from, as far as its record tells."""
    return weights_before(cohort.run_attrs(run)[n.PROVENANCE].get(n.TRAINING, {}))


def require_unseen(cohort: Cohort, runs: Iterable[str], tiles: Iterable[str]) -> None:
    """Tiles of the test part must be new to the models of `runs`, those of the val part may have chosen their epochs.

    Tiles of the train part are scored as they are asked for; nothing is known of a model that was trained elsewhere.
    Digests of the tiles are made once for all runs.

    Raises SplitError naming the tiles that the model has seen under another split, and those of the test part whose
    annotation is a corrected mask of the run, or of weights that its model was trained from.
    """
    wanted = [*tiles]
    seen = {run: _seen(cohort.run_attrs(run)) for run in runs}
    digests = _digests(cohort, {*wanted}) if any(seen.values()) else {}
    for run, of_run in seen.items():
        _refuse_seen(cohort, f"the model of run {run!r}", of_run, digests)
        _refuse_corrected(cohort, f"run {run!r}", corrected_from(cohort, run, wanted))


def require_unseen_by(cohort: Cohort, checkpoint: Checkpoint, tiles: Iterable[str]) -> None:
    """The same of a model that has no run yet."""
    who, wanted = f"model {checkpoint.name!r}", [*tiles]
    seen = training_facts(checkpoint).get(n.SEEN, {})
    _refuse_seen(cohort, who, seen, _digests(cohort, {*wanted}) if seen else {})
    _refuse_corrected(cohort, who, corrected_from_model(cohort, checkpoint, wanted))


def seen_tiles(cohort: Cohort, run: str, tiles: Iterable[str]) -> dict[str, str]:
    """Those of `tiles` that are no test of a run: `learned` where its model learned from them, else `judged` where it
    was chosen by them, else `corrected` where their annotation is a corrected mask of the run.
    """
    wanted = [*tiles]
    seen = _seen(cohort.run_attrs(run))
    digests = _digests(cohort, {*wanted})
    # Learned last: what was learned from may have been judged on as well.
    found = dict.fromkeys(corrected_from(cohort, run, wanted), CORRECTED)
    for key in (JUDGED, LEARNED):
        found |= {tile: key for tile, ones in digests.items() if not ones.isdisjoint(seen.get(key, ()))}
    return found


def unseen_tiles(cohort: Cohort, run: str, tiles: Iterable[str]) -> list[str]:
    """Those of `tiles` that are a test of a run, as far as is known: its model has neither learned from them nor been
    chosen by them, and their annotations are no corrected masks of it.
    """
    wanted = list(tiles)
    seen = seen_tiles(cohort, run, wanted)
    return [tile for tile in wanted if tile not in seen]


def _refuse_seen(
    cohort: Cohort, who: str, seen: Mapping[str, list[str]], digests: Mapping[str, set[str]]
) -> None:  # fmt: skip
    forbidden = {n.VAL: {*seen.get(LEARNED, ())}, n.TEST: {*seen.get(LEARNED, ()), *seen.get(JUDGED, ())}}
    images = cohort.images(lazy=False)
    parts = dict(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
    known = [tile for tile, ones in digests.items() if not ones.isdisjoint(forbidden.get(parts[tile], ()))]
    if known:
        raise SplitError(
            f"{who} has seen in training {len(known)} of the tiles that it would be scored on "
            f"({', '.join(known[:5])}): the split is another one now, or other files held the same pixels, as they are "
            "or turned. Train again "
            "on it, or leave the run out."
        )


def _refuse_corrected(cohort: Cohort, who: str, corrected: list[str]) -> None:
    images = cohort.images(lazy=False)
    parts = dict(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
    tests = [tile for tile in corrected if parts[tile] == n.TEST]
    if tests:
        raise SplitError(
            f"{who} would be scored against its own masks, or those of weights that it was trained from: the "
            f"annotations of {len(tests)} tiles of the test part are corrected from them ({', '.join(tests[:5])}). "
            "Annotate these anew, or keep corrected tiles out of the test part: `split --test`."
        )


def _seen(attrs: Mapping[str, Any]) -> Mapping[str, list[str]]:
    found: Mapping[str, list[str]] = attrs[n.PROVENANCE].get(n.TRAINING, {}).get(n.SEEN, {})
    return found


def _digests(cohort: Cohort, wanted: set[str]) -> dict[str, set[str]]:
    """Short digests of each tile: of its id and files, as one file may hold many tiles, and of its pixels, as they are
    and however they are turned.

    Stores that were made before pixels had digests are read for them, once in a process.
    """
    images = cohort.images(lazy=False)
    names = text_array(images[n.TILE])
    where = np.flatnonzero(np.isin(names, sorted(wanted)))
    files = text_array(images[n.SHA256].isel({n.TILE: where}))
    found = {}
    for at, of_tile, told in zip(where.tolist(), files, _told_or_taken(cohort, images, where), strict=True):
        tile = str(names[at])
        of_files = hashlib.sha256("\n".join([tile, *map(str, of_tile)]).encode()).hexdigest()[:_SHORT]
        found[tile] = {of_files, f"{_PIXELS}{told[:_SHORT]}"} if told != n.SHOWS_NOTHING else {of_files}
    if n.PROFILE in images.coords:
        profiles = zip(names[where].tolist(), images[n.PROFILE].values[where].tolist(), strict=True)
        for tile, profile in profiles:
            found[str(tile)] |= {f"{_TURNED}{profile:x}"} if profile else set()
    return found


def _told_or_taken(cohort: Cohort, images: xr.Dataset, where: NDArray[np.intp]) -> Iterator[str]:
    """The digest of the pixels of the tiles at these positions, taken from them where the store does not tell it."""
    has_any = n.PIXELS_SHA256 in images.coords
    told = text_array(images[n.PIXELS_SHA256].isel({n.TILE: where})) if has_any else np.full(where.size, "")
    reader = TileReader(cohort.location, f"{n.IMAGES}/{n.IMAGE}") if not all(told) else None
    for at, digest in zip(where.tolist(), told, strict=True):
        yield str(digest) if digest or reader is None else _taken(_stored_tile(reader, images, at))


@dataclass(frozen=True, slots=True)
class _StoredTile:
    """A tile as it is stored now: the checksums of its chunks are others as soon as its pixels are."""

    url: str
    at: int
    lengths: tuple[int | None, ...]
    checksums: tuple[tuple[int, bytes], ...]
    reader: TileReader = field(compare=False, repr=False)


def _stored_tile(reader: TileReader, images: xr.Dataset, at: int) -> _StoredTile:
    dims = images[n.IMAGE].dims[1:]
    real = real_part(images, dims, at)
    lengths = tuple(real[str(dim)].stop if dim in real else None for dim in dims)
    return _StoredTile(reader.location.url, at, lengths, reader.checksums(at), reader)


@functools.lru_cache(maxsize=1 << 16)
def _taken(tile: _StoredTile) -> str:
    return pixels_sha256(tile.reader[tile.at][tuple(slice(0, length) for length in tile.lengths)])
