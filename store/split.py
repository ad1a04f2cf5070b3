"""The stored split of the annotated tiles as others read it: which part a tile is in, and whether that was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError, unknown_name
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.text import text_array, texts
from fintune_xr.text_tables import read_text_table

# Attributes of the column `split`.
By = Literal["donor", "tile"]
# Columns of a table of pairs.
PAIR_COLUMNS: Final = ("first", "second", "reason")


@dataclass(frozen=True, slots=True)
class AllowedPair:
    """Two tiles that look alike and are known not to be copies, and how that is known."""

    first: str
    second: str
    reason: str


Allowed: TypeAlias = Sequence[AllowedPair]


def read_allowed(path: Path | str, tiles: Sequence[str]) -> list[AllowedPair]:
    """Pairs of a table (first, second, reason).

    Raises FintuneValueError for other columns or a pair without a reason, UnknownNameError for a tile that is not
    among `tiles`.
    """
    table = read_text_table(path, "table of pairs")
    missing = [column for column in PAIR_COLUMNS if column not in table.columns]
    if missing:
        raise FintuneValueError(f"{path}: expected columns {', '.join(PAIR_COLUMNS)}, found no {', '.join(missing)}")
    pairs = [AllowedPair(*(str(row[column]).strip() for column in PAIR_COLUMNS)) for _, row in table.iterrows()]
    for pair in pairs:
        for tile in (pair.first, pair.second):
            if tile not in tiles:
                raise unknown_name("annotated tile", tile, tiles)
        if not pair.reason:
            raise FintuneValueError(f"{path}: {pair.first} and {pair.second}: say in `reason` why they are no copies")
    return pairs


def allowed_facts(allowed: Allowed) -> dict[str, list[list[str]]]:
    """Pairs as records keep them; nothing where there are none."""
    return {n.ALLOWED_ALIKE: [[pair.first, pair.second, pair.reason] for pair in allowed]} if allowed else {}


def allowed_pairs(cohort: Cohort) -> list[AllowedPair]:
    """Pairs of tiles that look alike and were allowed on two sides of the stored split."""
    stored = _split_facts(cohort).get(n.ALLOWED_ALIKE, [])
    return [AllowedPair(*map(str, pair)) for pair in stored]


ALL: Final = "all"
"""In place of a part: all annotated tiles, whatever the split."""


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedPart:
    """The annotated tiles of a part of the split, found once for a verb and handed on.

    `tiles` are their images in stored order, opened and not read, with all their coordinates; `positions` (tile,) are
    where they lie among the images of the cohort; `digest` is that of the split, empty where it plays no part because
    all annotated tiles are meant.
    """

    part: str
    tiles: xr.Dataset
    positions: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return int(self.tiles.sizes[n.TILE])

    @property
    def names(self) -> list[str]:
        """Ids of the tiles."""
        return texts(self.tiles[n.TILE])

    @property
    def labels(self) -> dict[str, tuple[str, Any]]:
        """Coordinates (tile,) of scores: id, donor, marker and part of each tile."""
        return {name: (n.TILE, text_array(self.tiles[name])) for name in (n.TILE, n.DONOR, n.MARKER, n.SPLIT)}

    def at(self, positions: Sequence[int] | NDArray[np.int64]) -> AnnotatedPart:
        """The tiles at these positions of the part itself, in this order."""
        chosen = np.asarray(positions, np.int64)
        return replace(self, tiles=self.tiles.isel({n.TILE: chosen}), positions=self.positions[chosen])

    def without(self, left_out: Mapping[str, Sequence[str]]) -> AnnotatedPart:
        """The tiles of it that no run has `left_out`."""
        gone = {tile for of_run in left_out.values() for tile in of_run}
        return self.at([at for at, tile in enumerate(self.names) if tile not in gone])


def annotated_tiles(cohort: Cohort) -> xr.Dataset:
    """Images that have an annotation, in stored order, with all their coordinates."""
    return _annotated(cohort)[0]


def _annotated(cohort: Cohort) -> tuple[xr.Dataset, NDArray[np.int64]]:
    """Images that have an annotation, and their positions among all."""
    images = cohort.images(lazy=False)
    at = np.flatnonzero(np.isin(text_array(images[n.TILE]), cohort.annotated_tiles()))
    return images.isel({n.TILE: at}), at


def check_part(part: str, known: Sequence[str] = n.SPLITS) -> None:
    """Raises UnknownNameError where `part` is none of the `known` parts of a split."""
    if part not in known:
        raise unknown_name("part of the split", part, known)


def part_to_score(cohort: Cohort, part: str) -> AnnotatedPart:
    """The annotated tiles of `part` that runs are scored on, or all annotated tiles where it is `all`.

    Raises UnknownNameError for a part that no split has, FintuneValueError where there is no tile in it, SplitError
    without a valid split unless all are meant.
    """
    check_part(part, (*n.SPLITS, ALL))
    digest = require_split(cohort) if part != ALL else ""
    tiles, at = _annotated(cohort)
    parts = text_array(tiles[n.SPLIT])
    chosen = np.flatnonzero(((parts == part) & (parts != n.UNASSIGNED)) | (part == ALL))
    if not chosen.size:
        known = sorted(set(parts.tolist()) - {n.UNASSIGNED})
        raise FintuneValueError(
            f"{cohort.url}: no annotated tile in part {part!r} of the split; parts with tiles: "
            f"{', '.join(known) or 'none'}. Name one of these, or annotate more and split again."
        )
    return AnnotatedPart(part, tiles, at, digest).at(chosen)


def annotated_part(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> AnnotatedPart:
    """The annotated tiles of one part of the split, of all markers or of these.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where no tile is left.
    """
    tiles, at = _annotated(cohort)
    known = sorted(set(texts(tiles[n.MARKER])))
    for marker in markers:
        if marker not in known:
            raise unknown_name("marker with annotations", marker, known)
    parts = text_array(tiles[n.SPLIT])
    chosen = (parts == part) & (parts != n.UNASSIGNED)
    if markers:
        chosen &= np.isin(text_array(tiles[n.MARKER]), list(markers))
    if not chosen.any():
        counts = ", ".join(f"{one} {int((parts == one).sum())}" for one in n.SPLITS)
        raise SplitError(
            f"{cohort.url}: no annotated tile of {', '.join(markers) or 'any marker'} in part {part!r} (annotated "
            f"tiles of all markers: {counts}). Annotate some there, or split anew with a share for it: --fractions"
        )
    return AnnotatedPart(part, tiles, at, require_split(cohort)).at(np.flatnonzero(chosen))


def require_split(cohort: Cohort) -> str:
    """Digest of the stored split.

    Raises SplitError where there is none, or where the stored assignment is not the one that was checked.
    """
    tiles = cohort.images(lazy=False)
    stored = tiles[n.SPLIT].attrs.get(n.DIGEST)
    parts = dict(zip(text_array(tiles[n.TILE]), text_array(tiles[n.SPLIT]), strict=True))
    assigned = {tile: part for tile, part in parts.items() if part != n.UNASSIGNED}
    if not assigned:
        raise SplitError(f"{cohort.url} has no split yet. Run: fintune-xr split {cohort.url}")
    if stored != split_digest(assigned):
        raise SplitError(
            f"{cohort.url}: the stored split is not the one whose leaks were checked (interrupted or edited). "
            f"Run: fintune-xr split {cohort.url} --restart"
        )
    return str(stored)


def without_part_lines(cohort: Cohort) -> list[str]:
    """A sentence on annotated tiles that are in no part of the stored split, as those that came after it."""
    if not cohort.has(n.ANNOTATIONS):
        return []
    tiles = annotated_tiles(cohort)
    parts = text_array(tiles[n.SPLIT])
    left = text_array(tiles[n.TILE])[parts == n.UNASSIGNED].tolist()
    if not left or len(left) == parts.size:
        return []
    some = ", ".join(map(str, left[:3])) + (", …" if len(left) > 3 else "")
    return [
        f"{len(left)} of {parts.size} annotated tiles are in no part of the split, and neither learnt from nor scored "
        f"({some}). Where they came after it: fintune-xr split {cohort.url} --restart"
    ]


def default_part(cohort: Cohort) -> str:
    """The part that runs are scored on where none is named: test, or val where the split has no test part."""
    parts = set(texts(annotated_tiles(cohort)[n.SPLIT])) if cohort.has(n.ANNOTATIONS) else set()
    return n.VAL if n.VAL in parts and n.TEST not in parts else n.TEST


def part_asked(cohort: Cohort, part: str) -> tuple[str, list[str]]:
    """The `part` that runs are scored on, by default `default_part`, and sentences on what must be known of it."""
    lines = []
    if not part:
        part = default_part(cohort)
        if part != n.TEST:
            lines = [f"on part {part}, because the split has no test part; what was chosen on {part} is flattered"]
    return part, [*lines, *([] if part == ALL else without_part_lines(cohort))]


def stored_by(cohort: Cohort) -> By:
    """What the stored split keeps together: the tiles of a donor, or nothing beyond a tile."""
    return "tile" if _split_facts(cohort).get(n.SPLIT_BY) == n.TILE else "donor"


def split_table(cohort: Cohort) -> pd.DataFrame:
    """Annotated tiles and donors in each part, by marker."""
    tiles = annotated_tiles(cohort)
    frame = pd.DataFrame({name: text_array(tiles[name]) for name in (n.SPLIT, n.MARKER, n.DONOR)})
    table = frame.groupby([n.SPLIT, n.MARKER])[n.DONOR].agg(["size", "nunique"]).reset_index()
    return table.rename(columns={"size": "tiles", "nunique": "donors"})


def split_column(cohort: Cohort) -> Any:
    """The stored part of each tile (tile,), for writing; what was checked of it lies in its attributes."""
    return open_column(cohort.location, f"{n.IMAGES}/{n.SPLIT}")


def _split_facts(cohort: Cohort) -> Mapping[Any, Any]:
    """What was checked of the stored split, and by which unit it keeps tiles together."""
    return cohort.images(lazy=False)[n.SPLIT].attrs


def unit_of(by: str) -> str:
    """Name of the coordinate that a split by `by` keeps together. Raises UnknownNameError for any other word."""
    if by not in (n.DONOR, n.TILE):
        raise unknown_name("unit to split by", by, (n.DONOR, n.TILE))
    return by
