"""From a folder of tiles to the store: read, compress and append in order, with memory for a few tiles."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.cohort_kinds import KINDS, kind_named
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.execution.recycled_memory import spare_bytes
from fintune_xr.pixels.pixel_digest import holds_one_value, pixel_labels
from fintune_xr.pixels.z_projection import JOINED, projection
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort, create_cohort, open_cohort
from fintune_xr.store.ingest.changed_files import (
    find_changes,
    group_attrs_of,
    note_checked,
    stored_digests,
    suspects,
    update_attr,
)
from fintune_xr.store.ingest.last_planes import LastPlanes
from fintune_xr.store.ingest.new_tiles import Labelled, Mapper, NewTiles, ReadOn, append_new
from fintune_xr.store.ingest.pixel_sizes import doubt_lines
from fintune_xr.store.ingest.quarantine import replace_quarantine
from fintune_xr.store.ingest.viewer_metadata import describe_images
from fintune_xr.store.raw.binning import MEAN, TOP_FIRST, bin_plane
from fintune_xr.store.raw.extra_files import extra_lines
from fintune_xr.store.raw.layouts import Layout
from fintune_xr.store.raw.pairing import LeftOut, TileFiles, one_family, tile_left_out
from fintune_xr.store.raw.readers.header import shape_text
from fintune_xr.store.raw.scan import Progress, Scan, check_sizes
from fintune_xr.store.raw.sources import Place, is_url
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import remove_group
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.text import one_spelling

# How many reasons are told at once.
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did: tiles added, tiles that were there before, and what was left out and why."""

    n_added: int
    n_present: int
    left_out: tuple[LeftOut, ...]


def open_or_create(where: Place, found: Scan, *, kind: str | None = None, title: str = "") -> Cohort:
    """The cohort at `where`, made for the tiles of `found` where there is none yet; `kind` is that of the layout.

    Raises FintuneValueError where no tile was found to make it for, the sizes differ too much, or pixels are to be
    joined that must stay as they are.
    """
    kind = kind or found.layout.kind
    _check_binning(kind, found)
    _check_cut(found)
    location = Location.of(where)
    if location.exists():
        if not is_stillborn(location):
            return open_cohort(location)
        clear_stillborn(location)
    if not found.tiles:
        reasons = "".join(f"\n  {item.path}: {item.reason}" for item in found.left_out[:_SHOWN])
        more = f"\n  and {len(found.left_out) - _SHOWN} more" if len(found.left_out) > _SHOWN else ""
        raise FintuneValueError(
            f"no complete tile under {found.source}, {len(found.left_out)} left out; so no store was made."
            f"{reasons}{more}"
        )
    check_sizes(found)
    return create_cohort(
        where,
        kind=kind,
        channels=list(found.layout.channels.values()),
        tile_shape=tuple(max(lengths) for lengths in zip(*(tile.shape for tile in found.tiles), strict=True)),
        dtype=found.dtype,
        title=title,
        facts=_facts(kind, found),
        columns=_told_columns(kind, found.layout),
    )


def ingest_tiles(
    cohort: Cohort,
    found: Scan,
    *,
    workers: int | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    mapper: Mapper | None = None,
) -> IngestReport:
    """Appends the tiles of `found` that the store lacks, in their order; what cannot be used is quarantined.

    `workers` threads read and compress, by default one per processor; with `mapper`, workers elsewhere. Stored
    tiles are skipped; their files are read again only where they may have changed, or all with `verify`. A changed
    file is quarantined and the stored tile stays as it is. Killed anywhere, it continues when called again.

    Raises FintuneValueError where the layout's channels are not the store's, RunBusyError where another
    process adds tiles, StoreWriteError where the store cannot be written.
    """
    workers = workers or len(os.sched_getaffinity(0))
    with hold_tile_writes(cohort.location):
        _check_channels(cohort, found.layout)
        _check_stored_binning(cohort, found.binning)
        _check_stored_cut(cohort, found.cut)
        _check_stored_projection(cohort, found.layout.z)
        _check_stored_fields(cohort, found.layout)
        cohort.location.sweep(n.IMAGES)
        root, began = root_of(found.source), time.time()
        stored = {one_spelling(tile): digests for tile, digests in stored_digests(cohort.images_group()).items()}
        present = [tile for tile in found.tiles if tile.tile in stored]
        fresh, unfit = _fitting(cohort, [tile for tile in found.tiles if tile.tile not in stored])
        doubtful = present if verify else list(suspects(cohort, found.source, present, stored, root))
        left_out = [*found.left_out, *unfit, *find_changes(found.source, doubtful, stored, workers)]
        # Before the first tile is read: what is found changed must not be forgotten if this run is killed.
        replace_quarantine(cohort, left_out, root=root, layout=found.layout)
        n_told = len(left_out)
        note_checked(cohort, root, began)
        update_attr(
            cohort,
            n.PASSED_OVER,
            lambda before: {**(before or {}), root: [*extra_lines(found.ignored), *doubt_lines(found.tiles)]},
        )
        n_added = _append(cohort, found, fresh, left_out, ReadOn(workers, progress, mapper))
        if len(left_out) > n_told:
            replace_quarantine(cohort, left_out, root=root, layout=found.layout)
        if n_added:
            _note_ingest(cohort, found, root, n_added)
        describe_images(cohort)
    return IngestReport(n_added, len(present), tuple(left_out))


