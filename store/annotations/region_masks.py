"""Masks of regions into the store: each paired with its tile, its codes held against the legend, its areas counted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SettingsError, TileReadError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.provenance import provenance, settings_digest
from fintune_xr.store.annotations.instance import MaskFile, found_masks
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.raw.layouts import Layout
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.drawings import AS_DRAWN
from fintune_xr.store.raw.sources import Place
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_writable, remove_group
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.tasks.legends import Legend, stored_legend
from fintune_xr.tasks.region_masks import REGION_MASKS


@dataclass(frozen=True, slots=True)
class RegionsReport:
    """Tiles whose regions are known now and were before, what was left out and why, and files of other kinds."""

    n_added: int
    n_present: int
    left_out: tuple[LeftOut, ...]
    ignored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Read:
    """A mask that was read; `encoded` is None where the store holds it already."""

    labels: growing.Labels
    encoded: shards.Encoded | None


def annotate_regions(
    cohort: Cohort, source: Place, layout: Layout, *, legend: Legend, restart: bool = False
) -> RegionsReport:
    """Stores the masks of regions under `source` with the tiles that they are named after, and the area of each region.

    A mask holds a code of `legend` in each pixel, 0 where it belongs to no region. Masks that are stored already are
    skipped; a file that changed since is left out, unless `restart` throws the stored ones away first. Killed anywhere,
    it continues when called again; until then the group says that it is half-written.

    Raises FintuneValueError where `source` is no folder or holds no mask of this layout, SettingsError where the store
    has another legend, RunBusyError where another process adds tiles or annotations.
    """
    workers = len(os.sched_getaffinity(0))
    with hold_tile_writes(cohort.location):
        found = found_masks(cohort, source, layout)
        target = _target(cohort, legend, restart=restart)
        before = {tile: next(iter(one.values())) for tile, one in stored_digests(target).items()}
        left_out = [*found.left_out]
        with ThreadPoolExecutor(workers) as pool:
            read = partial(_read, source, target.grid, before, legend)
            results = ahead(pool, read, found.masks, depth=2 * workers)
            for _ in growing.append(target, _good(results, left_out)):
                pass
        n_added = target.n_tiles - len(before)
        _end(cohort, target, source)
    n_present = len(found.masks) + len(found.left_out) - len(left_out) - n_added
    return RegionsReport(n_added, n_present, tuple(left_out), found.ignored)


def _good(
    results: Iterable[_Read | LeftOut], left_out: list[LeftOut]
) -> Iterator[tuple[growing.Labels, shards.Encoded]]:
    for result in results:
        if isinstance(result, LeftOut):
            left_out.append(result)
        elif result.encoded is not None:
            yield result.labels, result.encoded


def _target(cohort: Cohort, legend: Legend, *, restart: bool) -> growing.Growing:
    """The group, made where it is missing, said to be half-written from here on."""
    target = growing.Growing(cohort.location, REGION_MASKS, n.REGION_MASKS, n.REGION_MASK)
    if restart or not cohort.has(f"{n.REGION_MASKS}/{n.REGION_MASK}"):
        remove_group(cohort.location, n.REGION_MASKS)
        shape = tuple(cohort.images_group().array.shape[-2:])
        names = {n.REGION: [name for _, name in legend.rows]}
        growing.create_growing(target, dtype="uint8", tile_shape=shape, constants=names, attrs={n.COMPLETE: False})
        _tell(cohort, n.REGION_MASK, legend.attrs)
    told = target.array.attrs.asdict()
    if n.LEGEND not in told:
        # Killed before the first mask could be stored.
        _tell(cohort, n.REGION_MASK, legend.attrs)
    elif stored_legend(told).sha256 != legend.sha256:
        raise SettingsError(
            f"{cohort.url}: the regions have legend {stored_legend(told).name!r}, asked for is {legend.name!r} with "
            "other codes or names. Give the same --legend, or --restart to throw the stored regions away."
        )
    _tell(cohort, "", {n.COMPLETE: False})
    cohort.location.sweep(n.REGION_MASKS)
    return target


def _end(cohort: Cohort, target: growing.Growing, source: Place) -> None:
    if target.n_tiles == 0:
        remove_group(cohort.location, n.REGION_MASKS)
        return
    files = {tile: next(iter(one.values())) for tile, one in stored_digests(target).items()}
    legend = target.array.attrs.asdict()[n.LEGEND_SHA256]
    facts = provenance(source=root_of(str(source)))
    digest = settings_digest({"files": files, n.LEGEND: legend})
    _tell(cohort, "", {n.DIGEST: digest, n.PROVENANCE: facts, n.COMPLETE: True})


def _tell(cohort: Cohort, array: str, attrs: Mapping[str, Any]) -> None:
    """Adds attributes to the group, or to an array of it."""
    with explain_write_errors(f"{cohort.url}/{n.REGION_MASKS}"):
        group = open_writable(cohort.location, n.REGION_MASKS)
        (group[array] if array else group).attrs.update(dict(attrs))


def _read(
    source: Place, grid: shards.ShardGrid, stored: Mapping[str, str], legend: Legend, mask: MaskFile
) -> _Read | LeftOut:
    try:
        codes, digest = mask.read(source, AS_DRAWN)
    except TileReadError as error:
        return mask.left_out(error.reason)
    reason = _fault(codes, mask, [code for code, _ in legend.rows])
    if stored.get(mask.tile, digest) != digest:
        reason = "changed: the store holds another file of this tile's regions; --restart throws the stored ones away"
    if reason:
        return mask.left_out(reason)
    counts = np.bincount(codes.ravel().astype(np.int64), minlength=256)
    labels = {
        n.TILE: mask.tile,
        n.SOURCE: str(mask.files[0]),
        n.SHA256: digest,
        n.REGION_PX: [int(counts[code]) for code, _ in legend.rows],
    }
    return _Read(labels, None if mask.tile in stored else shards.encode_tile(codes.astype(np.uint8), grid))


def _fault(codes: NDArray[Any], mask: MaskFile, known: Sequence[int]) -> str:
    """Why these are no regions of the tile, empty where they are."""
    if codes.shape != (mask.height, mask.width):
        found = " x ".join(map(str, codes.shape))
        return f"wrong shape: expected {mask.height} x {mask.width} as the tile, found {found}"
    strange = np.setdiff1d(codes, [0, *known])
    return f"code {int(strange[0])} is not in the legend" if strange.size else ""
