"""Whether files behind stored tiles still hold what was ingested, without reading all of them every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.quarantine import quarantined_tiles
from fintune_xr.store.raw.pairing import LeftOut, TileFiles, tile_left_out
from fintune_xr.store.raw.sources import Place, changed_at, place_in, place_sha256
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs
from fintune_xr.store.zarr_io.location import explain_write_errors

Digests: TypeAlias = Mapping[str, str]
"""SHA-256 by stored source, of one tile."""


def stored_digests(target: growing.Growing, n_tiles: int | None = None) -> dict[str, Digests]:
    """SHA-256 of every source file of every committed tile, by tile id; `n_tiles` is how many those are, where known.

    Reads the labels directly: after a kill they may be longer than the array, which xarray refuses.
    """
    committed = target.n_tiles if n_tiles is None else n_tiles
    tiles, sources, digests = (_column(target, name, committed) for name in (n.TILE, n.SOURCE, n.SHA256))
    return {
        str(tile): dict(zip(map(str, np.atleast_1d(names)), map(str, np.atleast_1d(values)), strict=True))
        for tile, names, values in zip(tiles, sources, digests, strict=True)
    }


def suspects(
    cohort: Cohort, source: Place, present: Sequence[TileFiles], stored: Mapping[str, Digests], root: str
) -> Iterator[TileFiles]:
    """Those of `present` whose files may hold something else than the store.

    That is: touched since this folder was last compared with the store, of other names than the stored ones,
    from a folder never compared, or already quarantined as changed.
    """
    if not present:
        return
    checked = group_attrs_of(cohort).get(n.CHECKED, {}).get(root)
    flagged = quarantined_tiles(cohort, root)
    for tile in present:
        renamed = {str(file) for file in tile.planes} != set(stored[tile.tile])
        if checked is None or renamed or tile.tile in flagged or _touched(source, tile, checked):
            yield tile


def find_changes(
    source: Place, tiles: Sequence[TileFiles], stored: Mapping[str, Digests], workers: int
) -> list[LeftOut]:
    """Those of `tiles` whose files no longer hold the bytes that were ingested; reads them whole."""

    # A file may hold many tiles, and be as large as all of them.
    digest_of = cache(lambda path: place_sha256(place_in(source, path)))

    def compare(tile: TileFiles) -> LeftOut | None:
        return _compared(digest_of, tile, list(stored[tile.tile].values()))

    with ThreadPoolExecutor(workers) as pool:
        return [item for item in pool.map(compare, tiles) if item is not None]


def note_checked(cohort: Cohort, root: str, when: float) -> None:
    """Remembers that no stored tile of the folder `root` differed from its files at the time `when`."""
    update_attr(cohort, n.CHECKED, lambda before: {**(before or {}), root: when})


def group_attrs_of(cohort: Cohort) -> dict[str, Any]:
    """Attributes of the group of images."""
    return read_attrs(cohort.location, n.IMAGES)


def update_attr(cohort: Cohort, name: str, change: Callable[[Any], Any]) -> None:
    """Puts `change(before)` in place of an attribute of the group of images; None where there is none yet."""
    with explain_write_errors(f"{cohort.url}/{n.IMAGES}"):
        group = open_writable(cohort.location, n.IMAGES)
        group.attrs[name] = change(group.attrs.asdict().get(name))


def _column(target: growing.Growing, name: str, n_tiles: int) -> NDArray[Any]:
    # No row behind those that are committed is asked for: a killed writer may have left none there.
    return np.asarray(target.location.array(f"{target.path}/{name}")[:n_tiles])


def _touched(source: Place, tile: TileFiles, since: float) -> bool:
    try:
        return any(changed_at(place_in(source, file.path)) > since for file in tile.planes)
    except OSError:
        # What cannot be asked for its date is compared, and the comparison says what is wrong.
        return True


def _compared(digest_of: Callable[[str], str], tile: TileFiles, digests: Sequence[str]) -> LeftOut | None:
    for file, expected in zip(tile.planes, digests, strict=True):
        try:
            digest = digest_of(file.path)
        except OSError as error:
            return tile_left_out(tile, file, f"unreadable: {error.strerror or error}")
        if digest != expected:
            reason = (
                f"changed since it was ingested: expected sha256 {expected[:12]}, found {digest[:12]}; "
                "the stored tile is the earlier one. Put the file back, or ingest into a new store."
            )
            return tile_left_out(tile, file, reason)
    return None
