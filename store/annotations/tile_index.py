"""Which stored tile an annotation belongs to: by what its path says, and never against it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fintune_xr.store.raw.layouts import UNNAMED_SET, PlaneName, safe_name
from fintune_xr.text import one_spelling

# Folders that say what lies in them, not whose it is.
_PLAIN_WORDS: Final = frozenset({
    "mask", "masks", "label", "labels", "annotation", "annotations", "annotated", "gt", "ground_truth", "groundtruth",
    "truth", "manual", "expert", "image", "images", "img", "train", "training", "val", "validation", "test",
    "train_cells", "val_cells", "test_cells", "tif", "tiff", "png", "raw", "data", "micrographs", "mics", "movies",
    "corrected", "aligned", "motioncorr", "motioncorrected", "import", "extract", "autopick", "manualpick", "ctffind",
    "region", "regions", "picks", "particles", "coords", "coordinates", "particle_coordinates",
})  # fmt: skip
# Jobs and sessions of RELION and cryoSPARC.
_JOB: Final = re.compile(r"job\d+|[JSP]\d+")


@dataclass(frozen=True, slots=True)
class StoredTile:
    """A stored tile and whose it is; `name` is what follows donor and marker in its id."""

    tile: str
    donor: str
    marker: str

    @property
    def name(self) -> str:
        """The tile without its donor and marker."""
        return self.tile.removeprefix(f"{self.donor}/{self.marker}/")

    @property
    def words(self) -> frozenset[str]:
        """What folders above an annotation of this tile may be called."""
        folders = self.name.split("/")[:-1]
        return frozenset({self.donor, self.marker, f"{self.donor}_{self.marker}", *folders})


@dataclass(frozen=True, slots=True)
class Fits:
    """Tiles that an annotation may belong to; `why` says what kept out those that have its name."""

    tiles: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True, slots=True)
class TileIndex:
    """Stored tiles by id, by their name as a file, and by the last part of their id, all in one spelling."""

    by_id: Mapping[str, StoredTile]
    by_file: Mapping[str, StoredTile]
    by_name: Mapping[str, tuple[StoredTile, ...]]
    donors: frozenset[str]

    @classmethod
    def of(cls, tiles: Iterable[StoredTile]) -> TileIndex:
        """The index of these tiles."""
        found = tuple(tiles)
        by_name: defaultdict[str, tuple[StoredTile, ...]] = defaultdict(tuple)
        for one in found:
            by_name[one_spelling(one.tile.rpartition("/")[2])] += (one,)
        by_id = {one_spelling(one.tile): one for one in found}
        donors = frozenset(one_spelling(one.donor) for one in found)
        return cls(by_id, {safe_name(tile): one for tile, one in by_id.items()}, dict(by_name), donors)

    def of_mask(self, path: str, readings: Sequence[PlaneName], *, is_told: bool = False) -> Fits:
        """Tiles that a mask may belong to: one where it is clear, none or several where it is not.

        `readings` are what the layout makes of `path`; longer names come first. A tile of such an id is meant; else the
        file's own name decides, as exports write it or as a tile is called, but only for tiles that no folder of the
        path speaks against. Where the caller's pattern read the path (`is_told`), it alone says what the path names.
        """
        for reading in sorted(readings, key=lambda one: len(one.tile), reverse=True):
            if one_spelling(reading.tile_id) in self.by_id:
                return Fits((self.by_id[one_spelling(reading.tile_id)].tile,))
        folders = [] if is_told else _folders(path)

        def against(reading: PlaneName, tile: StoredTile) -> str:
            return self._against_told(reading, tile) if is_told else self._against_folders(folders, reading, tile)

        return self._first(path, readings, against)

    def of_micrograph(self, path: str, names: Sequence[str]) -> Fits:
        """The same for particles: `names` are those of the micrograph, exact ones first, in folders of `path`.

        A store whose micrographs lie in one folder knows no sets, so folders say nothing there.
        """
        folders = _folders(path)
        readings = [PlaneName("", "", name, "") for name in names]
        return self._first(path, readings, lambda _, tile: self._against_sets(folders, tile))

    def _first(self, path: str, readings: Sequence[PlaneName], against: Callable[[PlaneName, StoredTile], str]) -> Fits:
        why = ""
        # Of readings with the same name the first is of the most telling pattern.
        unlike = {one_spelling(reading.tile).rpartition("/")[2]: reading for reading in reversed(readings)}
        for name in sorted(unlike, key=len, reverse=True):
            reading = unlike[name]
            if name in self.by_file:
                # The file is called by the whole id: a folder that is no donor's, such as a run's, says nothing more.
                reasons = {self.by_file[name].tile: self._against_donors(path, reading, self.by_file[name])}
            else:
                reasons = {one.tile: against(reading, one) for one in self.by_name.get(name, ())}
            kept = tuple(tile for tile, reason in reasons.items() if not reason)
            if kept:
                return Fits(kept)
            why = why or next((f"; not taken for {tile}: {reason}" for tile, reason in reasons.items()), "")
        return Fits((), why)

    def _against_told(self, reading: PlaneName, tile: StoredTile) -> str:
        told = (("donor", reading.donor, tile.donor), ("marker", reading.marker, tile.marker))
        wrong = next(((what, said) for what, said, is_ in told if said and said != one_spelling(is_)), None)
        if wrong is None and "/" in reading.tile and one_spelling(tile.name) != reading.tile:
            wrong = ("tile", reading.tile)
        return f"the path names the {wrong[0]} {wrong[1]!r}" if wrong else ""

    def _against_folders(self, folders: Sequence[str], reading: PlaneName, tile: StoredTile) -> str:
        own = {one_spelling(word) for word in tile.words}
        wrong = [word for word in folders if word not in own and not self._is_plain(word)]
        if not wrong and tile.tile != self._by_file_name(reading):
            # A name that begins with a donor of the store is of no other.
            said = reading.donor
            wrong = [said] if said in self.donors and said != one_spelling(tile.donor) else []
        return f"the path names {wrong[0]!r}" if wrong else ""

    def _by_file_name(self, reading: PlaneName) -> str:
        found = self.by_file.get(one_spelling(reading.tile).rpartition("/")[2])
        return "" if found is None else found.tile

    def _against_donors(self, path: str, reading: PlaneName, tile: StoredTile) -> str:
        folders, own = _folders(path), one_spelling(tile.donor)
        others = [word for word in folders if word != own and (word in self.donors or word == reading.donor)]
        return f"the path names {others[-1]!r}" if others else ""

    def _against_sets(self, folders: Sequence[str], tile: StoredTile) -> str:
        if self.donors == {UNNAMED_SET}:
            return ""
        own = one_spelling(tile.donor)
        others = [word for word in folders if word in self.donors and word != own]
        if not others and own not in folders:
            others = [word for word in folders if not self._is_plain(word) and self._may_be_a_set(word)]
        return f"the path names {others[-1]!r}" if others else ""

    def _may_be_a_set(self, word: str) -> bool:
        """Where sets are called by numbers, a folder without any, such as that of a run's picks, is none."""
        return _has_digit(word) or not all(map(_has_digit, self.donors))

    def _is_plain(self, word: str) -> bool:
        if word in self.donors:
            return False
        is_job = _JOB.fullmatch(word) is not None and not any(_JOB.fullmatch(donor) for donor in self.donors)
        return word.lower() in _PLAIN_WORDS or is_job


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _folders(path: str) -> list[str]:
    return [one_spelling(word) for word in path.split("/")[:-1] if word not in ("", ".", "..")]