def stored_channels(cohort: Cohort) -> list[str]:
    """Names of the channels in stored order; readable after a kill, when xarray refuses the images."""
    group = cohort.images_group()
    column = group.location.array(f"{group.path}/{n.CHANNEL}")
    return [str(name) for name in np.asarray(column[:])]


def is_stillborn(location: Location) -> bool:
    """Whether the store was killed while it was made, before it could hold any tile."""
    array = f"{n.IMAGES}/{n.IMAGE}"
    if location.size(f"{n.QUARANTINE}/zarr.json") is not None:
        return False
    if location.size(f"{array}/zarr.json") is None:
        return True
    return int(location.array(array).shape[0]) == 0


def clear_stillborn(location: Location) -> None:
    """Removes what was made of a store that was killed then, so that it can be made anew."""
    for path in (n.IMAGES, n.QUARANTINE):
        remove_group(location, path)
    location.remove("zarr.json")
    if location.is_local:
        (location.path / "zarr.json").unlink(missing_ok=True)


def _check_channels(cohort: Cohort, layout: Layout) -> None:
    stored, asked = stored_channels(cohort), list(layout.channels.values())
    if stored != asked:
        raise FintuneValueError(
            f"{cohort.url} has the channels {stored}, layout {layout.name!r} gives {asked}. "
            "Name the channels as in the store, or ingest into another store."
        )


def _check_binning(kind: str, found: Scan) -> None:
    if found.binning != 1 and not kind_named(kind).joins_pixels:
        joining = ", ".join(repr(one.name) for one in KINDS.values() if one.joins_pixels)
        raise FintuneValueError(
            f"--binning {found.binning}: a cohort of kind {kind!r} holds pixels as they were counted, one per pixel of "
            f"the file. Leave --binning out; it is for micrographs (layouts of kind {joining})."
        )


def _check_stored_binning(cohort: Cohort, asked: int) -> None:
    stored = stored_binning(cohort)
    if stored != asked:
        raise FintuneValueError(
            f"{cohort.url} was made with --binning {stored}, asked for is {asked}. Ingest with --binning {stored}, or "
            "into another store."
        )


def stored_binning(cohort: Cohort) -> int:
    """How many pixels of a file along each side make one of the store; 1 where they are as they were."""
    return int(group_attrs_of(cohort).get(n.BINNING, 1))


def stored_cut(cohort: Cohort) -> int:
    """Side in px of the tiles that images of files are cut into; 0 where they are stored whole."""
    return int(group_attrs_of(cohort).get(n.CUT, 0))


def _facts(kind: str, found: Scan) -> dict[str, Any]:
    if kind_named(kind).joins_pixels:
        return {n.BINNING: found.binning, n.POOLING: MEAN, n.ORIENTATION: TOP_FIRST}
    if found.layout.z:
        return {n.Z_PROJECTION: found.layout.z}
    return {n.CUT: found.cut} if found.layout.colour else {}


