"""From planes to tiles: which files belong together, and which cannot become a tile and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np

from fintune_xr.store.raw.layouts import Layout, PlaneName
from fintune_xr.store.raw.pixel_sides import side_of_tile
from fintune_xr.store.raw.readers import Header
from fintune_xr.store.raw.readers.header import shape_of, shape_text
from fintune_xr.store.raw.readers.pixel_side import A_IN_UM

# Tiles of one store lie within this factor of each other in height and in width.
SIZE_FACTOR: Final = 2
# Up to this share of tiles of quite another size are strays (thumbnails, overviews); more is a mixed cohort.
STRAY_SHARE: Final = 0.05

Fault: TypeAlias = tuple[str, str]
"""Path of a file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PlaneFile:
    """One plane of a tile: path relative to the source, and page where a file holds several tiles."""

    path: str
    page: int | None = None

    def __str__(self) -> str:
        return self.path if self.page is None else f"{self.path}#{self.page}"


@dataclass(frozen=True, slots=True)
class FoundPlane:
    """One plane as found: what its name says, and its header or why there is none.

    `origin` is the row and column of the file at which it begins, where it is a part of the file's image.
    """

    name: PlaneName
    file: PlaneFile
    header: Header | None
    fault: str = ""
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class TileFiles:
    """A complete tile: one file per channel, in the layout's order of channels; size in px, `depth` in planes.

    `pixel_size_a` is the side of a pixel of the tile in angstrom and `mpp` the same in um, 0 where neither the files
    nor the name tell it; `doubt` is why what they tell was not taken. `origin` is the row and column of the file at
    which the tile begins. `stack` planes along z become the one of each channel. `field` is what tiles of several
    markers show together, empty where it is not told.
    """

    tile: str
    donor: str
    marker: str
    planes: tuple[PlaneFile, ...]
    height: int
    width: int
    dtype: str
    split: str = ""
    pixel_size_a: float = 0.0
    origin: tuple[int, int] = (0, 0)
    depth: int = 1
    doubt: str = ""
    stack: int = 1
    field: str = ""

    @property
    def mpp(self) -> float:
        """Side of a pixel in um."""
        return round(self.pixel_size_a / A_IN_UM, 10)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the tile: height and width, and the depth before them where it is a volume."""
        return shape_of(self.depth, self.height, self.width)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tile that cannot be used: the first file at fault, and every reason."""

    path: str
    donor: str
    marker: str
    reason: str
    tile: str = ""


def assemble(
    planes: Sequence[FoundPlane], layout: Layout, *, dtype: str | None
) -> tuple[list[TileFiles], list[LeftOut]]:
    """Complete tiles in natural order of donor, marker and tile, and the others with every reason.

    `dtype` is what all planes must have; None means what most of them have.
    """
    groups: defaultdict[str, list[FoundPlane]] = defaultdict(list)
    for plane in _with_one_dtype(planes, dtype):
        groups[plane.name.tile_id].append(plane)
    tiles: list[TileFiles] = []
    left_out: list[LeftOut] = []
    for group in sorted(groups.values(), key=lambda group: _rank(group[0].name)):
        faults = _faults(group, layout)
        if faults:
            left_out.append(_left_out(group[0].name, faults))
        else:
            tiles.append(_tile(group, layout))
    return tiles, left_out


def without_strays(tiles: Sequence[TileFiles]) -> tuple[list[TileFiles], list[LeftOut]]:
    """`tiles` less a few of quite another size; a cohort of mixed sizes comes back whole, to be refused."""
    sizes = Counter(tile.shape for tile in tiles)
    if one_family(sizes):
        return list(tiles), []
    usual = max(sizes, key=lambda size: (sizes[size], size))
    strays = {tile.tile for tile in tiles if not one_family([usual, tile.shape])}
    kept = [tile for tile in tiles if tile.tile not in strays]
    if len(strays) > STRAY_SHARE * len(tiles) or not one_family(tile.shape for tile in kept):
        return list(tiles), []
    expected = f"wrong shape: expected within a factor of {SIZE_FACTOR} of {shape_text(usual)}"
    return kept, [
        tile_left_out(tile, tile.planes[0], f"{expected}, found {shape_text(tile.shape)}")
        for tile in tiles
        if tile.tile in strays
    ]


