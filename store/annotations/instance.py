"""Annotation masks into the store, each paired with its tile."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import TileReadError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.pixels.corrections import Corrections
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.provenance import provenance
from fintune_xr.store.annotations.corrected_masks import CorrectedRun
from fintune_xr.store.annotations.drawn_objects import check_drawn
from fintune_xr.store.annotations.instance_labels import Pieces, as_instances, drawn_instances, refuse_whole_tile
from fintune_xr.store.annotations.instance_layouts import COCO
from fintune_xr.store.annotations.joined_masks import joined_masks
from fintune_xr.store.annotations.tile_index import Fits, StoredTile, TileIndex
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import stored_digests
from fintune_xr.store.ingest.tiles import root_of
from fintune_xr.store.lineage.corrections import note_corrections
from fintune_xr.store.lineage.same_annotations import truth_profile
from fintune_xr.store.lineage.unfinished_annotations import changing_annotations
from fintune_xr.store.raw.layouts import TIFF_SUFFIXES, Layout, PlaneName
from fintune_xr.store.raw.pairing import LeftOut, PlaneFile, natural_key
from fintune_xr.store.raw.readers import read_header, read_mask
from fintune_xr.store.raw.readers.drawings import AS_DRAWN, JSON_SUFFIXES, coco_images, is_drawn, json_kind, read_drawn
from fintune_xr.store.raw.readers.drawings.painting import DrawnReading
from fintune_xr.store.raw.readers.header import LABEL_DTYPES
from fintune_xr.store.raw.scan import Progress, named_files
from fintune_xr.store.raw.sources import Place, place_in
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_writable, read_attrs, remove_group
from fintune_xr.store.zarr_io.location import explain_write_errors
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.tasks.instance import MASK_DTYPE
from fintune_xr.text import one_spelling


@dataclass(frozen=True, slots=True)
class AnnotateReport:
    """Masks added and there before, what was left out and why, and tiles whose binary mask was cut up.

    `corrected` is, by tile, what was changed in the masks of the run that was corrected. `empty` tiles have masks
    without an object, and `told` are lines on what drawn objects were taken for.
    """

    n_added: int
    n_present: int
    left_out: tuple[LeftOut, ...]
    from_components: tuple[str, ...]
    ignored: Mapping[str, int]
    corrected: Mapping[str, Corrections] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MaskFile:
    """One mask and the stored tile that it belongs to; height and width in px are the tile's.

    `side_um` is the side of the tile's pixels in um, 0 where it is not known.

    Several `files` hold one cell each, and together they are the tile's mask.
    """

    files: tuple[PlaneFile, ...]
    tile: str
    donor: str
    marker: str
    height: int
    width: int
    side_um: float = 0.0

    @property
    def is_drawn(self) -> bool:
        """Whether it lists objects, so that its labels are instances and need not be looked at for that."""
        return len(self.files) == 1 and is_drawn(self.files[0].path)

    def left_out(self, reason: str) -> LeftOut:
        """This mask as one that cannot be used."""
        return LeftOut(str(self.files[0]), self.donor, self.marker, reason, self.tile)

    def read(self, source: Place, drawn: DrawnReading) -> tuple[NDArray[Any], str]:
        """Its label image (y, x) and the SHA-256 of its file; that of the SHA-256 of all where there are several."""
        if len(self.files) > 1:
            return joined_masks(source, self.files)
        place, page = place_in(source, self.files[0].path), self.files[0].page
        if self.is_drawn:
            how = replace(drawn, side_um=self.side_um)
            return read_drawn(place, (self.height, self.width), page=page, how=how)
        return read_mask(place, page=page)


@dataclass(frozen=True, slots=True)
class Taken:
    """How masks are taken: what becomes of labels in `pieces`, and how those that were `drawn` are read.

    With `join` a file is one cell, in however many pieces. `corrects` is the run whose masks they were.
    """

    pieces: Pieces | None = None
    drawn: DrawnReading = AS_DRAWN
    join: bool = False
    corrects: CorrectedRun | None = None

    def instances(self, labels: NDArray[Any], mask: MaskFile) -> tuple[NDArray[np.uint32], bool]:
        """Instances (y, x) of the label image of `mask`, and whether a binary one was cut up.

        Raises TileReadError for labels that are no instances, as `as_instances`, `drawn_instances` and
        `refuse_whole_tile` say.
        """
        if mask.is_drawn:
            found, is_binary = drawn_instances(labels, self.pieces), False
        else:
            is_one_each = self.join or len(mask.files) > 1
            found, is_binary = as_instances(labels, "keep" if is_one_each else self.pieces)
        if self.pieces != "keep":
            refuse_whole_tile(found)
        return found, is_binary


@dataclass(frozen=True, slots=True)
class _Found:
    """A mask among files: what it is called, and what the layout makes of the path that calls it so."""

    file: PlaneFile
    name: PlaneName
    path: str
    readings: tuple[PlaneName, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CheckedMask:
    """Instances (y, x), the digest of their file, whether they are components, and what was changed in a run's mask."""

    instances: NDArray[np.uint32]
    digest: str
    is_binary: bool
    changes: Corrections | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A mask that was read; `encoded` is None where the store holds it already."""

    tile: str
    labels: growing.Labels
    encoded: shards.Encoded | None
    checked: CheckedMask


@dataclass(slots=True)
class _Noted:
    """What is learned of masks on their way into the store."""

    left_out: list[LeftOut]
    binary: list[str] = field(default_factory=list)
    corrected: dict[str, Corrections] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def add(self, tile: str, checked: CheckedMask) -> None:
        """Notes a mask that can be used."""
        self.binary += [tile] if checked.is_binary else []
        self.empty += [] if checked.instances.any() else [tile]
        self.corrected |= {} if checked.changes is None else {tile: checked.changes}


_Result: TypeAlias = _Read | LeftOut


def annotate_tiles(
    cohort: Cohort,
    source: Place,
    layout: Layout,
    *,
    restart: bool = False,
    taken: Taken | None = None,
    command: str = "",
    workers: int | None = None,
    progress: Progress | None = None,
) -> AnnotateReport:
    """Stores the masks under `source` as annotations of the tiles that they are named after.

    Instance masks keep their labels; binary masks become instances by 8-connected components, and the tiles
    where that was done are recorded. Labels in several pieces, and objects that
    overlap, are refused unless `taken` says what becomes of them. Masks that are
    stored already are skipped; a file that changed since is
    left out, unless `restart` throws the stored annotations away first. Killed anywhere, it continues when
    called again, and until then the store tells `command` as what finishes it.

    Raises FintuneValueError where `source` is no folder or holds no mask of this layout, RunBusyError where
    another process adds tiles or annotations.
    """
    with hold_tile_writes(cohort.location):
        found = found_masks(cohort, source, layout)
        taken = taken or Taken()
        told = drawn_lines(source, found.masks, taken.drawn)
        with changing_annotations(cohort, source, command, restart=restart):
            if restart or not cohort.has(f"{n.ANNOTATIONS}/{n.MASK}"):
                remove_group(cohort.location, n.ANNOTATIONS)
            workers = workers or len(os.sched_getaffinity(0))
            report = _stored(cohort, source, found, taken, workers, progress)
            if report.n_added:
                _note_source(cohort, source, layout, report.n_added)
    return replace(report, told=told)


def drawn_lines(source: Place, masks: Iterable[MaskFile], how: DrawnReading) -> tuple[str, ...]:
    """Lines on what the drawn ones of `masks` are taken for, after one look at all of them.

    Raises as `check_drawn` does.
    """
    pictures: defaultdict[str, list[tuple[int | None, tuple[int, int]]]] = defaultdict(list)
    for mask in masks:
        if mask.is_drawn:
            pictures[mask.files[0].path].append((mask.files[0].page, (mask.height, mask.width)))
    return tuple(check_drawn(source, pictures, how))


def _stored(
    cohort: Cohort, source: Place, found: FoundMasks, taken: Taken, workers: int, progress: Progress | None
) -> AnnotateReport:
    """Adds masks to the stored ones, and removes the group where there are none in the end."""
    masks, noted = found.masks, _Noted([*found.left_out])
    target = _made(cohort)
    cohort.location.sweep(n.ANNOTATIONS)
    stored = {tile: next(iter(d.values())) for tile, d in stored_digests(target).items()}
    with ThreadPoolExecutor(workers) as pool:
        read = partial(_read_mask, source, target.grid, stored, taken)
        results = ahead(pool, read, masks, depth=2 * workers)
        for _ in growing.append(target, _good(results, noted, len(masks), progress)):
            pass
    n_added = target.n_tiles - len(stored)
    n_present = len(masks) + len(found.left_out) - len(noted.left_out) - n_added
    if target.n_tiles == 0:
        remove_group(cohort.location, n.ANNOTATIONS)
    else:
        _note_components(cohort, noted.binary)
        if taken.corrects is not None:
            note_corrections(cohort, taken.corrects.run, noted.corrected)
    return _report(n_added, n_present, noted, found)


def _report(n_added: int, n_present: int, noted: _Noted, found: FoundMasks) -> AnnotateReport:
    return AnnotateReport(
        n_added, n_present, tuple(noted.left_out), tuple(noted.binary), found.ignored, noted.corrected,
        tuple(noted.empty),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """Masks of a folder by their tiles, what cannot be used and why, and how many files are none."""

    masks: list[MaskFile]
    left_out: tuple[LeftOut, ...]
    ignored: Mapping[str, int]


def found_masks(cohort: Cohort, source: Place, layout: Layout) -> FoundMasks:
    """What lies under `source` for tiles of the cohort; no pixel is read.

    Raises FintuneValueError where `source` is no folder or holds no mask of this layout.
    """
    named, unusable, ignored = named_files(source, layout)
    masks, unmatched = _matched(cohort, layout, _pages(source, named, layout))
    unmatched = [replace(one, reason=one.reason + _hint(source, one.path, layout)) for one in unmatched]
    return FoundMasks(masks, (*unusable, *unmatched), ignored)


def note_marks(cohort: Cohort, marks: str) -> None:
    """Records which cells the stored masks outline: all of a tile, or its positive ones."""
    with hold_tile_writes(cohort.location), explain_write_errors(f"{cohort.url}/{n.ANNOTATIONS}"):
        open_writable(cohort.location, n.ANNOTATIONS).attrs[n.MARKS] = marks


def stored_marks(cohort: Cohort) -> str:
    """What `note_marks` recorded, or nothing; also of annotations that were killed while they were made."""
    if not cohort.has(n.ANNOTATIONS):
        return ""
    return str(read_attrs(cohort.location, n.ANNOTATIONS).get(n.MARKS, ""))


def _pages(source: Place, named: Iterable[tuple[str, PlaneName]], layout: Layout) -> Iterator[_Found | LeftOut]:
    """Every mask; a file of several pages or of several images holds one for each."""
    for path, name in named:
        if layout.name == COCO:
            yield from _images_of_coco(source, path)
        elif layout.pages_are_tiles:
            yield from _tiles_of_file(source, path, name, layout)
        else:
            pages = _cells_of_file(source, path) if layout.joined else [None]
            yield from (_Found(PlaneFile(path, page), name, path, layout.readings(path)) for page in pages)


def _tiles_of_file(source: Place, path: str, name: PlaneName, layout: Layout) -> Iterator[_Found | LeftOut]:
    try:
        pages = read_header(place_in(source, path), dtypes=LABEL_DTYPES).pages
    except TileReadError as error:
        yield LeftOut(path, name.donor, name.marker, error.reason, name.tile_id)
        return
    for page in range(pages):
        # The tile of a page has its number behind the name.
        own, *others = (replace(one, tile=f"{one.tile}_p{page}") for one in (name, *layout.readings(path)))
        yield _Found(PlaneFile(path, page), own, path, tuple(others))


def _cells_of_file(source: Place, path: str) -> Sequence[int | None]:
    """Pages of a TIFF of which each is a cell; of a file of one page nothing has to be said."""
    if PurePosixPath(path).suffix.lower() not in TIFF_SUFFIXES:
        return [None]
    try:
        pages = read_header(place_in(source, path), dtypes=LABEL_DTYPES).pages
    except TileReadError:
        # What is wrong with it is said by whoever reads its pixels, who also takes what is no image of counts.
        return [None]
    return [None] if pages == 1 else range(pages)


def _images_of_coco(source: Place, path: str) -> Iterator[_Found | LeftOut]:
    try:
        images = coco_images(place_in(source, path))
    except TileReadError as error:
        yield LeftOut(path, "", "", error.reason)
        return
    for at, image in enumerate(images):
        name = PlaneName("", "", one_spelling(str(PurePosixPath(image).with_suffix(""))), "")
        yield _Found(PlaneFile(path, at), name, image, (name,))


def _matched(cohort: Cohort, layout: Layout, found: Iterable[_Found | LeftOut]) -> tuple[list[MaskFile], list[LeftOut]]:
    images = cohort.images(lazy=False)
    columns = (images[name].values.tolist() for name in (n.TILE, n.DONOR, n.MARKER, n.HEIGHT, n.WIDTH))
    tiles = {str(row[0]): row[1:] for row in zip(*columns, sides_um(images).tolist(), strict=True)}
    index = TileIndex.of(StoredTile(tile, *map(str, row[:2])) for tile, row in tiles.items())
    claims: defaultdict[str, list[_Found]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for item in found:
        if isinstance(item, LeftOut):
            left_out.append(item)
            continue
        name = item.name
        fits = index.of_mask(item.path, item.readings, is_told=layout.told)
        reason = _mismatch(fits, name.tile_id)
        if reason:
            left_out.append(LeftOut(str(item.file), name.donor, name.marker, reason, name.tile_id))
        else:
            claims[fits.tiles[0]].append(item)
    masks = []
    for tile, claimed in claims.items():
        files, others = _files_of(claimed, layout)
        left_out += others
        if files:
            masks.append(MaskFile(files, tile, *tiles[tile]))
    return sorted(masks, key=lambda mask: natural_key(mask.tile)), left_out


def _files_of(claimed: Sequence[_Found], layout: Layout) -> tuple[tuple[PlaneFile, ...], list[LeftOut]]:
    """Files that are a tile's mask: all where they are joined, else one, or none where nothing says which."""
    files = tuple(one.file for one in claimed)
    if layout.joined or len(files) == 1:
        return files, []
    stems = {str(PurePosixPath(file.path).with_suffix("")) for file in files}
    if len(stems) == 1:
        reason, losers = f"duplicate: same tile as {files[0]}", claimed[1:]
    else:
        reason = f"ambiguous: {len(files)} files are of this tile, {files[0]} and {files[1]} among them. "
        reason, losers = f"{reason}If each holds one cell: --join; else remove all but one.", claimed
    left_out = [LeftOut(str(one.file), one.name.donor, one.name.marker, reason, one.name.tile_id) for one in losers]
    return files[: len(files) - len(losers)], left_out


