"""Split of the annotated tiles, by donor or, as is usual for micrographs, by tile, with the leak check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SplitError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.splits.assignment import find_leaks, split_digest, split_donors
from fintune_xr.splits.image_hash import looks
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.store.zarr_io.location import writing
from fintune_xr.store.zarr_io.locks import writing_tiles
from fintune_xr.text import text_array, texts

DIGEST = "digest"
BY = "by"
By = Literal["donor", "tile"]
_BEING_WRITTEN: Final = "being written: "
_FRACTIONS: Final = (0.6, 0.2, 0.2)
_FRACTIONS_EM: Final = (0.9, 0.1, 0.0)


def split(
    store: str | Path,
    *,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    force: bool = False,
    keep: bool = False,
    by: By | None = None,
) -> pd.DataFrame:
    """Assigns each donor with annotated tiles to train, val or test; returns annotated tiles per part and marker.

    By default 0.6, 0.2 and 0.2 of the tiles, by donor; of micrographs 0.9 and 0.1, without a test part, by tile.

    Tiles without an annotation keep an empty split. The split is stored as the coordinate `split` of the
    images, with its seed, fractions and digest. `force` replaces a split that exists. With `keep` the split that
    came with the folders of the tiles is checked and taken; nothing is drawn then. `by` tile assigns each tile for
    itself, for cohorts of a single donor or data set: scores then say nothing about another one.

    Raises SplitError for leaks (same donor, same file or nearly the same image on two sides), a split that
    exists or none to keep, or too few donors.
    """
    cohort = open_cohort(store)
    if keep:
        return _kept(cohort)
    tiles = annotated_tiles(cohort)
    if not force:
        _refuse_another(cohort, tiles)
    by = by or ("tile" if cohort.kind == "em" else "donor")
    fractions = fractions if fractions is not None else _FRACTIONS_EM if cohort.kind == "em" else _FRACTIONS
    units = texts(tiles[_unit(by)])
    part_of = split_donors(units, texts(tiles[n.MARKER]), fractions=_three(fractions), seed=seed, unit=by)
    parts = [part_of[unit] for unit in units]
    assigned = dict(zip(texts(tiles[n.TILE]), parts, strict=True))
    if not force:
        _refuse_another(cohort, tiles, assigned)
    refuse_leaks(cohort, parts, by=by)
    facts = {"fractions": [float(f) for f in fractions], "seed": seed, BY: by}
    if by == n.TILE:
        say(_weaker(texts(tiles[n.DONOR]), parts))
    _store_split(cohort, assigned, facts)
    return split_table(cohort)


def _refuse_another(cohort: Cohort, tiles: xr.Dataset, assigned: Mapping[str, str] | None = None) -> None:
    """Raises SplitError where there is a split, unless it is this one, or before it is drawn any, left half-written."""
    expected = _BEING_WRITTEN + (split_digest(assigned) if assigned else "")
    is_broken_off = str(_split_column(cohort).attrs.get(DIGEST)).startswith(expected)
    if (tiles[n.SPLIT] != "").any() and not is_broken_off:
        raise SplitError(
            f"{cohort.url} has a split already, and models may have been trained on it. "
            "Use --force to replace it; runs and metrics made with the old one then no longer agree. A split that "
            "came with the tiles is taken with --keep."
        )


def _weaker(donors: Sequence[str], parts: Sequence[str]) -> str:
    """What a split by tile leaves open: of how many donors tiles lie on both sides."""
    sides = Counter(donor for donor, _ in set(zip(donors, parts, strict=True)))
    what = f"{sum(count > 1 for count in sides.values())} of {len(sides)} donors (data sets) have tiles on both sides"
    other = " Split by donor to score others: --by donor." if len(sides) > 1 else ""
    return (
        f"split by tile: {what}. Scores hold for more tiles of the same ones, which is weaker than a split by donor."
        f"{other}"
    )


_OTHERS = "without a part"


def _unit(by: str) -> str:
    if by not in (n.DONOR, n.TILE):
        raise SplitError(f"--by {by!r}: expected donor or tile")
    return by


def _kept(cohort: Cohort) -> pd.DataFrame:
    """The stored assignment of the annotated tiles, once it is known to leak nothing."""
    tiles = annotated_tiles(cohort)
    parts = texts(tiles[n.SPLIT])
    if not any(parts):
        raise SplitError(
            f"{cohort.url}: no annotated tile came with a part of a split. Ingest folders called train_cells, "
            f"val_cells and test_cells (--layout cellpose), or draw a split: fintune-xr split {cohort.url}"
        )
    refuse_leaks(cohort, parts)
    assigned = {tile: part for tile, part in zip(texts(tiles[n.TILE]), parts, strict=True) if part}
    _store_split(cohort, assigned, {"origin": "folders"})
    return split_table(cohort)


def split_table(cohort: Cohort) -> pd.DataFrame:
    """Annotated tiles and donors in each part, by marker."""
    tiles = annotated_tiles(cohort)
    frame = pd.DataFrame({name: text_array(tiles[name]) for name in (n.SPLIT, n.MARKER, n.DONOR)})
    table = frame.groupby([n.SPLIT, n.MARKER])[n.DONOR].agg(["size", "nunique"]).reset_index()
    return table.rename(columns={"size": "tiles", "nunique": "donors"})


def require_split(cohort: Cohort) -> str:
    """Digest of the stored split.

    Raises SplitError where there is none, or where the stored assignment is not the one that was checked.
    """
    stored = _split_column(cohort).attrs.get(DIGEST)
    tiles = cohort.images(lazy=False)
    parts = dict(zip(text_array(tiles[n.TILE]), text_array(tiles[n.SPLIT]), strict=True))
    assigned = {tile: part for tile, part in parts.items() if part}
    if not assigned:
        raise SplitError(f"{cohort.url} has no split yet. Run: fintune-xr split {cohort.url}")
    if stored != split_digest(assigned):
        raise SplitError(
            f"{cohort.url}: the stored split is not the one whose leaks were checked (interrupted or edited). "
            f"Run: fintune-xr split {cohort.url} --force"
        )
    return str(stored)


def judging_part(cohort: Cohort) -> str:
    """The part that runs are scored on where none is named: test, or val where the split has no test part."""
    parts = set(texts(annotated_tiles(cohort)[n.SPLIT])) if cohort.has(n.ANNOTATIONS) else set()
    return n.VAL if n.VAL in parts and n.TEST not in parts else n.TEST


def annotated_tiles(cohort: Cohort) -> xr.Dataset:
    """Images that have an annotation, in stored order, with all their coordinates."""
    images = cohort.images(lazy=False)
    known = cohort.annotated_tiles()
    return images.isel({n.TILE: np.flatnonzero(np.isin(text_array(images[n.TILE]), known))})


def annotated_part(cohort: Cohort, part: str, markers: Sequence[str] = ()) -> xr.Dataset:
    """Images of one part of the split that have an annotation, of all markers or of these.

    Raises UnknownNameError for a marker without annotated tiles, SplitError where no tile is left.
    """
    tiles = annotated_tiles(cohort)
    known = sorted(set(texts(tiles[n.MARKER])))
    for marker in markers:
        if marker not in known:
            raise unknown_name("marker with annotations", marker, known)
    chosen = text_array(tiles[n.SPLIT]) == part
    if markers:
        chosen &= np.isin(text_array(tiles[n.MARKER]), list(markers))
    if not chosen.any():
        raise SplitError(f"{cohort.url}: no annotated tile of {', '.join(markers) or 'any marker'} in part {part!r}")
    return tiles.isel({n.TILE: np.flatnonzero(chosen)})


def refuse_leaks(cohort: Cohort, parts: Sequence[str] | None = None, *, by: By = n.DONOR) -> None:
    """Raises SplitError naming annotated tiles that leak across `parts`, by default the stored split and its `by`."""
    tiles = annotated_tiles(cohort)
    if parts is None:
        parts = texts(tiles[n.SPLIT])
        by = stored_by(cohort)
    leaks = find_leaks(
        texts(tiles[n.TILE]),
        parts,
        donor=texts(tiles[_unit(by)]),
        digest=[" ".join(row) for row in text_array(tiles[n.SHA256])],
        seen=looks(_pictures(tiles), texts(tiles[n.CHANNEL])),
    )
    if leaks:
        listed = "\n  ".join(str(leak) for leak in leaks[:20])
        raise SplitError(
            f"{cohort.url}: {len(leaks)} pair(s) of tiles would leak across the split:\n  {listed}\n"
            "Give both tiles the same donor (names or --pattern of a new ingest), also if two fields only look alike, "
            f"or leave one out: fintune-xr annotate MASKS {cohort.url} --restart, from a folder without its mask."
        )


def copies_of_judges(cohort: Cohort, among: NDArray[np.bool_]) -> dict[str, str]:
    """Tiles `among` (tile,) those of the store that show what a val or test tile shows, and what each of them copies.

    The same file or nearly the same image, as in the leak check, which sees annotated tiles only.
    """
    images = cohort.images(lazy=False)
    parts = text_array(images[n.SPLIT])
    chosen = np.flatnonzero(among | np.isin(parts, [n.VAL, n.TEST]))
    tiles, sides = images.isel({n.TILE: chosen}), np.where(among, _OTHERS, parts)[chosen]
    names = texts(tiles[n.TILE])
    leaks = find_leaks(
        names,
        sides.tolist(),
        donor=names,
        digest=[" ".join(row) for row in text_array(tiles[n.SHA256])],
        seen=looks(_pictures(tiles), texts(tiles[n.CHANNEL])),
    )
    among_names = {f"{name} ({_OTHERS})": name for name in names}
    found = {among_names.get(told): leak for leak in leaks for told in (leak.first, leak.second)}
    return {name: str(leak) for name, leak in found.items() if name is not None}


def stored_by(cohort: Cohort) -> By:
    """What the stored split keeps together: the tiles of a donor, or nothing beyond a tile."""
    return "tile" if _split_column(cohort).attrs.get(BY) == n.TILE else "donor"


def _pictures(tiles: xr.Dataset) -> Iterator[NDArray[np.generic]]:
    """The image (channel, y, x) of each tile without its padding; one is in memory at a time."""
    for i in range(tiles.sizes[n.TILE]):
        tile = tiles.isel({n.TILE: i})
        real = {n.Y: slice(0, int(tile[n.HEIGHT])), n.X: slice(0, int(tile[n.WIDTH]))}
        yield tile[n.IMAGE].isel(real).values


def _store_split(cohort: Cohort, assigned: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """`require_split` refuses the split until its digest is in place, which is written last."""
    with writing_tiles(cohort.location), writing(f"{cohort.url}/{n.IMAGES}/{n.SPLIT}"):
        tiles = text_array(cohort.images(lazy=False)[n.TILE])
        column = _split_column(cohort)
        column.attrs[DIGEST] = _BEING_WRITTEN + split_digest(assigned)
        column[:] = np.array([assigned.get(tile, "") for tile in tiles], np.dtypes.StringDType())
        for name in ("fractions", "seed", "origin", BY):
            column.attrs.pop(name, None)
        column.attrs.update(facts)
        column.attrs[DIGEST] = split_digest(assigned)


def _split_column(cohort: Cohort) -> Any:
    return open_column(cohort.location, f"{n.IMAGES}/{n.SPLIT}")


def _three(fractions: Sequence[float]) -> tuple[float, float, float]:
    if len(fractions) != 3:
        raise SplitError(f"fractions {tuple(fractions)}: expected three numbers (train, val, test)")
    train, val, test = fractions
    return float(train), float(val), float(test)