def one_family(sizes: Iterable[tuple[int, ...]]) -> bool:
    """True where no height, width or depth is more than twice another."""
    return all(max(lengths) <= SIZE_FACTOR * min(lengths) for lengths in zip(*sizes, strict=True))


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that puts `tile2` before `tile10`; texts that differ have keys that differ."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    numbered = tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts)
    return (*numbered, (-1, 0, text))


def tile_left_out(tile: TileFiles, file: PlaneFile, reason: str) -> LeftOut:
    """`tile` as one that cannot be used because of `file`."""
    return LeftOut(str(file), tile.donor, tile.marker, reason, tile.tile)


def _with_one_dtype(planes: Sequence[FoundPlane], dtype: str | None) -> list[FoundPlane]:
    counts = Counter(plane.header.dtype for plane in planes if plane.header is not None)
    if dtype is None and counts:
        dtype = max(counts, key=lambda one: (counts[one], np.dtype(one).itemsize))
    return [
        plane
        if plane.header is None or plane.header.dtype == dtype
        else replace(plane, fault=f"wrong dtype: expected {dtype}, found {plane.header.dtype}")
        for plane in planes
    ]


def _rank(name: PlaneName) -> tuple[object, ...]:
    return natural_key(name.donor), natural_key(name.marker), natural_key(name.tile)


def _faults(group: Sequence[FoundPlane], layout: Layout) -> list[Fault]:
    """Everything that keeps these planes from being one tile."""
    faults = [(str(plane.file), plane.fault) for plane in group if plane.fault]
    by_channel: defaultdict[str, list[FoundPlane]] = defaultdict(list)
    for plane in group:
        by_channel[plane.name.channel].append(plane)
    for same in by_channel.values():
        faults += [(str(p.file), f"duplicate: same tile and channel as {same[0].file}") for p in same[1:]]
    missing = [channel for token, channel in layout.channels.items() if token not in by_channel]
    if missing:
        faults.append((str(group[0].file), f"unpaired: no file for channel {', '.join(missing)}"))
    fields = sorted({plane.name.field for plane in group})
    if len(fields) > 1:
        faults.append(
            (str(group[0].file), f"its files are told to be of several fields: {', '.join(map(repr, fields))}")
        )
    return faults or _wrong_shapes(group)


def _wrong_shapes(group: Sequence[FoundPlane]) -> list[Fault]:
    (first, expected), *others = [(plane.file, plane.header) for plane in group if plane.header is not None]
    return [
        (
            str(file),
            f"wrong shape: expected {_size(expected)} as in {first}, found {_size(header)}",
        )
        for file, header in others
        if (header.shape, header.stack) != (expected.shape, expected.stack)
    ]


def _size(header: Header) -> str:
    return shape_text(header.shape if header.stack == 1 else (header.stack, *header.shape))


def _left_out(name: PlaneName, faults: Sequence[Fault]) -> LeftOut:
    path, reason = faults[0]
    more = [f"{other_reason} ({other})" for other, other_reason in faults[1:]]
    return LeftOut(path, name.donor, name.marker, "; ".join([reason, *more]), name.tile_id)


def _tile(group: Sequence[FoundPlane], layout: Layout) -> TileFiles:
    order = list(layout.channels)
    planes = sorted(group, key=lambda plane: order.index(plane.name.channel))
    headers = [(str(plane.file), plane.header) for plane in planes if plane.header is not None]
    header, name = headers[0][1], planes[0].name
    side, doubt = side_of_tile(headers, name.mpp, layout.kind)
    files = tuple(plane.file for plane in planes)
    return TileFiles(
        name.tile_id,
        name.donor,
        name.marker,
        files,
        header.height,
        header.width,
        header.dtype,
        name.split,
        side,
        planes[0].origin,
        header.depth,
        doubt,
        header.stack,
        name.field,
    )