def _hint(source: Place, path: str, layout: Layout) -> str:
    """What a file of JSON is that was left out under the layout of another program; nothing for all others."""
    if layout.name == COCO or PurePosixPath(path).suffix.lower() not in JSON_SUFFIXES:
        return ""
    try:
        kind = json_kind(place_in(source, path))
    except TileReadError as error:
        return f" ({error.reason})"
    return f". It is a file of COCO, which names its images itself: --layout {COCO}" if kind == COCO else ""


def _mismatch(fits: Fits, tile_id: str) -> str:
    if not fits.tiles:
        return f"unpaired: the store has no tile {tile_id.lstrip('/')}{fits.why}"
    if len(fits.tiles) > 1:
        return f"ambiguous: the name fits {len(fits.tiles)} tiles, {fits.tiles[0]} and {fits.tiles[1]} among them"
    return ""


def _made(cohort: Cohort) -> growing.Growing:
    target = cohort.annotations_group()
    if not cohort.has(n.ANNOTATIONS):
        shape = tuple(cohort.images_group().array.shape[-2:])
        growing.create_growing(target, dtype=MASK_DTYPE, tile_shape=shape, constants={}, attrs={})
    return target


def checked_mask(source: Place, stored: Mapping[str, str], taken: Taken, mask: MaskFile) -> CheckedMask | LeftOut:
    """A mask that was read, or the reason why it cannot be used.

    `stored` are digests of masks that are stored already, by tile: another one is a reason.
    """
    try:
        labels, digest = mask.read(source, taken.drawn)
        if stored.get(mask.tile, digest) != digest:
            return mask.left_out(_CHANGED)
        if labels.shape != (mask.height, mask.width):
            return mask.left_out(
                f"wrong shape: expected {mask.height} x {mask.width} as the tile, "
                f"found {labels.shape[0]} x {labels.shape[1]}"
            )
        instances, is_binary = taken.instances(labels, mask)
        changes = None
        if taken.corrects is not None:
            changes = taken.corrects.compared(mask.tile, instances, is_stored=mask.tile in stored)
    except TileReadError as error:
        return mask.left_out(error.reason)
    return CheckedMask(instances, digest, is_binary, changes)


