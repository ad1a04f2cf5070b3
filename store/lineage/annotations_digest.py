"""The annotations that results rest on, as a digest: other annotations are other results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fintune_xr import names as n
from fintune_xr.points import tile_points
from fintune_xr.provenance import settings_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

TRUTH_DIGEST: Final = "annotations_digest"


def truth_digest(cohort: Cohort, tiles: Iterable[str]) -> str:
    """SHA-256 of what is annotated in `tiles`: of the particles themselves, or of the digests of the masks' files."""
    wanted = sorted(map(str, tiles))
    if cohort.kind == "em":
        points = cohort.points(lazy=False).load()
        known = {tile: tile_points(points, tile) for tile in wanted}
        return settings_digest({tile: [one.yx.tolist(), one.diameter_px.tolist()] for tile, one in known.items()})
    masks = cohort.annotations(lazy=False)
    files = dict(zip(texts(masks[n.TILE]), texts(masks[n.SHA256]), strict=True))
    return settings_digest({tile: files[tile] for tile in wanted})
