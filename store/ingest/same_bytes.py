"""Tiles that were made of the same bytes or show the same pixels: a copy or a link counts its cells twice."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import zarr

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests

REMEDY = "What is there twice counts twice: remove the copies and ingest anew"
# Of more groups than these the rest is only counted.
_MOST = 10


def tiles_of_same_bytes(cohort: Cohort, n_tiles: int | None = None) -> list[tuple[str, ...]]:
    """Groups of stored tiles that share a file's bytes, or a page of them, under different paths, or all pixels.

    Tiles that were cut out of one file, or are its pages, are parts of it and no copies. Tiles whose pixels are known
    to show nothing are alike and no copies. In stored order. `n_tiles` is how many are stored, where that is known.
    """
    if not cohort.has(n.IMAGES):
        return []
    n_tiles = cohort.images_group().n_tiles if n_tiles is None else n_tiles
    pixels = _pixel_digests(cohort, n_tiles)
    held: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for tile, files in stored_digests(cohort.images_group(), n_tiles).items():
        if pixels.get(tile) == n.SHOWS_NOTHING:
            continue
        for source, digest in files.items():
            path, _, page = source.partition("#")
            held[digest, page].setdefault(path, tile)
    groups = [tuple(dict.fromkeys(by_path.values())) for by_path in held.values() if len(by_path) > 1]
    shown: defaultdict[str, list[str]] = defaultdict(list)
    for tile, digest in pixels.items():
        shown[digest].append(tile)
    groups += [tuple(tiles) for digest, tiles in shown.items() if digest not in ("", n.SHOWS_NOTHING)]
    return list(dict.fromkeys(group for group in groups if len(group) > 1))


def named_groups(cohort: Cohort, n_tiles: int | None = None) -> list[str]:
    """What is there twice, one text for each group of tiles, a few of many; `n_tiles` as `tiles_of_same_bytes` says."""
    groups = tiles_of_same_bytes(cohort, n_tiles)
    lines = [f"the same image under {len(group)} tiles: {', '.join(group[:4])}" for group in groups[:_MOST]]
    return [*lines, f"and {len(groups) - _MOST} groups more"] if len(groups) > _MOST else lines


def twin_lines(cohort: Cohort) -> list[str]:
    """One line for each group of tiles that hold the same, and what to do."""
    lines = named_groups(cohort)
    return [*lines, REMEDY] if lines else []


def _pixel_digests(cohort: Cohort, n_tiles: int) -> dict[str, str]:
    """Digest of the pixels of each committed tile by its id; nothing in stores that were made without them.

    As with digests of files, the labels are read directly.
    """
    group = cohort.images_group()
    path = f"{group.path}/{n.PIXELS_SHA256}"
    if cohort.location.size(f"{path}/zarr.json") is None:
        return {}
    tiles, digests = (
        np.asarray(zarr.open_array(cohort.location.zarr(), path=one, mode="r")[:n_tiles])
        for one in (f"{group.path}/{n.TILE}", path)
    )
    return dict(zip(map(str, tiles), map(str, digests), strict=True))