def plan_masks(cohort: Cohort, source: Place, layout: Layout, *, taken: Taken | None = None) -> AnnotateReport:
    """What `annotate_tiles` would do, nothing being written: every mask is read and looked at."""
    found, taken = found_masks(cohort, source, layout), taken or Taken()
    told, stored = drawn_lines(source, found.masks, taken.drawn), {}
    if cohort.has(f"{n.ANNOTATIONS}/{n.MASK}"):
        stored = {t: next(iter(d.values())) for t, d in stored_digests(cohort.annotations_group()).items()}
    noted, n_present = _Noted([*found.left_out]), 0
    for mask in found.masks:
        checked = checked_mask(source, stored, taken, mask)
        if isinstance(checked, LeftOut):
            noted.left_out.append(checked)
            continue
        n_present += mask.tile in stored
        noted.add(mask.tile, checked)
    n_added = len(found.masks) + len(found.left_out) - len(noted.left_out) - n_present
    return replace(_report(n_added, n_present, noted, found), told=told)


def _read_mask(
    source: Place, grid: shards.ShardGrid, stored: Mapping[str, str], taken: Taken, mask: MaskFile
) -> _Result:
    """The mask ready to be stored, or the reason why not."""
    checked = checked_mask(source, stored, taken, mask)
    if isinstance(checked, LeftOut):
        return checked
    facts = {
        n.TILE: mask.tile, n.SOURCE: str(mask.files[0]), n.SHA256: checked.digest,
        n.TRUTH_PROFILE: truth_profile(checked.instances),
    }  # fmt: skip
    encoded = None if mask.tile in stored else shards.encode_tile(checked.instances, grid)
    return _Read(mask.tile, facts, encoded, checked)


