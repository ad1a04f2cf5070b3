"""From files of volumes to the store: fetched, decoded and brought to the grid B-scan by B-scan, appended in order.

The commit is that of every ingest (`store/zarr_io/appendable`): shard, labels, length. Killed anywhere, it continues.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.pixels.pixel_digest import pixel_labels
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
from fintune_xr.store.ingest.new_tiles import Labelled, Mapper, NewTiles, ReadOn, append_new
from fintune_xr.store.ingest.quarantine import replace_quarantine
from fintune_xr.store.ingest.tiles import IngestReport, clear_stillborn, is_stillborn, root_of
from fintune_xr.store.ingest.viewer_metadata import describe_images
from fintune_xr.store.raw.fetching import Staging, fetch_tile, in_few_words, with_file, with_tile
from fintune_xr.store.raw.layouts import UNKNOWN_MARKER
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.readers.volume_header import VolumeHeader
from fintune_xr.store.raw.readers.volumes import (
    NIFTI_SUFFIXES,
    ZYX,
    Reading,
    check_axes,
    suffix_of,
    volume_frames,
    volume_header,
)
from fintune_xr.store.raw.resampling import Gridded, moments, to_grid
from fintune_xr.store.raw.scan import Progress
from fintune_xr.store.raw.sources import Place, place_in
from fintune_xr.store.raw.volume_scan import VolumeFile, VolumeScan
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.store.zarr_io.refusals import is_refusal
from fintune_xr.tasks.task import CLASSIFICATION

Grid = tuple[int, int, int]

STUDY_GRID: Final[Grid] = (64, 384, 384)
_LISTED: Final = 12


@dataclass(frozen=True, slots=True)
class VolumeIngest:
    """How volumes are stored: on which grid (None: as they are, where all agree), read how, staged where.

    `left_out` says of each file that could be read, by its header and its mean, why it is not wanted, or nothing.
    """

    grid: Grid | None = None
    reading: Reading = field(default_factory=Reading)
    staging: Staging | None = None
    workers: int | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        check_axes(self.reading.axes)
        if self.grid is not None and (len(self.grid) != 3 or min(self.grid) < 1):
            raise FintuneValueError(f"--grid: expected three lengths from 1 on (z, y, x), got {self.grid}")

    @property
    def n_workers(self) -> int:
        """Threads that fetch, decode and compress."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Measured:
    """A volume that was read, without its pixels: mean and sd of its values, and the `step` that they are stored in."""

    file: VolumeFile
    header: VolumeHeader
    mean: float
    sd: float
    step: float


def open_or_create_volumes(where: Place, found: VolumeScan, how: VolumeIngest, *, title: str = "") -> Cohort:
    """The cohort at `where`, made for volumes on the grid where there is none yet.

    Raises FintuneValueError where no volume was found to make it for, the store is on another grid or read with other
    axes, or files disagree and no grid was named.
    """
    location = Location.of(where)
    if location.exists() and not is_stillborn(location):
        cohort = open_cohort(location)
        _check_as_stored(cohort, how)
        return cohort
    if not found.files:
        raise FintuneValueError(
            f"no volume under {found.source} that can be stored, {len(found.left_out)} left out; so no store was made. "
            "See `--dry-run` for the reasons."
        )
    grid = how.grid or _common_grid(found, how)
    if location.exists():
        clear_stillborn(location)
    return create_cohort(
        where, kind=found.layout.kind, channels=list(found.layout.channels.values()), tile_shape=grid, dtype="uint8",
        title=title, facts={n.GRID: list(grid), n.AXES: how.reading.axes},
    )  # fmt: skip


def ingest_volumes(
    cohort: Cohort,
    found: VolumeScan,
    how: VolumeIngest,
    *,
    unwanted: Callable[[Sequence[Measured]], dict[str, str]] | None = None,
    progress: Progress | None = None,
    mapper: Mapper | None = None,
) -> IngestReport:
    """Appends the volumes of `found` that the store lacks, in their order; what cannot be used is quarantined.

    Threads fetch, decode and compress; memory is a file, the grid and a few B-scans for each. With `unwanted` every
    file is read twice: first all of them are measured, and those that it names are quarantined with its reasons.

    Raises RunBusyError where another process adds tiles, StoreWriteError where the store cannot be written.
    """
    with hold_tile_writes(cohort.location):
        cohort.location.sweep(n.IMAGES)
        root, began = root_of(found.source), time.time()
        stored = stored_digests(cohort.images_group())
        present = [file.as_tile for file in found.files if file.tile in stored]
        fresh = [file for file in found.files if file.tile not in stored]
        doubtful = present if how.verify else list(suspects(cohort, found.source, present, stored, root))
        left_out = [*found.left_out, *find_changes(found.source, doubtful, stored, how.n_workers)]
        how = _turning(cohort, found, fresh, how)
        if unwanted is not None:
            reasons = unwanted(measure_volumes(found, fresh, how, cohort.images_group().grid))
            left_out += [_left_out(file, reasons[file.tile]) for file in fresh if file.tile in reasons]
            fresh = [file for file in fresh if file.tile not in reasons]
        covers = found.looked_at.__contains__
        # Before the first volume is read: what is found changed must not be forgotten if this run is killed.
        replace_quarantine(cohort, left_out, root=root, layout=found.layout, covers=covers)
        n_told = len(left_out)
        note_checked(cohort, root, began)
        target = cohort.images_group()
        reader = partial(
            _volume_reader, replace(found, files=(), left_out=(), ignored={}, looked_at=frozenset()), how, target.grid
        )
        n_added = append_new(NewTiles(cohort, fresh, reader), left_out, ReadOn(how.n_workers, progress, mapper))
        if len(left_out) > n_told:
            replace_quarantine(cohort, left_out, root=root, layout=found.layout, covers=covers)
        if n_added:
            _note_ingest(cohort, found, root, n_added)
        describe_images(cohort)
    return IngestReport(n_added, len(present), tuple(left_out))


