"""The tree of donors, markers and tiles as it was understood from paths, and whether its levels look right."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fintune_xr import names as n
from fintune_xr.cohort_kinds import kind_named
from fintune_xr.store.raw.layouts import UNKNOWN_MARKER, Layout

# What stains and stained cells are called, and what folders are called that are of no donor.
_STAINS: Final = re.compile(
    r"gfap|iba-?1|olig-?2|neun|dapi|hoechst|map-?2|aqp-?4|cd\d{1,3}[abd]?|ki-?67|tmem119|s100b?|nfh?|tuj-?1|parv|"
    r"c-?fos|gad\d*|vglut\d?|psd-?95|lamp\d|abeta|p-?tau|at8|h&?e|ihc|collagen|actin|tubulin|cy[35]|fitc|marker",
    re.IGNORECASE,
)
_FOLDERS: Final = re.compile(
    r"raw|sources?|images?|data(set)?s?|tiles?|files?|inputs?|masks?|labels?|annotations?|patches|micrographs|"
    r"tiffs?|pngs?|train(ing)?|val(idation)?|tests?|export(s|ed)?|new folder|slides?|crops?|rgbs?\w*|oct|volumes?",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"\D{0,4}\d{3,}\w?")
_WHOLE: Final = re.compile(r"0*(\d+)(?:\.0+)?")
_NO_NAME: Final = re.compile(r"na|nan|n/a|null|none|unknown", re.IGNORECASE)
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Named:
    """One tile by what its path was understood to say, with a file of it."""

    tile: str
    donor: str
    marker: str
    path: str


def level_lines(tiles: Sequence[Named], layout: Layout) -> list[str]:
    """The tree that was understood, in a line, and a line for each level that looks as if it were another one."""
    if not tiles:
        return []
    donors, markers = _counted(tile.donor for tile in tiles), _counted(tile.marker for tile in tiles)
    first = tiles[0]
    tree = (
        f"understood: {_listed(donors, 'donor')}; {_listed(markers, 'marker')}; {len(tiles)} tile(s), the first "
        f"{first.tile.rpartition('/')[2]!r} of donor {first.donor!r}, marker {first.marker!r}, from {first.path}"
    )
    doubts = _doubts(tiles, donors, markers, layout)
    alike = [*_alike(donors, "donors"), *_alike(markers, "markers")]
    return [tree, *doubts, *([_REMEDY] if doubts and layout.listed is None else []), *alike]


_REMEDY: Final = (
    "Is the given folder one level too high or too low? See docs/reference/layouts.md, or say it with --pattern"
)


def _doubts(tiles: Sequence[Named], donors: Mapping[str, int], markers: Mapping[str, int], layout: Layout) -> list[str]:
    """What is odd about the levels; nothing is odd about those that a layout sets itself."""
    found = []
    told = [name for name in donors if name != layout.donor]
    if told:
        stains = [name for name in told if _STAINS.fullmatch(name)]
        folders = [name for name in told if _FOLDERS.fullmatch(name)]
        nobody = [name for name in told if _NO_NAME.fullmatch(name)]
        if nobody:
            found.append(f"donors that are called as a missing value is: {', '.join(nobody[:_SHOWN])}")
        if stains:
            found.append(f"donors that look like markers: {', '.join(stains[:_SHOWN])}")
        if folders:
            found.append(f"donors that are called like folders: {', '.join(folders[:_SHOWN])}")
        elif len(donors) == 1 and len(tiles) > 1 and kind_named(layout.kind).split_by == n.DONOR:
            found.append(f"all {len(tiles)} tiles are of one donor, {next(iter(donors))}: results are over donors")
    if layout.marker in ("", UNKNOWN_MARKER):
        numbers = [name for name in markers if _NUMBER.fullmatch(name) and not _STAINS.fullmatch(name)]
        if numbers and 2 * len(numbers) >= len(markers):
            found.append(f"markers that look like donors: {', '.join(numbers[:_SHOWN])}")
        elif len(markers) > 2 and _one_marker_each(tiles, donors) and len(markers) >= len(donors) > 1:
            found.append(f"as many markers as donors, {len(markers)}, none of them of two donors")
    return found


def _alike(names: Iterable[str], what: str) -> list[str]:
    """A line for names that differ in capitals, blanks, signs or zeros alone: they are kept apart, and may be one."""
    spelt: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        number = _WHOLE.fullmatch(name)
        spelt[number[1] if number else re.sub(r"[\s_.-]", "", name).casefold()].append(name)
    return [f"{what} spelt nearly alike, and kept apart: {', '.join(map(repr, same))}" for same in spelt.values()
            if len(same) > 1]  # fmt: skip


def _one_marker_each(tiles: Sequence[Named], donors: Mapping[str, int]) -> bool:
    """Whether no marker is of two donors, and each donor has one."""
    of: defaultdict[str, set[str]] = defaultdict(set)
    for tile in tiles:
        of[tile.marker].add(tile.donor)
    return all(len(owners) == 1 for owners in of.values()) and len(of) == len(donors)


def _counted(names: Iterable[str]) -> dict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return dict(counts)


def _listed(names: Mapping[str, int], what: str) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in list(names.items())[:_SHOWN])
    more = ", …" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}(s): {shown}{more}"