_CHANGED: Final = "changed since it was stored: the stored annotation is the earlier one; annotate with --restart"


def _good(
    results: Iterable[_Result], noted: _Noted, total: int, progress: Progress | None
) -> Iterator[tuple[growing.Labels, shards.Encoded]]:
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(done, total)
        if isinstance(result, LeftOut):
            noted.left_out.append(result)
            continue
        noted.add(result.tile, result.checked)
        if result.encoded is not None:
            yield result.labels, result.encoded


def _note_components(cohort: Cohort, binary: Sequence[str]) -> None:
    """Records which tiles' instances are components of a binary mask; a repeated run finds all of them again."""
    with explain_write_errors(f"{cohort.url}/{n.ANNOTATIONS}"):
        group = open_writable(cohort.location, n.ANNOTATIONS)
        group.attrs[n.FROM_COMPONENTS] = sorted({*component_tiles(cohort), *binary})


def _note_source(cohort: Cohort, source: Place, layout: Layout, n_added: int) -> None:
    """Records where masks came from and how they were read, beside the file and digest of each."""
    facts = provenance(source=root_of(str(source)), layout=layout.name, n_added=n_added)
    with explain_write_errors(f"{cohort.url}/{n.ANNOTATIONS}"):
        group = open_writable(cohort.location, n.ANNOTATIONS)
        before: Any = group.attrs.get(n.PROVENANCE, [])
        group.attrs[n.PROVENANCE] = [*before, facts]


def component_tiles(cohort: Cohort) -> list[str]:
    """Ids of the annotated tiles whose instances are 8-connected components of a binary mask."""
    return [str(tile) for tile in read_attrs(cohort.location, n.ANNOTATIONS).get(n.FROM_COMPONENTS, [])]