def read_headers(found: VolumeScan, how: VolumeIngest) -> list[tuple[VolumeFile, VolumeHeader | str]]:
    """For each file its header, or why there is none; as few bytes as possible are fetched."""

    def one(file: VolumeFile) -> tuple[VolumeFile, VolumeHeader | str]:
        place = place_in(found.source, file.path)
        try:
            header = with_file(place, lambda opened: volume_header(opened, file.path, how.reading))
            return file, _of_its_name(file, header, found.donors)
        except TileReadError as error:
            return file, error.reason
        except Exception as error:
            if not (isinstance(error, OSError) or is_refusal(error)):
                raise
            return file, f"not fetched: {getattr(error, 'strerror', None) or in_few_words(error)}"

    with ThreadPoolExecutor(how.n_workers) as pool:
        return list(pool.map(one, found.files))


def measure_volumes(
    found: VolumeScan, files: Sequence[VolumeFile], how: VolumeIngest, grid: shards.ShardGrid
) -> list[Measured]:
    """What each readable file holds, in order; pixels are read and let go."""
    lengths: Grid = grid.shard[-3:]  # type: ignore[assignment]

    def one(file: VolumeFile) -> Measured | None:
        try:
            header, made, _ = _gridded(found, file, how, lengths)
        except TileReadError:
            return None
        return Measured(file, header, *_moments(made), made.step)

    with ThreadPoolExecutor(how.n_workers) as pool:
        return [item for item in ahead(pool, one, files, depth=2 * how.n_workers) if item is not None]


def device_of(file: VolumeFile, header: VolumeHeader) -> str:
    """The device by its folder or the manifest, else as the file itself tells it."""
    return (file.marker != UNKNOWN_MARKER and file.marker) or header.device or UNKNOWN_MARKER


def stored_grid(cohort: Cohort) -> Grid:
    """Lengths (z, y, x) that every volume of the store was brought to."""
    depth, height, width = cohort.images_group().array.shape[-3:]
    return int(depth), int(height), int(width)


def _check_as_stored(cohort: Cohort, how: VolumeIngest) -> None:
    if cohort.task.name != CLASSIFICATION:
        raise FintuneValueError(f"{cohort.url} is a cohort of kind {cohort.kind!r}; volumes need a store of their own.")
    attrs, stored = group_attrs_of(cohort), stored_grid(cohort)
    if how.grid is not None and tuple(how.grid) != stored:
        raise FintuneValueError(
            f"{cohort.url} is on the grid {' '.join(map(str, stored))}, asked for is {' '.join(map(str, how.grid))}. "
            "Leave --grid out, or ingest into another store."
        )
    if attrs.get(n.AXES, ZYX) != how.reading.axes:
        raise FintuneValueError(
            f"{cohort.url} was read with --axes {attrs.get(n.AXES, ZYX)}, asked for is {how.reading.axes}. Use the "
            "same, or another store."
        )


def _common_grid(found: VolumeScan, how: VolumeIngest) -> Grid:
    shapes: dict[Grid, int] = {}
    for _, header in read_headers(found, how):
        if isinstance(header, VolumeHeader):
            shapes[header.shape] = shapes.get(header.shape, 0) + 1
    if len(shapes) == 1:
        return next(iter(shapes))
    listed = ", ".join(f"{' x '.join(map(str, shape))}: {count}" for shape, count in sorted(shapes.items())[:_LISTED])
    raise FintuneValueError(
        f"{found.source}: without --grid all volumes must be of one size, found {listed or 'none that can be read'}. "
        "Name the grid that all are brought to, e.g. --grid 64 384 384."
    )


