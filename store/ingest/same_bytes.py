"""Tiles that were made of the same bytes: a copy or a link counts its cells twice."""

from __future__ import annotations

from collections import defaultdict

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests


def tiles_of_same_bytes(cohort: Cohort) -> list[tuple[str, ...]]:
    """Groups of stored tiles that share a file's bytes, or a page of them, under different paths; in stored order.

    Tiles that were cut out of one file, or are its pages, are parts of it and no copies.
    """
    if not cohort.has(n.IMAGES):
        return []
    held: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for tile, files in stored_digests(cohort.images_group()).items():
        for source, digest in files.items():
            path, _, page = source.partition("#")
            held[digest, page].setdefault(path, tile)
    groups = [tuple(dict.fromkeys(by_path.values())) for by_path in held.values() if len(by_path) > 1]
    return list(dict.fromkeys(group for group in groups if len(group) > 1))


def told_twice(cohort: Cohort) -> list[str]:
    """One line for each group of tiles of the same bytes, a few of many."""
    groups = tiles_of_same_bytes(cohort)
    lines = [f"the same bytes under {len(group)} tiles: {', '.join(group[:4])}" for group in groups[:10]]
    more = [f"and {len(groups) - 10} groups more"] if len(groups) > 10 else []
    return [*lines, *more, "what is there twice counts twice: remove the copies and ingest anew"] if groups else []
