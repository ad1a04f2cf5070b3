"""Particle coordinates into the store, each file paired with its micrograph."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.store.annotations.corner import only_in_corner
from fintune_xr.store.annotations.detection_layouts import micrograph_candidates
from fintune_xr.store.annotations.micrograph_frames import (
    AS_USUAL,
    Micrograph,
    Reading,
    check_reading,
    close_together,
    first_of_close,
    is_outside,
    merge_limit,
    outside,
    stored_micrographs,
    to_stored,
    with_pixels,
)
from fintune_xr.store.annotations.tile_index import Fits, StoredTile, TileIndex
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.tiles import stored_binning
from fintune_xr.store.lineage.unfinished_annotations import changing_annotations
from fintune_xr.store.raw.binning import TOP_FIRST
from fintune_xr.store.raw.coordinates import FRAME_OF, Frame, Particles, read_coordinates
from fintune_xr.store.raw.coordinates.delimited_text import HEADERLESS
from fintune_xr.store.raw.extra_files import PassedOver
from fintune_xr.store.raw.layouts import Layout, PlaneName
from fintune_xr.store.raw.pairing import LeftOut
from fintune_xr.store.raw.scan import Progress, named_files
from fintune_xr.store.raw.sources import Place, is_url, place_in
from fintune_xr.store.zarr_io.locks import hold_tile_writes
from fintune_xr.tasks.detection import POINTS, Points, points_table, tile_points
from fintune_xr.text import texts

_CHANGED: Final = "changed since it was stored: the stored points are the earlier ones; annotate with --restart"
_OTHERWISE: Final = (
    "stored before with another --frame, --scale, --diameter or --merge-closer: the stored points are the earlier "
    "ones; annotate with --restart"
)

_OF_TEXT: Final = ".txt"
_ROWS: Final[Mapping[Frame, str]] = {
    "image": "from the top of the picture",
    "file": "as the micrograph's file has them",
}


@dataclass(frozen=True, slots=True)
class PointsReport:
    """Micrographs annotated now and before, points stored now, files left out and why, and what else lay there.

    `n_cut` points lie on rows or columns that binning left out: there are no pixels of them; `n_twice`
    are in their file twice, and stored once; `n_outside` lie outside their micrograph and were left away, as asked, and
    so were `n_merged` that lie too close to another. `n_close` that are stored lie closer to another than half their
    diameter, the closest ones `closest` diameters.
    `meanings` counts what the numbers of the tables were taken for, and `lowest_score` is that of all particles, NaN
    where no file tells scores. Files of `empty` micrographs hold no particle, and `told`
    are lines on what was found strange.
    """

    n_added: int
    n_present: int
    n_points: int
    n_cut: int
    left_out: tuple[LeftOut, ...]
    ignored: Mapping[str, int]
    n_twice: int = 0
    n_outside: int = 0
    meanings: Mapping[str, int] = field(default_factory=dict)
    lowest_score: float = math.nan
    n_merged: int = 0
    n_close: int = 0
    closest: float = math.inf
    empty: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    """Particles of one micrograph as a file holds them."""

    path: str
    name: PlaneName
    micrograph: str
    particles: Particles
    sha256: str
    is_told: bool = False

    def left_out(self, reason: str) -> LeftOut:
        """This table as one that cannot be used."""
        path = f"{self.path} ({self.micrograph})" if self.micrograph else self.path
        return LeftOut(path, self.name.donor, self.name.marker, reason, self.name.tile)


def annotate_points(
    cohort: Cohort,
    source: Place,
    layout: Layout,
    *,
    reading: Reading = AS_USUAL,
    restart: bool = False,
    dry_run: bool = False,
    command: str = "",
    progress: Progress | None = None,
) -> PointsReport:
    """Stores the particles under `source`, a folder or a file, as points of the micrographs that they are named after.

    A file is stored whole or left out with its reason. Micrographs that have points already are skipped; a file that
    changed since, or is read otherwise, is left out, unless `restart` throws the stored points away first. All points
    are written at once, so a kill leaves those of before, and `command` as what finishes it. With `dry_run` everything
    is read and nothing is written.

    Raises FintuneValueError where `source` holds no coordinates of this layout or a diameter is missing, RunBusyError
    where another process adds tiles or annotations.
    """
    check_reading(reading)
    root, named, unusable, ignored = _found(source, layout)
    with contextlib.nullcontext() if dry_run else hold_tile_writes(cohort.location):
        before = {} if restart or not cohort.has(n.ANNOTATIONS) else _stored(cohort)
        collected = _Collected(before, list(unusable))
        micrographs = stored_micrographs(cohort)
        index = TileIndex.of(StoredTile(one.tile, one.donor, one.marker) for one in micrographs.values())
        for done, (path, name) in enumerate(named, start=1):
            for table in _tables(root, path, name, layout.told, collected, ignored):
                _add(collected, table, micrographs, index, reading)
            if progress is not None:
                progress(done, len(named))
        _check_reach(collected, reading)
        if collected.fresh and not dry_run:
            with changing_annotations(cohort, source, command, restart=restart):
                _write(cohort, collected, list(micrographs))
    n_points = sum(len(one.points) for one in collected.fresh.values())
    return PointsReport(
        len(collected.fresh),
        len(collected.present),
        n_points,
        collected.n_cut,
        tuple(collected.left_out),
        ignored,
        collected.n_twice,
        collected.n_outside,
        collected.meanings,
        collected.lowest_score,
        collected.n_merged,
        collected.n_close,
        collected.closest,
        tuple(collected.empty),
    )


@dataclass(frozen=True, slots=True)
class _Annotated:
    """Points of a tile and the file that they come from."""

    points: Points
    source: str
    sha256: str


@dataclass(slots=True)
class _Collected:
    """What is to be stored, by tile: what was there `before`, and what has been read."""

    before: Mapping[str, _Annotated]
    left_out: list[LeftOut]
    fresh: dict[str, _Annotated] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    n_cut: int = 0
    n_twice: int = 0
    n_outside: int = 0
    meanings: Counter[str] = field(default_factory=Counter)
    lowest_score: float = math.nan
    n_merged: int = 0
    n_close: int = 0
    closest: float = math.inf
    reach: list[NDArray[np.float64]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    folders: dict[str, set[str]] = field(default_factory=dict)

    def path_of(self, tile: str) -> str:
        """The file that was read for `tile` just now, empty where none was."""
        if tile in self.fresh:
            return self.fresh[tile].source
        return self.before[tile].source if tile in self.present else ""


def _add(
    collected: _Collected, table: _Table, micrographs: Mapping[str, Micrograph], index: TileIndex, reading: Reading
) -> None:
    """Puts one table among what is to be stored, or among what is left out."""
    fits = micrograph_candidates(index, table.path, table.name, table.micrograph, is_told=table.is_told)
    reason = _mismatch(fits, table, collected)
    if reason:
        collected.left_out.append(table.left_out(reason))
        return
    micrograph = micrographs[fits.tiles[0]]
    frame = reading.frame or FRAME_OF[PurePosixPath(table.path).suffix.lower()]
    try:
        points = to_stored(table.particles, micrograph, reading, frame)
    except TileReadError as error:
        collected.left_out.append(table.left_out(error.reason))
        return
    if np.isnan(points.diameter_px).any():
        raise FintuneValueError(
            f"{table.path} does not tell the diameter of its particles. Give it with --diameter, in the unit of the "
            "coordinates."
        )
    inside = _inside(points, micrograph) if reading.drop_outside else points
    kept = first_of_close(inside, merge_limit(table.particles, micrograph, reading))
    reason = outside(kept, micrograph) or _difference(collected.before.get(micrograph.tile), kept, table)
    if reason:
        collected.left_out.append(table.left_out(reason))
        return
    collected.empty += [] if len(kept) else [micrograph.tile]
    if micrograph.tile in collected.before:
        collected.present.add(micrograph.tile)
    else:
        collected.n_outside += len(points) - len(inside)
        collected.n_merged += len(inside) - len(kept)
        _keep(collected, table, kept, micrograph, frame)


def _inside(points: Points, micrograph: Micrograph) -> Points:
    """Those of `points` that lie on the micrograph; all of them where most do not, as then they are of another."""
    gone = is_outside(points, micrograph)
    return points if 2 * gone.sum() > len(points) else Points(points.yx[~gone], points.diameter_px[~gone])


def _keep(collected: _Collected, table: _Table, points: Points, micrograph: Micrograph, frame: Frame) -> None:
    particles = table.particles
    kept = with_pixels(points, micrograph)
    collected.n_cut += len(points) - len(kept)
    collected.n_twice += particles.n_twice
    n_close, closest = close_together(kept)
    collected.n_close += n_close
    collected.closest = min(collected.closest, closest)
    collected.lowest_score = float(np.fmin(collected.lowest_score, particles.lowest_score))
    collected.meanings[f"{particles.meaning}, rows counted {_ROWS[frame]}"] += 1
    if not (particles.is_fraction or particles.unit):
        collected.reach.append(particles.yx / [micrograph.source_height, micrograph.source_width])
    collected.fresh[micrograph.tile] = _Annotated(kept, table.path, table.sha256)


def _check_reach(collected: _Collected, reading: Reading) -> None:
    """Raises FintuneValueError where nobody said what the numbers are, and they can hardly be px."""
    is_told = reading.unit is not None or reading.scale != 1
    reason = "" if is_told else only_in_corner(collected.reach, "points", "angstrom")
    if reason:
        raise FintuneValueError(reason)


def _mismatch(fits: Fits, table: _Table, collected: _Collected) -> str:
    wanted = table.micrograph or table.name.tile
    tiles = fits.tiles
    if not tiles:
        return f"unpaired: the store has no micrograph {wanted}{fits.why}"
    if len(tiles) > 1:
        return f"ambiguous: {wanted} fits {len(tiles)} micrographs, {tiles[0]} and {tiles[1]} among them"
    earlier = collected.path_of(tiles[0])
    reason = _dispute(tiles[0], table, collected)
    if reason:
        return reason
    return f"duplicate: same micrograph as {earlier}" if earlier else ""


def _dispute(tile: str, table: _Table, collected: _Collected) -> str:
    """Why nothing can be taken for `tile`: micrographs of several folders have its name, and only one of them is it."""
    if not table.micrograph:
        return ""
    folder = str(PurePosixPath(table.micrograph).parent)
    others = collected.folders.setdefault(tile, {folder}) | {folder}
    if len(others) == 1:
        return ""
    collected.folders[tile] = others
    reason = f"ambiguous: micrographs of several folders fit {tile}: {', '.join(sorted(others))}"
    earlier = collected.fresh.pop(tile, None)
    if earlier is not None:
        collected.left_out.append(replace(table, path=earlier.source, micrograph="").left_out(reason))
    return reason


def _difference(stored: _Annotated | None, points: Points, table: _Table) -> str:
    """Why `points` are not those that are stored of the same micrograph."""
    if stored is None:
        return ""
    if stored.sha256 != table.sha256:
        return _CHANGED
    same = np.isin(stored.points.yx, points.yx).all() and np.isin(stored.points.diameter_px, points.diameter_px).all()
    return "" if same else _OTHERWISE


def _tables(
    root: Place, path: str, name: PlaneName, is_told: bool, collected: _Collected, ignored: Mapping[str, int]
) -> Iterator[_Table]:
    try:
        found, digest = read_coordinates(place_in(root, path))
    except TileReadError as error:
        is_table = error.reason.startswith(HEADERLESS)
        if path.lower().endswith(_OF_TEXT) and isinstance(ignored, PassedOver) and not is_table:
            # Notes lie beside coordinates and are called like tables of Topaz.
            ignored.add("text without coordinates", path)
        else:
            collected.left_out.append(LeftOut(path, name.donor, name.marker, error.reason, name.tile))
        return
    for micrograph, particles in found.items():
        yield _Table(path, name, micrograph, particles, digest, is_told)


def _found(
    source: Place, layout: Layout
) -> tuple[Place, list[tuple[str, PlaneName]], list[LeftOut], Mapping[str, int]]:
    """The folder of the coordinates, its files with their names, and what is left out or none."""
    if is_url(source) or not Path(source).is_file():
        return source, *named_files(source, layout)
    file = Path(source)
    name = layout.parse(file.name) or PlaneName("", layout.marker, file.stem, "")
    return file.parent, [(file.name, name)], [], {}


def _stored(cohort: Cohort) -> dict[str, _Annotated]:
    found = cohort.annotations(lazy=False).load()
    facts = zip(*(texts(found[name]) for name in (n.TILE, n.SOURCE, n.SHA256)), strict=True)
    return {tile: _Annotated(tile_points(found, tile), source, digest) for tile, source, digest in facts}


def _write(cohort: Cohort, collected: _Collected, order: Sequence[str]) -> None:
    both = {**collected.before, **collected.fresh}
    tiles = {tile: both[tile] for tile in order if tile in both}
    table: xr.Dataset = points_table(
        {tile: one.points for tile, one in tiles.items()},
        source={tile: one.source for tile, one in tiles.items()},
        sha256={tile: one.sha256 for tile, one in tiles.items()},
    )
    attrs = {n.BINNING: stored_binning(cohort), n.ORIENTATION: TOP_FIRST}
    cohort.write(n.ANNOTATIONS, table.assign_attrs(attrs), POINTS)