def _turning(cohort: Cohort, found: VolumeScan, fresh: Sequence[VolumeFile], how: VolumeIngest) -> VolumeIngest:
    """`how`, turning NIfTI to the orientation of the store, which is that of the first file that tells its own.

    A store of an earlier release does not know how its volumes lie, and goes on taking them as they do.
    """
    if n.ORIENTATION not in cohort.images_group().labels:
        return how
    stored = str(group_attrs_of(cohort).get(n.ORIENTATION) or "")
    if not stored:
        nifti = (file for file in fresh if suffix_of(file.path) in NIFTI_SUFFIXES)
        stored = next(filter(None, (_own_orientation(found, file, how) for file in nifti)), "")
        if stored:
            update_attr(cohort, n.ORIENTATION, lambda _before: stored)
    return replace(how, reading=replace(how.reading, orientation=stored))


def _own_orientation(found: VolumeScan, file: VolumeFile, how: VolumeIngest) -> str:
    """Where the axes of a file point to; empty where it does not tell, or is damaged, gone or forbidden itself.

    Raises StoreUnreachableError where its storage does not answer: by the next file, all volumes might be turned
    otherwise than by this one.
    """
    try:
        header = with_tile(
            place_in(found.source, file.path), lambda opened: volume_header(opened, file.path, how.reading)
        )
    except TileReadError:
        return ""
    return header.orientation


def _volume_reader(
    found: VolumeScan, how: VolumeIngest, grid: shards.ShardGrid, _readers: int
) -> Callable[[VolumeFile], Labelled | LeftOut]:
    return partial(_read_volume, found, how, grid)


def _read_volume(found: VolumeScan, how: VolumeIngest, grid: shards.ShardGrid, file: VolumeFile) -> Labelled | LeftOut:
    lengths: Grid = grid.shard[-3:]  # type: ignore[assignment]
    try:
        header, made, digest = _gridded(found, file, how, lengths)
    except TileReadError as error:
        return _left_out(file, error.reason)
    labels = {**_labels(file, header, made, digest), **pixel_labels(made.pixels[None])}
    return labels, shards.encode_tile(made.pixels[None], grid)


def _gridded(found: VolumeScan, file: VolumeFile, how: VolumeIngest, grid: Grid) -> tuple[VolumeHeader, Gridded, str]:
    """Header, pixels on the grid, and the SHA-256 of the very bytes that they were decoded from."""
    content = fetch_tile(place_in(found.source, file.path), how.staging)
    header, frames = volume_frames(content, file.path, how.reading)
    _of_its_name(file, header, found.donors)
    made = to_grid(frames, header.shape, grid, is_byte=header.dtype == "uint8")
    return header, made, hashlib.sha256(content).hexdigest()


def _of_its_name(file: VolumeFile, header: VolumeHeader, donors: frozenset[str]) -> VolumeHeader:
    """`header`; raises TileReadError where it tells of another eye, or another of the `donors`, than names do."""
    side = file.laterality or file.doubtful_side
    if side and header.laterality and side != header.laterality:
        raise TileReadError(
            f"the file tells of eye {header.laterality}, its name or the manifest of {side}; correct one", file.path
        )
    if header.patient != file.donor and header.patient in donors:
        raise TileReadError(
            f"the file tells of participant {header.patient}, its name or the manifest of {file.donor}; correct one",
            file.path,
        )
    return header


def _moments(made: Gridded) -> tuple[float, float]:
    """Mean and standard deviation of the values as the file counts them."""
    mean, sd = moments(made.pixels)
    return made.offset + made.step * mean, made.step * sd


def _labels(file: VolumeFile, header: VolumeHeader, made: Gridded, digest: str) -> dict[str, Any]:
    (depth, height, width), (mean, sd) = made.pixels.shape, _moments(made)
    return {
        n.TILE: file.tile, n.DONOR: file.donor, n.MARKER: device_of(file, header), n.SPLIT: file.split,
        n.DEPTH: depth, n.HEIGHT: height, n.WIDTH: width, n.SOURCE: [file.path], n.SHA256: [digest],
        n.SOURCE_DEPTH: header.depth, n.SOURCE_HEIGHT: header.height, n.SOURCE_WIDTH: header.width,
        n.SPACING_Z: header.spacing[0], n.SPACING_Y: header.spacing[1], n.SPACING_X: header.spacing[2],
        n.LATERALITY: file.laterality or header.laterality, n.PROTOCOL: file.protocol,
        n.ORIENTATION: header.orientation,
        n.VALUE_OFFSET: made.offset, n.VALUE_STEP: made.step, n.VALUE_MEAN: mean, n.VALUE_SD: sd,
    }  # fmt: skip


def _left_out(file: VolumeFile, reason: str) -> LeftOut:
    return LeftOut(file.path, file.donor, file.marker, reason, file.tile)


def _note_ingest(cohort: Cohort, found: VolumeScan, root: str, n_added: int) -> None:
    facts = provenance(
        source=root, layout=found.layout.name, patterns=list(found.layout.patterns), listed=found.listed,
        n_added=n_added,
    )  # fmt: skip
    update_attr(cohort, n.INGESTS, lambda before: [*(before or []), facts])
