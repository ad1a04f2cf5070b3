"""Class masks into the store: each paired with the tiles of its image, its codes held against the legend."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.store.annotations.class_codes import MaskFile, MaskPart, ReadMask, read_mask
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests
from fintune_xr.store.ingest.tiles import stored_cut
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.lineage.unfinished_annotations import changing_annotations
from fintune_xr.store.raw.cutting import whole_name
from fintune_xr.store.raw.layouts import Layout, PlaneName
from fintune_xr.store.raw.pairing import LeftOut, natural_key
from fintune_xr.store.raw.scan import Progress, named_files
from fintune_xr.store.raw.sources import Place
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_writable, remove_group
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.tasks.legends import Legend, stored_legend, unnamed_legend

_Pairs: TypeAlias = Mapping[str, Sequence[MaskPart]]


@dataclass(frozen=True, slots=True)
class ClassMasksReport:
    """Tiles annotated now and before, what was left out and why, masks of a palette, and files of other kinds.

    `legend` is what the codes mean, as it is stored; `told` are lines on masks that say nothing.
    """

    n_added: int
    n_present: int
    left_out: tuple[LeftOut, ...]
    from_palette: tuple[str, ...]
    ignored: Mapping[str, int]
    legend: Legend | None
    told: tuple[str, ...] = ()


def annotate_classes(
    cohort: Cohort,
    source: Place,
    layout: Layout,
    *,
    legend: Legend | None,
    restart: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> ClassMasksReport:
    """Stores the class masks under `source` as annotations of the tiles of the images that they are named after.

    Codes are stored as they are. A mask of an image that was cut is cut alike. Without a `legend` the codes name
    themselves. Masks that are stored already are skipped; a file that changed since is left out, unless `restart`
    throws the stored annotations away first. Killed anywhere, it continues when called again, and until then the store
    tells `command` as what finishes it.

    Raises FintuneValueError where `source` is no folder or holds no mask of this layout, SettingsError where the store
    has another legend, RunBusyError where another process adds tiles or annotations.
    """
    named, unusable, ignored = named_files(source, layout)
    workers = len(os.sched_getaffinity(0))
    with hold_tile_writes(cohort.location), changing_annotations(cohort, source, command, restart=restart):
        if restart or not cohort.has(f"{n.ANNOTATIONS}/{n.CLASSES}"):
            remove_group(cohort.location, n.ANNOTATIONS)
        masks, unmatched = _matched(cohort, named)
        target = _made(cohort, legend)
        cohort.location.sweep(n.ANNOTATIONS)
        before = {tile: next(iter(digests.values())) for tile, digests in stored_digests(target).items()}
        noted = _Noted([*unusable, *unmatched])
        with ThreadPoolExecutor(workers) as pool:
            read = partial(read_mask, source, target.grid, before, legend)
            results = ahead(pool, read, masks, depth=2 * workers)
            for _ in growing.append(target, noted.good(results, len(masks), progress)):
                pass
        n_added = target.n_tiles - len(before)
        legend = _ended(cohort, target, noted, legend)
    told = _unknown_lines(noted, legend)
    return ClassMasksReport(
        n_added, noted.n_present, tuple(noted.left_out), tuple(noted.palettes), ignored, legend, told
    )


def _unknown_lines(noted: _Noted, legend: Legend | None) -> tuple[str, ...]:
    """A line on masks in which every pixel is of an ignored code, so that nothing is known of their image."""
    ignored = set() if legend is None else set(legend.ignored)
    unknown = [path for path, codes in noted.codes_of.items() if codes <= ignored]
    if not unknown:
        return ()
    return (f"{len(unknown)} of {len(noted.codes_of)} masks hold nothing but ignored codes, e.g. {unknown[0]}",)


class _Noted:
    """What is learned of masks on their way into the store."""

    def __init__(self, left_out: list[LeftOut]) -> None:
        self.left_out = left_out
        self.palettes: list[str] = []
        self.codes: set[int] = set()
        self.codes_of: dict[str, frozenset[int]] = {}
        self.n_present = 0

    def good(
        self, results: Iterable[ReadMask | LeftOut], total: int, progress: Progress | None
    ) -> Iterator[tuple[growing.Labels, shards.Encoded]]:
        """Labels and pixels of the tiles that the store lacks."""
        for done, result in enumerate(results, start=1):
            if progress is not None:
                progress(done, total)
            if isinstance(result, LeftOut):
                self.left_out.append(result)
                continue
            self.codes |= result.codes
            self.codes_of[result.path] = result.codes
            self.n_present += result.n_present
            if result.is_palette:
                self.palettes.append(result.path)
            yield from result.parts


def _matched(cohort: Cohort, named: Iterable[tuple[str, PlaneName]]) -> tuple[list[MaskFile], list[LeftOut]]:
    tiles = _tiles_of_images(cohort)
    masks: dict[str, MaskFile] = {}
    left_out: list[LeftOut] = []
    for path, name in named:
        image = name.tile_id
        unpaired = "" if image in tiles else f"unpaired: the store has no tile of an image {image}"
        reason = unpaired or (f"duplicate: same image as {masks[image].path}" if image in masks else "")
        if reason:
            left_out.append(LeftOut(path, name.donor, name.marker, reason, image))
        else:
            masks[image] = MaskFile(path, image, name.donor, name.marker, tuple(tiles[image]))
    return sorted(masks.values(), key=lambda mask: natural_key(mask.image)), left_out


def _tiles_of_images(cohort: Cohort) -> _Pairs:
    """Stored tiles by the id of the image that they are, or are parts of."""
    images = cohort.images(lazy=False)
    is_cut = stored_cut(cohort) > 0
    columns = (n.TILE, n.HEIGHT, n.WIDTH, n.ORIGIN_Y, n.ORIGIN_X, n.SOURCE_HEIGHT, n.SOURCE_WIDTH)
    found: defaultdict[str, list[MaskPart]] = defaultdict(list)
    for tile, *numbers in zip(*(images[name].values.tolist() for name in columns), strict=True):
        part = MaskPart(str(tile), *map(int, numbers))
        found[whole_name(part.tile) if is_cut else part.tile].append(part)
    return found


def _made(cohort: Cohort, legend: Legend | None) -> growing.Growing:
    target = cohort.annotations_group()
    if not cohort.has(n.ANNOTATIONS):
        shape = tuple(cohort.images_group().array.shape[-2:])
        dtype = cohort.task.annotations[n.CLASSES].dtype
        growing.create_growing(target, dtype=dtype, tile_shape=shape, constants={}, attrs={})
    stored = target.array.attrs.asdict()
    if n.LEGEND not in stored:
        _write_legend(cohort, legend or unnamed_legend([]))
    elif not _is_same(stored_legend(stored), legend):
        now = legend.name if legend else "none"
        raise SettingsError(
            f"{cohort.url}: the annotations have legend {stored_legend(stored).name!r}, asked for is {now!r} "
            "with other codes, meanings or ignored codes. Give the same --legend and --ignore, or --restart to throw "
            "the stored annotations away."
        )
    return target


def _is_same(stored: Legend, asked: Legend | None) -> bool:
    return not stored.is_named if asked is None else stored.sha256 == asked.sha256


def _ended(cohort: Cohort, target: growing.Growing, noted: _Noted, legend: Legend | None) -> Legend | None:
    """The legend as it is stored now; without a given one it grows by the codes that were found."""
    if target.n_tiles == 0:
        remove_group(cohort.location, n.ANNOTATIONS)
        return legend
    stored = stored_legend(target.array.attrs.asdict())
    if legend is None and not noted.codes <= set(stored.meanings):
        _write_legend(cohort, unnamed_legend([*stored.meanings, *noted.codes]))
    return annotated_legend(cohort)


def _write_legend(cohort: Cohort, legend: Legend) -> None:
    with explain_write_errors(f"{cohort.url}/{n.ANNOTATIONS}"):
        group = open_writable(cohort.location, n.ANNOTATIONS)
        array: Any = group[n.CLASSES]
        array.attrs.update(legend.attrs)
