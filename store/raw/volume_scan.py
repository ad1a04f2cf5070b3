"""Which files of a folder or bucket are whose volumes, from names, a manifest and the table of participants alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from fintune_xr.errors import FintuneValueError
from fintune_xr.store.raw.layouts import UNKNOWN_MARKER, Layout
from fintune_xr.store.raw.listings import listing
from fintune_xr.store.raw.manifest import ListedFile, Manifest, find_manifest
from fintune_xr.store.raw.pairing import LeftOut, PlaneFile, TileFiles
from fintune_xr.store.raw.readers.volume_header import side_of
from fintune_xr.store.raw.scan import named_files
from fintune_xr.store.raw.sources import Place

AI_READI: Final = "ai-readi"
NO_VOLUME: Final = "no volume found"
# PARTICIPANT_PROTOCOL_oct_SIDE_UID, as the study names its files.
_STUDY_NAME: Final = re.compile(r"(?i)(?:[^_]+_)?(?P<protocol>.+?)_oct_(?P<side>[lr])(?:_.*)?")
_NO_WORD: Final = re.compile(r"[^A-Za-z]+")


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A volume as names tell it: `tile` is participant and file, `marker` the device; empty is what is not told."""

    path: str
    donor: str
    tile: str
    marker: str = UNKNOWN_MARKER
    laterality: str = ""
    protocol: str = ""
    split: str = ""

    @property
    def doubtful_side(self) -> str:
        """The only eye that a word of the file's name may mean (L, od, right, …); empty where there is none."""
        sides = {side_of(word) for word in _NO_WORD.split(self.tile.partition("/")[2])} - {""}
        return sides.pop() if len(sides) == 1 else ""

    @property
    def as_tile(self) -> TileFiles:
        """The same as a tile of one file, whose size is not looked at yet."""
        return TileFiles(self.tile, self.donor, self.marker, (PlaneFile(self.path),), 0, 0, "uint8", self.split)


@dataclass(frozen=True, slots=True)
class Query:
    """Which files are asked for: rows of the manifest, and the first so many participants of each group (0: all)."""

    where: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class Person:
    """What the scan must know of a participant."""

    group: str
    split: str
    has_oct: bool


@dataclass(frozen=True, slots=True)
class VolumeScan:
    """What was found under `source`; `listed` says how, `looked_at` are the paths that this scan has an opinion on.

    `donors` are those of `files`.
    """

    source: str
    layout: Layout
    files: tuple[VolumeFile, ...]
    left_out: tuple[LeftOut, ...]
    ignored: Mapping[str, int]
    listed: str
    looked_at: frozenset[str]
    donors: frozenset[str]


def scan_volumes(
    source: Place, layout: Layout, people: Mapping[str, Person] | None = None, query: Query | None = None
) -> VolumeScan:
    """Volumes under `source` in natural order of their ids, and what is left out and why; no file is opened.

    `people` are the participants by id: volumes of others, or of those who should have none, are left out, and so is
    everybody who should have one and has not. Without a table all volumes are taken.

    Raises FintuneValueError where nothing fits the layout, or a limit is asked for without a table.
    """
    query = query or Query()
    manifest = find_manifest(source, query.where) if layout.name == AI_READI else None
    named, unusable, ignored, listed = _named(source, layout, manifest, query)
    files, twice = _without_twins(named)
    if people is None:
        if query.limit:
            raise FintuneValueError("--limit counts participants of each group, and needs a table: --participants FILE")
        left_out = [*unusable, *twice]
    else:
        asked = _limited(people, {file.donor for file in files}, query.limit)
        files, foreign = _of_people(files, people)
        chosen = {file.donor for file in files}
        missing = [] if query.limit or query.where else _without_volume(people, chosen | {item.donor for item in twice})
        files = [file for file in files if file.donor in asked]
        twice = [item for item in twice if item.donor in asked or item.donor not in people]
        left_out = [*unusable, *twice, *foreign, *missing]
    looked_at = frozenset(
        [*(file.path for file in files), *(no_volume_path(file.donor) for file in files), *(x.path for x in left_out)]
    )
    return VolumeScan(
        str(source),
        layout,
        tuple(files),
        tuple(left_out),
        ignored,
        listed,
        looked_at,
        frozenset(file.donor for file in files),
    )