def _told_columns(kind: str, layout: Layout) -> list[str]:
    """Optional columns of tiles that a store of such files has.

    Raises FintuneValueError where fields are told of tiles that have none.
    """
    if layout.tells_fields and n.FIELD not in kind_named(kind).images.coords:
        raise FintuneValueError(
            f"layout {layout.name!r} tells the {n.FIELD} of files; a cohort of kind {kind!r} knows none: fields are "
            "of fluorescence tiles with a marker each. Leave it out."
        )
    return [*(datasets.OF_STACKS if layout.z else ()), *(datasets.OF_FIELDS if layout.tells_fields else ())]


def _check_stored_fields(cohort: Cohort, layout: Layout) -> None:
    if layout.tells_fields and n.FIELD not in cohort.images_group().labels:
        raise FintuneValueError(
            f"{cohort.url} was made of files whose {n.FIELD} was not told, and stored tiles keep their labels. "
            f"Ingest into another store, or without the {n.FIELD}."
        )


def _check_cut(found: Scan) -> None:
    if found.cut and not found.layout.colour:
        raise FintuneValueError(
            f"--cut {found.cut}: only patches of stained tissue are cut, and layout {found.layout.name!r} has none. "
            "Leave --cut out, or choose a layout of kind 'he'."
        )


def _check_stored_cut(cohort: Cohort, asked: int) -> None:
    stored = stored_cut(cohort)
    if stored != asked:
        raise FintuneValueError(
            f"{cohort.url} was made with --cut {stored}, asked for is {asked}. Ingest with --cut {stored}, or into "
            "another store."
        )


def _check_stored_projection(cohort: Cohort, asked: str) -> None:
    stored = str(group_attrs_of(cohort).get(n.Z_PROJECTION, ""))
    if stored != asked:
        was, wanted = (f"with --z {how}" if how else "without --z" for how in (stored, asked))
        raise FintuneValueError(
            f"{cohort.url} was made {was}, asked for is an ingest {wanted}. Ingest {was}, or into another store."
        )


def _fitting(cohort: Cohort, tiles: Sequence[TileFiles]) -> tuple[list[TileFiles], list[LeftOut]]:
    """Tiles that the store's array was made for, and the others."""
    array = cohort.images_group().array
    faults = [_misfit(tile, array.shape[2:], array.dtype.name) for tile in tiles]
    kept = [tile for tile, fault in zip(tiles, faults, strict=True) if not fault]
    unfit = [tile_left_out(tile, tile.planes[0], fault) for tile, fault in zip(tiles, faults, strict=True) if fault]
    return kept, unfit


def _misfit(tile: TileFiles, shape: tuple[int, ...], dtype: str) -> str:
    if tile.dtype != dtype:
        return f"wrong dtype: expected {dtype} as in the store, found {tile.dtype}"
    is_alike = len(tile.shape) == len(shape)
    if is_alike and all(map(int.__le__, tile.shape, shape)) and one_family([shape, tile.shape]):
        return ""
    return (
        f"wrong shape: expected at most {shape_text(shape)}, which the store was made for, and at least half "
        f"of that, found {shape_text(tile.shape)}; ingest tiles of this size into a store of their own"
    )


def _append(
    cohort: Cohort, found: Scan, fresh: Sequence[TileFiles], left_out: list[LeftOut], how: ReadOn
) -> int:  # fmt: skip
    """Number of tiles added. What travels to workers is the scan without its tiles."""
    target = cohort.images_group()
    travels = replace(found, layout=replace(found.layout, listed=None), tiles=(), left_out=(), ignored={})
    reader = partial(_tile_reader, travels, target.grid)
    return append_new(NewTiles(cohort, fresh, reader), left_out, how)


def _tile_reader(scanned: Scan, grid: shards.ShardGrid, readers: int) -> Callable[[TileFiles], Labelled | LeftOut]:
    return partial(_read_tile, scanned, grid, LastPlanes(scanned, readers))


