"""Tiles that were made of the same bytes or show the same pixels, however turned: a copy counts its cells twice."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.pixel_digest import turned_sha256
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests
from fintune_xr.store.zarr_io.appendable import Growing

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
    groups = [(group, "") for group in tiles_of_same_bytes(cohort, n_tiles)]
    groups += [(group, ", mirrored or turned,") for group in turned_tiles(cohort, n_tiles)]
    lines = [f"the same image{how} under {len(group)} tiles: {', '.join(group[:4])}" for group, how in groups[:_MOST]]
    return [*lines, f"and {len(groups) - _MOST} groups more"] if len(groups) > _MOST else lines


def twin_lines(cohort: Cohort) -> list[str]:
    """One line for each group of tiles that hold the same, and what to do."""
    lines = named_groups(cohort)
    return [*lines, REMEDY] if lines else []


def turned_tiles(cohort: Cohort, n_tiles: int | None = None) -> list[tuple[str, ...]]:
    """Groups of stored tiles that show the same pixels mirrored, or turned by right angles, in stored order.

    Tiles of one profile are read, and those of other stores than this one's, which have none, are in no group.
    """
    if not cohort.has(n.IMAGES):
        return []
    n_tiles = cohort.images_group().n_tiles if n_tiles is None else n_tiles
    profiles = tile_column(cohort.images_group(), n.PROFILE, n_tiles)
    alike = same_values(profiles)
    if not alike:
        return []
    images, pixels = cohort.images(lazy=False), tile_column(cohort.images_group(), n.PIXELS_SHA256, n_tiles)
    names = [str(tile) for tile in tile_column(cohort.images_group(), n.TILE, n_tiles)]
    groups: list[tuple[str, ...]] = []
    for places in alike:
        # Of tiles with the same pixels, which are named as such, one is looked at.
        of_pixels = {str(pixels[at]): at for at in reversed(places)}
        turned: defaultdict[str, list[int]] = defaultdict(list)
        for at in sorted(of_pixels.values()) if len(of_pixels) > 1 else ():
            turned[turned_sha256(tile_pixels(images, at))].append(at)
        groups += [tuple(names[at] for at in found) for found in turned.values() if len(found) > 1]
    return groups


def same_values(profiles: NDArray[Any]) -> list[list[int]]:
    """Positions of each value that is there more than once, 0 excepted, which is none."""
    order = np.argsort(profiles, kind="stable")
    values, first, counts = np.unique(profiles[order], return_index=True, return_counts=True)
    shared = (counts > 1) & (values != 0)
    ranges = zip(first[shared], counts[shared], strict=True)
    return [order[start : start + count].tolist() for start, count in ranges]


def tile_column(group: Growing, name: str, n_tiles: int) -> NDArray[Any]:
    """A column of labels of a group as it lies there, empty in stores that were made without it."""
    path = f"{group.path}/{name}"
    if group.location.size(f"{path}/zarr.json") is None:
        return np.empty(0)
    return np.asarray(group.location.array(path)[:n_tiles])


def _pixel_digests(cohort: Cohort, n_tiles: int) -> dict[str, str]:
    """Digest of the pixels of each committed tile by its id; nothing in stores that were made without them.

    As with digests of files, the labels are read directly.
    """
    group = cohort.images_group()
    digests = tile_column(group, n.PIXELS_SHA256, n_tiles)
    if not digests.size:
        return {}
    return dict(zip(map(str, tile_column(group, n.TILE, n_tiles)), map(str, digests), strict=True))