def no_volume_path(donor: str) -> str:
    """What stands as the path of a participant without a volume."""
    return f"participants#{donor}"


def _volumes_named(
    source: Place, layout: Layout, paths: Iterable[str]
) -> tuple[list[VolumeFile], list[LeftOut], dict[str, int]]:
    """Volumes that the layout finds among `paths`, files that it cannot use, and what it passes over."""
    named, unusable, ignored = named_files(source, layout, paths)
    files = [_volume(path, name.donor, name.marker, name.tile, name.split) for path, name in named]
    return files, unusable, ignored


def _named(
    source: Place, layout: Layout, manifest: Manifest | None, query: Query
) -> tuple[list[VolumeFile], list[LeftOut], dict[str, int], str]:
    if manifest is not None:
        told = {file.path: file for file in manifest.files}
        listed = f"{len(told)} files of {manifest.place}"
        if manifest.n_elsewhere:
            listed += f", {manifest.n_elsewhere} rows of files elsewhere passed over"
        files, unusable, ignored = _volumes_named(source, layout, told)
        return [_as_told(file, told[file.path]) for file in files], unusable, ignored, listed
    found = listing(source, refresh=query.refresh)
    listed = f"{len(found.paths)} files"
    if found.age_s is not None:
        listed += f", by a listing kept {found.age_s / 3600:.1f} h ago (--refresh lists anew)"
    return *_volumes_named(source, layout, found.paths), listed


def _volume(path: str, donor: str, marker: str, tile: str, split: str) -> VolumeFile:
    told = _STUDY_NAME.fullmatch(tile)
    side, protocol = (side_of(told["side"]), told["protocol"]) if told else ("", "")
    return VolumeFile(path, donor, f"{donor}/{tile}", marker, side, protocol, split)


def _as_told(file: VolumeFile, told: ListedFile) -> VolumeFile:
    """What the manifest says goes before what names say."""
    donor, stem = told.donor, file.tile.partition("/")[2]
    return replace(
        file,
        donor=donor,
        tile=f"{donor}/{stem}",
        marker=told.device or file.marker,
        laterality=told.laterality or file.laterality,
        protocol=told.protocol or file.protocol,
    )


def _without_twins(files: Sequence[VolumeFile]) -> tuple[list[VolumeFile], list[LeftOut]]:
    """Files of an id of their own; which of two of one id is meant, nobody can tell."""
    by_tile: defaultdict[str, list[VolumeFile]] = defaultdict(list)
    for file in files:
        by_tile[file.tile].append(file)
    left_out = [
        _left_out(file, f"duplicate: {len(same)} files of one tile, {', '.join(one.path for one in same[:3])}")
        for same in by_tile.values()
        if len(same) > 1
        for file in same
    ]
    return [same[0] for same in by_tile.values() if len(same) == 1], left_out


def _of_people(files: Iterable[VolumeFile], people: Mapping[str, Person]) -> tuple[list[VolumeFile], list[LeftOut]]:
    kept, left_out = [], []
    for file in files:
        person = people.get(file.donor)
        if person is None:
            left_out.append(_left_out(file, f"participant {file.donor} is not in the table of participants"))
        elif not person.has_oct:
            left_out.append(_left_out(file, f"participant {file.donor} has retinal_oct FALSE"))
        else:
            kept.append(replace(file, split=person.split))
    return kept, left_out


def _without_volume(people: Mapping[str, Person], found: set[str]) -> list[LeftOut]:
    return [
        LeftOut(no_volume_path(donor), donor, "", NO_VOLUME)
        for donor, person in people.items()
        if person.has_oct and donor not in found
    ]


def _limited(people: Mapping[str, Person], found: set[str], limit: int) -> set[str]:
    """The first `limit` participants of each group, in the order of the table, of whom there are volumes."""
    if limit < 0:
        raise FintuneValueError(f"--limit: expected 0 or more, got {limit}")
    if not limit:
        return set(people)
    taken: Counter[str] = Counter()
    chosen = set()
    for donor, person in people.items():
        if person.has_oct and donor in found and taken[person.group] < limit:
            taken[person.group] += 1
            chosen.add(donor)
    return chosen


def _left_out(file: VolumeFile, reason: str) -> LeftOut:
    return LeftOut(file.path, file.donor, file.marker, reason, file.tile)