def _read_tile(scanned: Scan, grid: shards.ShardGrid, planes: LastPlanes, tile: TileFiles) -> Labelled | LeftOut:
    found = _planes(scanned, tile, planes)
    if isinstance(found, LeftOut):
        return found
    wholes, digests = found
    z_plane = JOINED
    if scanned.layout.z:
        wholes, z_plane = projection(wholes, scanned.layout.z)
    pixels = _room(grid, tile)
    for channel, (file, whole) in enumerate(zip(tile.planes, wholes, strict=True)):
        plane = bin_plane(whole, scanned.binning)
        top, left = tile.origin
        part = plane[top : top + tile.height, left : left + tile.width] if scanned.cut else plane
        expected, actual = (*tile.shape, tile.dtype), (*part.shape, part.dtype.name)
        if actual != expected:
            return tile_left_out(tile, file, f"changed while it was read: expected {expected}, found {actual}")
        pixels[channel][tuple(slice(0, length) for length in part.shape)] = part
    shown = pixels[(slice(None), *(slice(0, length) for length in tile.shape))]
    if twins := _same_channels(shown, scanned.layout):
        return tile_left_out(tile, tile.planes[-1], twins)
    labels = {
        **_labels(tile, digests, wholes[-1].shape[-2:]), **pixel_labels(shown),
        n.Z_PLANE: z_plane, n.Z_PLANES: tile.stack,
    }  # fmt: skip
    return labels, shards.encode_tile(pixels, grid)


def _room(grid: shards.ShardGrid, tile: TileFiles) -> NDArray[Any]:
    """A tile of the array, whose pixels are still to be written; the filler around them is there."""
    whole, dtype = grid.shard[1:], np.dtype(grid.dtype)
    room = spare_bytes(math.prod(whole) * dtype.itemsize).view(dtype).reshape(whole)
    if whole[1:] != tile.shape:
        room[...] = grid.filler
    return room


def _same_channels(pixels: NDArray[Any], layout: Layout) -> str:
    """Which two channels of a tile (channel, y, x) hold the same counts, as where one file was copied under both names;
    empty where none do, or where they show nothing. Colours of grey pictures are the same by right.
    """
    names = [] if layout.colour else list(layout.channels.values())
    for at, first in enumerate(names):
        for other in range(at + 1, len(names)):
            if _are_alike(pixels[at], pixels[other]) and not holds_one_value(pixels[at]):
                return (
                    f"same plane: channels {first} and {names[other]} hold the same pixels. Is one file there under "
                    "both names? Put the right one in its place."
                )
    return ""


def _are_alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two planes hold the same; of most planes the first row tells that they do not."""
    return np.array_equal(one[0], other[0]) and np.array_equal(one, other)


def _planes(scanned: Scan, tile: TileFiles, planes: LastPlanes) -> tuple[list[NDArray[Any]], list[str]] | LeftOut:
    """Planes of the tile's channels with the digests of their files, or why one of them cannot be read."""
    read = []
    for channel, file in enumerate(tile.planes):
        try:
            read.append(planes.read(tile, channel))
        except TileReadError as error:
            return tile_left_out(tile, file, error.reason)
        if scanned.layout.z and len(read[-1][0]) != tile.stack:
            return tile_left_out(tile, file, f"changed while it was read: expected a stack of {tile.stack} planes")
    wholes, digests = zip(*read, strict=True)
    return list(wholes), list(digests)


def _labels(tile: TileFiles, digests: Sequence[str], whole: tuple[int, ...]) -> growing.Labels:
    return {
        n.TILE: tile.tile, n.DONOR: tile.donor, n.MARKER: tile.marker, n.SPLIT: tile.split,
        n.DEPTH: tile.depth, n.HEIGHT: tile.height, n.WIDTH: tile.width,
        n.SOURCE_HEIGHT: whole[0], n.SOURCE_WIDTH: whole[1], n.SOURCE_DEPTH: tile.depth,
        n.SOURCE: [str(file) for file in tile.planes], n.SHA256: list(digests), n.PIXEL_SIZE_A: tile.pixel_size_a,
        n.ORIGIN_Y: tile.origin[0], n.ORIGIN_X: tile.origin[1], n.MPP: tile.mpp, n.FIELD: tile.field,
    }  # fmt: skip


def root_of(source: str) -> str:
    """What a source is called in the store: its absolute path, or its URL."""
    return source if is_url(source) else str(Path(source).resolve())


def _note_ingest(cohort: Cohort, found: Scan, root: str, n_added: int) -> None:
    layout = found.layout
    facts = provenance(
        source=root, layout=layout.name, patterns=list(layout.patterns), channels=dict(layout.channels),
        binning=found.binning, cut=found.cut, n_added=n_added,
        **({} if layout.listed is None else {"samples": layout.listed.table, "sha256": layout.listed.sha256}),
    )  # fmt: skip
    update_attr(cohort, n.INGESTS, lambda before: [*(before or []), facts])
