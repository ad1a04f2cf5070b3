"""Verification of a store: every array present and decodable, labels unique, counts equal to masks."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from fintune_xr import names as n
from fintune_xr.errors import AnswerError, StoreDamagedError, UnreadableFileError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.store.check.classification import check_labels, check_scores
from fintune_xr.store.check.detection import check_picks, check_points
from fintune_xr.store.check.instance import CellRows, check_masks, check_regions
from fintune_xr.store.check.problem import (
    WRITTEN_AGAIN,
    Fault,
    Problem,
    TileFault,
    array_at,
    explain_faults,
    first_few,
    problem_of,
    remedy_of,
)
from fintune_xr.store.check.semantic import check_class_run, check_codes
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.same_bytes import REMEDY, named_groups
from fintune_xr.store.lineage.unfinished_annotations import unfinished_commands
from fintune_xr.store.runs.object_log import CellLog
from fintune_xr.store.runs.run import is_state_of_run
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import codecs_fault, subgroups
from fintune_xr.store.zarr_io.locks import can_be_alone
from fintune_xr.store.zarr_io.recovery import leftovers
from fintune_xr.tasks.product import CLASSES, INSTANCES, SCORES
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, SEMANTIC
from fintune_xr.text import text_array

# So many chunks are looked for one by one before it is asked how many there are.
_MANY_CHUNKS = 1024

Node: TypeAlias = zarr.Group | zarr.Array[Any]


@dataclass(frozen=True, slots=True)
class Nodes:
    """Groups and arrays of a store by path, each opened once, and a problem for each that does not open."""

    by_path: Mapping[str, Node]
    broken: Sequence[Problem]
    pixels: Sequence[str]
    """Paths of the sharded arrays."""

    @property
    def n_tiles_to_read(self) -> int:
        """Tiles over all sharded arrays."""
        arrays = (self.by_path[path] for path in self.pixels)
        return sum(int(array.shape[0]) for array in arrays if isinstance(array, zarr.Array))


# What is looked at in annotations besides their schema and their chunks, by task.
ANNOTATION_CHECKS: Final[Mapping[str, Callable[[Cohort], Iterator[Fault]]]] = {
    SEMANTIC: check_codes,
    DETECTION: check_points,
    CLASSIFICATION: check_labels,
}
# What is looked at in runs without objects besides their schema and their chunks, by product.
RUN_CHECKS: Final[Mapping[str, Callable[[Cohort, str], Iterator[TileFault]]]] = {
    CLASSES.name: check_class_run,
    SCORES.name: check_scores,
}


def check_store(cohort: Cohort, nodes: Nodes, *, advance: Callable[[int], None] = lambda _: None) -> Iterator[Problem]:
    """Everything that is wrong with a store, as it is found; reads every chunk once, a few tiles at a time.

    `nodes` are what `open_nodes` found in it. `advance` is called with the number of tiles read.

    Raises StoreUnreachableError where storage does not answer: what was not seen is neither sound nor damaged.
    """
    yield from nodes.broken
    stages: list[tuple[str, Iterator[Problem]]] = [
        ("store", _check_groups(cohort, nodes.by_path)),
        ("store", _check_columns(cohort, nodes.by_path)),
        (n.ANNOTATIONS, _check_unfinished(cohort)),
        (n.IMAGES, _check_labels(cohort)),
        (n.IMAGES, (Problem(n.IMAGES, what, REMEDY) for what in _twins(cohort, nodes))),
        *((f"{n.RUNS}/{run}", _check_tiles_of(cohort, run)) for run in cohort.run_names()),
        *((path.rpartition("/")[0], _check_pixels(cohort, nodes.by_path[path], advance)) for path in nodes.pixels),
        *((f"{n.RUNS}/{run}", _check_counts(cohort, run)) for run in cohort.run_names()),
        *((n.ANNOTATIONS, (Problem(*fault) for fault in check(cohort))) for check in _annotation_checks(cohort)),
        (n.REGION_MASKS, (Problem(*fault) for fault in check_regions(cohort))),
        (n.PICKS, (Problem(*fault) for fault in check_picks(cohort))),
    ]
    found = list(nodes.broken)
    for where, stage in stages:
        try:
            with explain_faults(cohort, cohort.url if where == "store" else f"{cohort.url}/{where}"):
                for problem in stage:
                    found.append(problem)
                    yield problem
        except UnreadableFileError as error:
            unchecked = problem_of(error, where, where, "cannot be checked")
            if unchecked not in found:
                found.append(unchecked)
                yield unchecked
        except AnswerError as error:
            # What stops a later stage is mostly what an earlier one has named.
            if not any(f"{problem.where}/".startswith(f"{where}/") for problem in found):
                yield problem_of(error, where, where, "cannot be checked")


def _annotation_checks(cohort: Cohort) -> list[Callable[[Cohort], Iterator[Fault]]]:
    is_there = cohort.has(n.ANNOTATIONS) and cohort.task.name in ANNOTATION_CHECKS
    return [ANNOTATION_CHECKS[cohort.task.name]] if is_there else []


def open_nodes(cohort: Cohort) -> Nodes:
    """What `check_store` looks at, but for what writers are at work on.

    Raises StoreUnreachableError where storage does not answer.
    """
    store = cohort.location.zarr()
    nodes: dict[str, Node] = {}
    broken = []
    for key in cohort.location.descriptions():
        path = key.rpartition("/")[0]
        if not path or path.partition("/")[0] == n.STAGING:
            continue
        try:
            with explain_faults(cohort, f"{cohort.url}/{path}"):
                nodes[path] = zarr.open(store, path=path, mode="r")
        except (StoreDamagedError, UnreadableFileError) as error:
            broken.append(problem_of(error, path, path, "its description zarr.json cannot be read"))
    return Nodes(nodes, broken, [path for path in _pixel_arrays(cohort) if path in nodes])


def _pixel_arrays(cohort: Cohort) -> list[str]:
    """Paths of the sharded arrays that a store may have."""
    paths = [f"{n.IMAGES}/{n.IMAGE}"]
    paths += [f"{n.ANNOTATIONS}/{cohort.task.array}"] if cohort.task.array else []
    arrays = {run: _pixels(cohort, run) for run in cohort.run_names()}
    paths += [f"{n.RUNS}/{run}/{array}" for run, array in arrays.items() if array is not None]
    paths += [f"{n.REGION_MASKS}/{n.REGION_MASK}"]
    return [*paths, *(f"{n.PSEUDO}/{name}/{n.TARGET}" for name in subgroups(cohort.location, n.PSEUDO))]


def _check_groups(cohort: Cohort, nodes: Mapping[str, Node]) -> Iterator[Problem]:
    doors: dict[str, Callable[[], Any]] = {n.IMAGES: cohort.images, n.QUARANTINE: cohort.quarantine}
    if cohort.has(n.ANNOTATIONS):
        doors[n.ANNOTATIONS] = cohort.annotated_tiles
    if cohort.has(n.REGION_MASKS):
        doors[n.REGION_MASKS] = cohort.regions
    for run in cohort.run_names():
        doors[f"{n.RUNS}/{run}"] = _bound(cohort.run, run)
    half_written = {path for path, node in nodes.items() if _is_half_written(node)}
    for name, door in doors.items():
        if name in half_written:
            continue
        try:
            with explain_faults(cohort, f"{cohort.url}/{name}"):
                door()
        except (AnswerError, UnreadableFileError) as error:
            is_to_be_finished = name in (n.IMAGES, n.ANNOTATIONS) and _is_written_in_part(nodes, name)
            found = problem_of(error, name, name)
            yield replace(found, remedy=WRITTEN_AGAIN) if is_to_be_finished else found
    for path in sorted(half_written):
        yield Problem(path, "left half-written", WRITTEN_AGAIN)
    left = leftovers(cohort.location)
    if left:
        yield Problem(
            "store",
            f"{len(left)} unfinished file(s) or group(s), {left[0]} among them, of a killed writer or of one at work",
            "Harmless; the next step that writes while no other does removes them"
            + (", or `fintune-xr check --repair`" if can_be_alone(cohort.location) else ""),
        )


def _is_half_written(node: Node) -> bool:
    return isinstance(node, zarr.Group) and node.attrs.get(n.COMPLETE) is False


def _is_begun(nodes: Mapping[str, Node], group: str) -> bool:
    """Whether a killed writer was making a group of tiles: its array of pixels, which is made last, is not there."""
    return group in (n.IMAGES, n.ANNOTATIONS) and not _n_committed(nodes, group) and _is_written_in_part(nodes, group)


def _n_committed(nodes: Mapping[str, Node], group: str) -> list[int]:
    """How many tiles each of the arrays of pixels in a group has."""
    inside = [node for path, node in nodes.items() if path.rpartition("/")[0] == group]
    return [node.shape[0] for node in inside if isinstance(node, zarr.Array) and node.shards is not None]


def _is_written_in_part(nodes: Mapping[str, Node], group: str) -> bool:
    """Whether a killed writer left it so, whose command goes on: labels beyond the pixels, or no tile at all yet."""
    inside = [node for path, node in nodes.items() if path.rpartition("/")[0] == group]
    arrays = [node for node in inside if isinstance(node, zarr.Array) and node.ndim]
    pixels = [node.shape[0] for node in arrays if node.shards is not None]
    labels = [node.shape[0] for node in arrays if node.shards is None and _dims(node)[0] == n.TILE]
    if not pixels:
        # The array of pixels is made last.
        return not any(labels)
    return all(label >= pixels[0] for label in labels) and any(label > pixels[0] for label in labels)


def _dims(array: zarr.Array[Any]) -> tuple[str | None, ...]:
    return getattr(array.metadata, "dimension_names", None) or (None,)


def _check_unfinished(cohort: Cohort) -> Iterator[Problem]:
    for root, command in unfinished_commands(cohort).items():
        what = f"those from {root} are unfinished: `annotate` was interrupted, or is at work"
        yield Problem(n.ANNOTATIONS, what, f"Finish it: `{command}`")


def _twins(cohort: Cohort, nodes: Nodes) -> Iterator[str]:
    images = nodes.by_path.get(f"{n.IMAGES}/{n.IMAGE}")
    yield from named_groups(cohort, int(images.shape[0]) if isinstance(images, zarr.Array) else None)


def _check_columns(cohort: Cohort, nodes: Mapping[str, Node]) -> Iterator[Problem]:
    """Every small array decodes; read in blocks of rows. Of a group that was left half-written nothing is expected."""
    half_written = {path for path, node in nodes.items() if _is_half_written(node) or _is_begun(nodes, path)}
    for path, member in nodes.items():
        if not isinstance(member, zarr.Array) or member.shards is not None or member.ndim == 0:
            continue
        if path.rpartition("/")[0] in half_written:
            continue
        if missing := _tells_of_too_many(member):
            yield Problem(path, missing, remedy_of(path))
            continue
        if fault := codecs_fault(member):
            yield Problem(path, f"nothing can be written with the codecs of its description: {fault}", remedy_of(path))
        rows = max(1, member.chunks[0])
        n_rows = _committed_rows(nodes, path, member)
        for first in range(0, n_rows, rows):
            last = min(first + rows, n_rows)
            try:
                with explain_faults(cohort, str(member.store_path)):
                    member[first:last]
            except (StoreDamagedError, UnreadableFileError) as error:
                hit = range(first, last) if is_state_of_run(path) else ()
                yield problem_of(error, path, path, f"rows from {first} cannot be read", hit)


def _committed_rows(nodes: Mapping[str, Node], path: str, column: zarr.Array[Any]) -> int:
    """Rows of a small array, and of a label of tiles those that are committed: a killed writer left the others."""
    group = path.rpartition("/")[0]
    if _dims(column)[0] != n.TILE:
        return int(column.shape[0])
    return min([int(column.shape[0]), *_n_committed(nodes, group)])


def _tells_of_too_many(array: zarr.Array[Any]) -> str:
    """Why the shape of an array cannot be true, empty where it may be; such an array would be read without end."""
    described = math.prod(array.cdata_shape)
    if described <= _MANY_CHUNKS:
        return ""
    stored = sync(_count(array.store_path.store.list_prefix(f"{array.store_path.path}/")))
    if described <= 2 * stored + _MANY_CHUNKS:
        return ""
    return f"its description tells of {described:,} chunks (shape {array.shape}), and {stored - 1:,} are stored"


async def _count(names: AsyncIterator[str]) -> int:
    return len([name async for name in names])


def _check_labels(cohort: Cohort) -> Iterator[Problem]:
    tiles = text_array(cohort.images(lazy=False)[n.TILE])
    for tile, count in Counter(tiles.tolist()).items():
        if count > 1:
            yield Problem(f"{n.IMAGES}/{n.TILE}", f"tile {tile} is there {count} times", "Ingest into a new store")


def _check_tiles_of(cohort: Cohort, run: str) -> Iterator[Problem]:
    """The tiles of a run are the first of the images."""
    stored, tiles = (text_array(one[n.TILE]) for one in (cohort.run(run, lazy=False), cohort.images(lazy=False)))
    if (stored != tiles[: stored.size]).any():
        yield Problem(f"{n.RUNS}/{run}", "tiles are not those of the images", f"Make run {run} again with --restart")


def _check_pixels(cohort: Cohort, array: Node, advance: Callable[[int], None]) -> Iterator[Problem]:
    """Shards there, indexes sound, every chunk of a tile that should hold pixels decodes."""
    if not isinstance(array, zarr.Array):
        raise StoreDamagedError(f"{array.path}: expected an array, found a group")
    grid = shards.grid_of(array)
    expected = _expected_tiles(cohort, array.path, int(array.shape[0]))
    for shard in range(math.ceil(array.shape[0] / grid.tiles_per_shard)):
        rows = range(shard * grid.tiles_per_shard, min((shard + 1) * grid.tiles_per_shard, array.shape[0]))
        wanted = [row for row in rows if expected[row]]
        if wanted:
            yield from _check_shard(cohort, array, grid, shard, wanted)
        advance(len(rows))


def _check_shard(
    cohort: Cohort, array: zarr.Array[Any], grid: shards.ShardGrid, shard: int, wanted: list[int]
) -> Iterator[Problem]:
    try:
        with explain_faults(cohort, grid.key(shard)):
            index = shards.read_index(cohort.location, grid, shard)
    except (StoreDamagedError, UnreadableFileError) as error:
        yield problem_of(error, grid.key(shard), grid.path, tiles=wanted)
        return
    absent = [row for row in wanted if (index[row % grid.tiles_per_shard] == shards.ABSENT).any()]
    errors = list(_errors_of_tiles(cohort, array, [row for row in wanted if row not in absent]))
    broken = [row for row, error in errors if isinstance(error, StoreDamagedError)]
    unread = [row for row, error in errors if isinstance(error, UnreadableFileError)]
    for rows, what in (
        (absent, "are absent from the shard"),
        (broken, "fail their checksum or do not decode"),
    ):
        if rows:
            said = f"{len(rows)} tile(s) {what}: {first_few(rows, 10)}"
            yield Problem(grid.key(shard), said, remedy_of(grid.path), tuple(rows))
    if unread:
        said = f"{len(unread)} tile(s) cannot be read, {first_few(unread, 10)}"
        yield problem_of(dict(errors)[unread[0]], grid.key(shard), grid.path, said)


def _errors_of_tiles(cohort: Cohort, array: zarr.Array[Any], rows: Iterable[int]) -> Iterator[tuple[int, Exception]]:
    def error_of(row: int) -> tuple[int, Exception | None]:
        try:
            with explain_faults(cohort, f"tile {row} of {array.path}"):
                array[row]
        except (StoreDamagedError, UnreadableFileError) as error:
            return row, error
        return row, None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for row, error in ahead(pool, error_of, rows, depth=8):
            if error is not None:
                yield row, error


def _check_counts(cohort: Cohort, run: str) -> Iterator[Problem]:
    """Objects per tile equal to the rows of their table; cells and their areas also to the labels in the mask."""
    product = cohort.run_product(run)
    if product.name in RUN_CHECKS:
        yield from (Problem(*fault) for fault in RUN_CHECKS[product.name](cohort, run))
    if product.objects is None:
        return
    stored = cohort.run(run, lazy=False)
    states, counts = stored[n.STATE].values, stored[n.N_CELLS].values
    done = np.flatnonzero(states == n.DONE)
    # While there is a log, the table is that of an earlier state, or has yet to be made of it.
    ended = (states != n.PENDING).all() and not cohort.has(CellLog(cohort.location, run).path)
    table = CellRows(cohort, run, done, counts) if ended else None
    if table is not None and table.fault:
        yield Problem(f"{n.CELLS}/{run}", table.fault, remedy_of(f"{n.CELLS}/{run}"))
        table = None
    if product is INSTANCES:
        yield from check_masks(cohort, run, done, counts, table)


def _expected_tiles(cohort: Cohort, path: str, n_tiles: int) -> NDArray[np.bool_]:
    """Which tiles must have pixels: all, except the pending ones of a run."""
    group, _, _ = path.rpartition("/")
    if not group.startswith(f"{n.RUNS}/"):
        return np.ones(n_tiles, bool)
    state = array_at(cohort, f"{group}/{n.STATE}")
    pending: NDArray[np.bool_] = np.asarray(state[:n_tiles]) == n.PENDING
    return ~pending


def _pixels(cohort: Cohort, run: str) -> str | None:
    """Name of the array of pixels of a run, if any; that of masks where it cannot be opened, which is reported."""
    try:
        with explain_faults(cohort, f"{cohort.url}/{n.RUNS}/{run}"):
            return cohort.run_product(run).array
    except (AnswerError, UnreadableFileError):
        return n.MASK


def _bound(function: Callable[[str], Any], name: str) -> Callable[[], Any]:
    return lambda: function(name)
