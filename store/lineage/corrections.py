"""Annotations that are corrected masks of a run: which tiles, of which run, and what was changed in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeAlias

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint, training_facts, weights_before
from fintune_xr.pixels.corrections import Corrections
from fintune_xr.provenance import settings_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.text import texts

_CHECKPOINT: Final = "checkpoint_sha256"
_DIGEST: Final = "run_digest"
_ORIGINS: Final = "origins"

Record: TypeAlias = Mapping[str, Any]
"""Of one tile: `run`, `run_digest`, `checkpoint_sha256`, and the fields of Corrections; of a run that is made of
others, `origins` with the same two digests of those that the tile's masks are of.
"""


def note_corrections(cohort: Cohort, run: str, found: Mapping[str, Corrections]) -> None:
    """Records, by tile, what was changed in the masks of `run`; what is recorded of a tile already stays as it is."""
    if not found:
        return
    identity, images = cohort.run_attrs(run)[n.IDENTITY], cohort.images(lazy=False)
    markers = dict(zip(texts(images[n.TILE]), texts(images[n.MARKER]), strict=True))
    fresh = {tile: {n.RUN: run, **_of_tile(identity, markers[tile]), **asdict(one)} for tile, one in found.items()}
    with explain_write_errors(f"{cohort.url}/{n.ANNOTATIONS}"):
        group = open_writable(cohort.location, n.ANNOTATIONS)
        group.attrs[n.CORRECTIONS] = dict(sorted({**fresh, **stored_corrections(cohort)}.items()))


def stored_corrections(cohort: Cohort) -> dict[str, Record]:
    """By annotated tile that is a corrected mask, what is recorded of it; empty where there is none."""
    if not cohort.has(n.ANNOTATIONS):
        return {}
    return dict(read_attrs(cohort.location, n.ANNOTATIONS).get(n.CORRECTIONS, {}))


def corrected_from(cohort: Cohort, run: str, tiles: Iterable[str]) -> list[str]:
    """Those of `tiles` whose annotation is a corrected mask of this run, its model, weights that its model was trained
    from, or a run that it is made of.
    """
    found = stored_corrections(cohort)
    wanted = [tile for tile in tiles if tile in found]
    if not wanted:
        return []
    attrs = cohort.run_attrs(run)
    known = {*_origins(attrs[n.IDENTITY]), *weights_before(attrs.get(n.PROVENANCE, {}).get(n.TRAINING, {}))}
    return [tile for tile in wanted if not known.isdisjoint(_made_by(found[tile]))]


def corrected_from_model(cohort: Cohort, checkpoint: Checkpoint, tiles: Iterable[str]) -> list[str]:
    """Those of `tiles` whose annotation is a corrected mask that the model with these weights made, or one that it was
    trained from.
    """
    found = stored_corrections(cohort)
    known = {checkpoint.sha256, *weights_before(training_facts(checkpoint))} - {""}
    return [tile for tile in tiles if tile in found and not known.isdisjoint(_made_by(found[tile]))]


def _made_by(record: Record) -> set[str]:
    """Digests of the runs, and of the weights, that made the masks that were corrected."""
    return {one[key] for one in (record, *record.get(_ORIGINS, ())) for key in (_DIGEST, _CHECKPOINT)} - {""}


def _of_tile(identity: Mapping[str, Any], marker: str) -> dict[str, Any]:
    """Which run and weights made the masks of a tile of this marker; a hybrid took them from one of its sources."""
    own = {_DIGEST: settings_digest(identity), _CHECKPOINT: str(identity.get(_CHECKPOINT, ""))}
    chosen = identity.get(n.HYBRID, {}).get(marker)
    sources = [of for name, of in identity.get(n.SOURCES, {}).items() if chosen in (None, name)]
    before = [_of_tile(source, marker) for source in sources]
    flat = [{key: one[key] for key in own} for each in before for one in (each, *each.get(_ORIGINS, ()))]
    return own | ({_ORIGINS: flat} if flat else {})


def _origins(identity: Mapping[str, Any]) -> set[str]:
    """Digests of a run's identity and of those it is made of, and of the weights that made them."""
    own = {settings_digest(identity), str(identity.get(_CHECKPOINT, ""))} - {""}
    return own.union(*(_origins(source) for source in identity.get(n.SOURCES, {}).values()))
