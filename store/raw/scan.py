"""What a folder of raw images holds, from names and headers alone: tiles, and what is left out and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from fintune_xr.cohort_kinds import IF
from fintune_xr.errors import FintuneValueError, TileReadError, nearest
from fintune_xr.names import DONOR, HEIGHT, MARKER, REASON, TILE, WIDTH
from fintune_xr.store.raw.binning import binned_header, check_binning
from fintune_xr.store.raw.conversions import conversion_lines
from fintune_xr.store.raw.cutting import check_cut, cut_planes
from fintune_xr.store.raw.extra_files import BESIDE, HIDDEN, MISNAMED, PRODUCT, UNLISTED, PassedOver, is_of_system
from fintune_xr.store.raw.layouts import Layout, PlaneName
from fintune_xr.store.raw.pairing import (
    SIZE_FACTOR,
    FoundPlane,
    LeftOut,
    PlaneFile,
    TileFiles,
    assemble,
    natural_key,
    one_family,
    without_strays,
)
from fintune_xr.store.raw.readers import Field, Header, read_fields, read_header, read_stack
from fintune_xr.store.raw.readers.fields import first_pages
from fintune_xr.store.raw.readers.header import axes_hint, check_header, shape_text
from fintune_xr.store.raw.readers.microscope import check_reader, holds_fields
from fintune_xr.store.raw.readers.pixel_side import side_of_squares
from fintune_xr.store.raw.readers.plane_names import check_own_name, order_of_channels, told_names
from fintune_xr.store.raw.sources import Place, is_url, list_files, place_in
from fintune_xr.text import with_numbers

__all__ = [
    "LeftOut",
    "PlaneFile",
    "Progress",
    "Scan",
    "TileFiles",
    "check_sizes",
    "left_out_table",
    "named_files",
    "scan",
    "scan_table",
]

# Networks for patches halve them five times.
SMALLEST_PATCH: Final = 32
# How many files that are not there are told at once.
_SHOWN: Final = 5
# Files that a thread is given at once, at most, and how often each thread is given some, at least.
_HANDED_OVER: Final = 16
_ROUNDS: Final = 4
_OTHER_CHANNEL: Final = ", not in the layout"

Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found under `source`; `ignored` counts files that are no tiles, by what they are.

    `binning` pixels of a file along each side make one of the tile; images of files are cut into tiles of about `cut`
    px, or are tiles as they are where it is 0. Sizes and dtype are those of the tiles.
    """

    source: str
    layout: Layout
    tiles: tuple[TileFiles, ...]
    left_out: tuple[LeftOut, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    binning: int = 1
    cut: int = 0

    @property
    def dtype(self) -> str:
        """The dtype that all tiles share, empty where there is none."""
        return self.tiles[0].dtype if self.tiles else ""


def scan(
    source: Place,
    layout: Layout,
    *,
    dtype: str | None = None,
    binning: int = 1,
    cut: int = 0,
    workers: int = 8,
    progress: Progress | None = None,
) -> Scan:
    """Complete tiles under `source` in natural order of donor, marker and tile, and what is left out and why.

    Reads headers only, `workers` at a time, and opens only files whose suffix and name fit the layout.
    `dtype` is what tiles must have, by default what most planes have. Mixed sizes are left to `check_sizes`.

    Raises FintuneValueError where `source` is no folder, or none of its files fits the layout.
    """
    check_binning(binning)
    check_cut(cut)
    named, unusable, ignored = named_files(source, layout)
    found = _read_headers(source, named, layout, workers, progress)
    _check_once(found)
    planes = [_binned(plane, binning) for plane in found]
    planes = [part for plane in planes for part in cut_planes(plane, cut)]
    tiles, left_out = assemble(planes, layout, dtype=dtype)
    tiles, strays = without_strays(tiles)
    everything = sorted([*unusable, *left_out, *strays], key=lambda item: natural_key(item.path))
    return Scan(str(source), layout, tuple(tiles), tuple(everything), ignored, binning, cut)


def check_sizes(found: Scan) -> Scan:
    """`found` itself, once its tiles differ by no more than a factor of two in height and in width.

    Raises FintuneValueError that lists the sizes and says what to do.
    """
    sizes = Counter(tile.shape for tile in found.tiles)
    if one_family(sizes):
        return found
    listed = "\n  ".join(f"{shape_text(size)}: {count} tile(s)" for size, count in sorted(sizes.items()))
    raise FintuneValueError(
        f"expected tiles within a factor of {SIZE_FACTOR} in height and width, found under {found.source}:\n"
        f"  {listed}\nMake one store per size: ingest each group from a folder of its own, or with a "
        "--pattern that fits only its files."
    )


def scan_table(found: Scan) -> pd.DataFrame:
    """One row per donor and marker: tiles, how many are left out, smallest and largest size in px."""
    kept = pd.DataFrame(
        [(tile.donor, tile.marker, tile.height, tile.width) for tile in found.tiles],
        columns=[DONOR, MARKER, HEIGHT, WIDTH],
    )
    gone = pd.DataFrame([(item.donor, item.marker) for item in found.left_out], columns=[DONOR, MARKER])
    sizes = kept.groupby([DONOR, MARKER], sort=False).agg(
        tiles=(HEIGHT, "size"),
        height_min=(HEIGHT, "min"),
        height_max=(HEIGHT, "max"),
        width_min=(WIDTH, "min"),
        width_max=(WIDTH, "max"),
    )
    left_out = gone.groupby([DONOR, MARKER]).size().rename("left_out")
    table = sizes.join(left_out, how="outer").fillna(0).astype(int)
    order = sorted(table.index, key=lambda key: [natural_key(str(part)) for part in key])
    columns = ["tiles", "left_out", "height_min", "height_max", "width_min", "width_max"]
    return table.loc[order, columns].reset_index()


def left_out_table(found: Scan) -> pd.DataFrame:
    """One row per tile that is left out: path, donor, marker, tile, reason."""
    rows = [(item.path, item.donor, item.marker, item.tile, item.reason) for item in found.left_out]
    return pd.DataFrame(rows, columns=["path", DONOR, MARKER, TILE, REASON])


def named_files(
    source: Place, layout: Layout, paths: Iterable[str] | None = None
) -> tuple[list[tuple[str, PlaneName]], list[LeftOut], PassedOver]:
    """Files under `source` that fit `layout`, those of unreadable names, and counts of all others by kind.

    `paths` are what lies there, where that is known already.

    Raises FintuneValueError where `source` is no folder, none of its files fits the layout, or files that a table
    lists are not there.
    """
    there = list(list_files(source) if paths is None else paths)
    _check_listed(there, layout)
    named, unusable, ignored = _named(there, layout)
    if not named and not unusable:
        raise _nothing_fits(source, layout, ignored)
    return named, unusable, ignored


def _named(paths: Iterable[str], layout: Layout) -> tuple[list[tuple[str, PlaneName]], list[LeftOut], PassedOver]:
    named: list[tuple[str, PlaneName]] = []
    unusable: list[LeftOut] = []
    ignored = PassedOver()
    for path in sorted(paths, key=natural_key):
        what = _what_else(path, layout)
        names = () if what else layout.rows(path)
        if layout.listed is not None and path == layout.listed.own:
            continue
        if what:
            ignored.add(what, path)
        elif not names:
            ignored.add(_not_of(layout, path), path)
        elif not layout.planes and names[0].channel not in layout.channels:
            ignored.add(f"channel {names[0].channel!r}{_OTHER_CHANNEL}", path)
        elif not _is_text(path):
            unusable.append(_unreadable_name(path))
        else:
            named += [(path, name) for name in names]
    return named, unusable, ignored


def _check_listed(paths: Iterable[str], layout: Layout) -> None:
    missing = [] if layout.listed is None else layout.listed.missing(paths)
    if layout.listed is not None and missing:
        shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise FintuneValueError(
            f"{layout.listed.table}: {len(missing)} of {len(layout.listed.files)} files are not there: {shown}. "
            "Correct the column path, which counts from the table's folder, or take these rows out."
        )


def _not_of(layout: Layout, path: str) -> str:
    if layout.listed is not None:
        return UNLISTED
    return BESIDE if re.fullmatch(layout.beside, path) else MISNAMED


def _what_else(path: str, layout: Layout) -> str:
    """What a file is that cannot be an image of the cohort, or an empty string."""
    if layout.listed is not None and layout.parse(path) is not None:
        return ""
    pure = PurePosixPath(path)
    if is_of_system(path):
        return HIDDEN
    if pure.suffix.lower() not in layout.suffixes:
        return pure.suffix.lower() or "(no suffix)"
    return PRODUCT if re.fullmatch(layout.ignore, pure.stem) else ""


def _is_text(path: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _unreadable_name(path: str) -> LeftOut:
    shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return LeftOut(shown, "", "", "file name: expected UTF-8, found other bytes; rename the file")


def _nothing_fits(source: Place, layout: Layout, ignored: Mapping[str, int]) -> FintuneValueError:
    found = ", ".join(f"{count} {what}" for what, count in sorted(ignored.items())) or "no files"
    conversions = "".join(f"\n  {line}" for line in conversion_lines(ignored))
    has_others = any(what.endswith(_OTHER_CHANNEL) for what in ignored)
    channels = " Name channels with --channels, such as 405=DAPI 488=marker." if has_others else ""
    return FintuneValueError(
        f"no file under {source} fits layout {layout.name!r} ({layout.about}); found: {found}. "
        f"Choose another --layout, or describe the names with --pattern.{channels}{conversions}"
    )


def _read_headers(
    source: Place,
    named: Sequence[tuple[str, PlaneName]],
    layout: Layout,
    workers: int,
    progress: Progress | None,
) -> list[FoundPlane]:
    read = _plane_of_file
    if layout.planes:
        read = _channels_of_stack if layout.z else _channels_of_file
    elif layout.z:
        read = _plane_of_stack
    elif layout.pages_are_tiles:
        read = _planes_of_pages
    elif layout.pages_are_depth:
        read = _volume_of_file
    for path, _ in named:
        if holds_fields(path):
            check_reader(path)
    place = source if is_url(source) else Path(source)
    planes: list[FoundPlane] = []
    done = 0
    with ThreadPoolExecutor(max_workers=workers) as pool:
        # Several files at a time: to hand one over takes as long as to read a tenth of it. Few are shared out evenly.
        size = min(_HANDED_OVER, max(1, len(named) // (_ROUNDS * workers)))
        groups = [named[at : at + size] for at in range(0, len(named), size)]
        for group, found in zip(groups, pool.map(partial(_planes_of_some, read, place, layout), groups), strict=True):
            planes += found
            done += len(group)
            if progress is not None:
                progress(done, len(named))
    return planes


def _planes_of_some(
    read: Callable[[Place, Layout, str, PlaneName], list[FoundPlane]],
    source: Place,
    layout: Layout,
    named: Sequence[tuple[str, PlaneName]],
) -> list[FoundPlane]:
    return [plane for path, name in named for plane in _planes_or_fault(read, source, layout, path, name)]


def _planes_or_fault(
    read: Callable[[Place, Layout, str, PlaneName], list[FoundPlane]],
    source: Place,
    layout: Layout,
    path: str,
    name: PlaneName,
) -> list[FoundPlane]:
    try:
        return (_tiles_of_fields if holds_fields(path) else read)(source, layout, path, name)
    except TileReadError as error:
        return _as_fault(layout, name, PlaneFile(path), error.reason)


def _as_fault(layout: Layout, name: PlaneName, file: PlaneFile, reason: str) -> list[FoundPlane]:
    """The planes of a tile of which `reason` makes none."""
    fault = FoundPlane(name, file, None, reason)
    if not layout.planes:
        return [fault]
    # A file of several channels lacks none of them, whatever is wrong with it.
    named = [replace(fault, name=replace(name, channel=token)) for token in layout.channels]
    return [named[0], *(replace(one, fault="") for one in named[1:])]


def _binned(plane: FoundPlane, binning: int) -> FoundPlane:
    """`plane` with its header as the tile will be stored."""
    if plane.header is None:
        return plane
    try:
        return replace(plane, header=binned_header(plane.header, binning))
    except TileReadError as error:
        return replace(plane, header=None, fault=error.reason)


def _plane_of_file(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    header = read_header(place_in(source, path), dtypes=layout.dtypes)
    if header.pages != 1:
        stacks = ". --z max, mean, focus or N makes one plane of a stack along z" if layout.kind == IF.name else ""
        raise TileReadError(
            f"wrong shape: expected one plane, found {header.pages} pages{axes_hint(header) or stacks}", path
        )
    channel = layout.channels.get(name.channel, "")
    check_own_name(header.own_name, channel, list(layout.channels.values()) if channel else [], marker=name.marker)
    return [FoundPlane(name, PlaneFile(path), header)]


def _plane_of_stack(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    place = place_in(source, path)
    header = read_header(place, dtypes=layout.dtypes)
    return [FoundPlane(name, PlaneFile(path), _in_one_plane(header, read_stack(place, channels=1).depth, layout))]


def _channels_of_stack(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    place = place_in(source, path)
    stack = read_stack(place, channels=layout.planes)
    header = _in_one_plane(read_header(place, dtypes=layout.dtypes), stack.depth, layout)
    at = _positions(layout, replace(header, names=stack.names), name)
    return [
        FoundPlane(replace(name, channel=token), PlaneFile(path, position), header)
        for token, position in zip(layout.channels, at, strict=True)
    ]


def _in_one_plane(header: Header, depth: int, layout: Layout) -> Header:
    if layout.z.isdigit() and int(layout.z) >= depth:
        raise TileReadError(f"wrong number of planes: expected a plane {layout.z}, from 0 on, found {depth}")
    return replace(header, pages=1, stack=depth)


def _tiles_of_fields(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    """A tile of each field of a microscope's file, by its position there; of a file of one field, the file's tile.

    Raises FintuneValueError where the table of samples asks for a field that is not there.
    """
    fields = read_fields(place_in(source, path))
    if not fields:
        raise TileReadError("wrong shape: expected a field at least, found none")
    if name.series:
        at = _position_of(name.series, fields, layout, path)
        return _tile_of_field(layout, PlaneFile(path, first_pages(fields)[at]), name, fields[at])
    planes: list[FoundPlane] = []
    for at, (one, first) in enumerate(zip(fields, first_pages(fields), strict=True)):
        own = name if len(fields) == 1 else replace(name, tile=f"{name.tile}_p{at}")
        planes += _tile_of_field(layout, PlaneFile(path, first), own, one)
    return planes


def _position_of(series: str, fields: Sequence[Field], layout: Layout, path: str) -> int:
    """Where the field of this name, or else of this number, stands in its file."""
    names = [one.name for one in fields]
    called = [at for at, name in enumerate(names) if name == series]
    if len(called) == 1:
        return called[0]
    if not called and series.isdecimal() and int(series) < len(fields):
        return int(series)
    table = "" if layout.listed is None else f"{layout.listed.table}: "
    told = f"{len(called)} series are called {series!r}" if called else f"no series {series!r}"
    remedy = "Give their numbers" if called else "Give a name or a number"
    raise FintuneValueError(
        f"{table}{told} in {path}; there are {with_numbers([name or '(no name)' for name in names])}. {remedy}."
        f"{'' if called else nearest(series, filter(None, names))}"
    )


def _tile_of_field(layout: Layout, first: PlaneFile, name: PlaneName, described: Field) -> list[FoundPlane]:
    try:
        return _planes_of_field(layout, first, name, described)
    except TileReadError as error:
        return _as_fault(layout, name, first, error.reason)


def _check_once(planes: Iterable[FoundPlane]) -> None:
    """Refuses a field that two rows ask for, by its name and by its number."""
    tile_of: dict[PlaneFile, str] = {}
    for plane in planes:
        name = plane.name
        # Of a file that cannot be read no field is known.
        is_known = name.series and plane.file.page is not None
        if is_known and tile_of.setdefault(plane.file, name.tile_id) != name.tile_id:
            raise FintuneValueError(
                f"{plane.file.path}: series {name.series!r} is that of {tile_of[plane.file]!r} too, by its name and by "
                "its number. Take one of the rows out of the table of samples."
            )


def _planes_of_field(layout: Layout, first: PlaneFile, name: PlaneName, described: Field) -> list[FoundPlane]:
    """The planes of a tile that is a field, whose first channel is the page of `first`."""
    header = _header_of_field(described, layout)
    if not layout.planes:
        channel = layout.channels.get(name.channel, "")
        own = header.names[0] if header.names else ""
        check_own_name(own, channel, list(layout.channels.values()) if channel else [], marker=name.marker)
        return [FoundPlane(name, first, header)]
    if layout.empty_planes:
        raise TileReadError(
            f"wrong number of planes: layout {layout.name!r} leaves some of {layout.planes} planes empty, and a "
            "microscope writes none that are. Name all: --channels 0=... 1=..."
        )
    return [
        FoundPlane(replace(name, channel=token), replace(first, page=(first.page or 0) + at), header)
        for token, at in zip(layout.channels, _positions(layout, header, name), strict=True)
    ]


def _header_of_field(described: Field, layout: Layout) -> Header:
    if described.fault:
        raise TileReadError(described.fault)
    expected = layout.planes or 1
    if described.channels != expected:
        told = f" ({', '.join(described.names)})" if described.names else ""
        how = "" if layout.planes else ". Layout 'planes' is of files that hold all channels of their tile"
        raise TileReadError(
            f"wrong number of planes: expected {expected} channel(s), found {described.channels}{told}{how}"
        )
    if described.depth > 1 and not layout.z:
        raise TileReadError(
            f"wrong number of planes: expected one plane of each channel, found {described.depth} along z. --z max, "
            "mean, focus or N makes one plane of a stack"
        )
    side, doubt = side_of_squares(*described.side_um)
    header = Header(
        described.height,
        described.width,
        described.dtype,
        pixel_size_a=side,
        doubt=doubt,
        names=told_names(described.names),
    )
    return _in_one_plane(check_header(header, layout.dtypes), described.depth, layout)


def _planes_of_pages(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    place = place_in(source, path)
    return [
        FoundPlane(
            replace(name, tile=f"{name.tile}_p{page}"),
            PlaneFile(path, page),
            read_header(place, page=page, dtypes=layout.dtypes),
        )
        for page in range(read_header(place, dtypes=layout.dtypes).pages)
    ]


def _volume_of_file(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    header = read_header(place_in(source, path), dtypes=layout.dtypes)
    if header.pages < 2:
        raise TileReadError("wrong shape: expected a volume of two planes or more, found one plane", path)
    return [FoundPlane(name, PlaneFile(path), replace(header, depth=header.pages, pages=1))]


def _channels_of_file(source: Place, layout: Layout, path: str, name: PlaneName) -> list[FoundPlane]:
    place = place_in(source, path)
    header = read_header(place, dtypes=layout.dtypes, channels=True)
    found = header.pages
    if layout.colour:
        _check_colour(header)
    if found != layout.planes:
        expected = [layout.channels.get(str(plane), "empty") for plane in range(layout.planes)]
        raise TileReadError(
            f"wrong number of planes: expected {layout.planes} ({', '.join(expected)}), found {found}"
            f"{axes_hint(header)}"
        )
    return [
        FoundPlane(
            replace(name, channel=token),
            PlaneFile(path, at),
            read_header(place, page=at, dtypes=layout.dtypes, channels=True),
        )
        for token, at in zip(layout.channels, _positions(layout, header, name), strict=True)
    ]


def _positions(layout: Layout, header: Header, name: PlaneName) -> list[int]:
    """Which plane of a file each channel is: the one that the file calls so, else that of the layout's position."""
    usual = [int(token) for token in layout.channels]
    if layout.colour or not header.names:
        return usual
    if len(usual) < layout.planes:
        raise TileReadError(
            f"channel names: the file names its planes {', '.join(header.names)}, and layout {layout.name!r} leaves "
            "some of them empty. Name all: --channels 0=... 1=..."
        )
    return order_of_channels(header.names, list(layout.channels.values()), marker=name.marker)


def _check_colour(header: Header) -> None:
    if not header.is_colour:
        raise TileReadError(
            "wrong number of planes: expected red, green and blue of one image, "
            f"found {header.pages} plane(s) without colour"
        )
    if min(header.height, header.width) < SMALLEST_PATCH:
        raise TileReadError(
            f"wrong shape: expected {SMALLEST_PATCH} px or more along each side, found {header.height} x {header.width}"
        )
