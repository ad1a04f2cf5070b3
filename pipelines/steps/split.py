"""Split of the annotated tiles, by donor or, as is usual for micrographs, by tile, with the leak check."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.execution.whole_file import write_errors
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.leak_check.pairs import refuse_leaks
from fintune_xr.splits.assignment import split_digest, split_donors
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.ingest.participants import parts_not_recommended, recommended_parts
from fintune_xr.store.ingest.tiles import stored_cut
from fintune_xr.store.raw.cutting import whole_name
from fintune_xr.store.split import (
    Allowed,
    By,
    allowed_facts,
    annotated_tiles,
    read_allowed,
    split_column,
    split_table,
    unit_of,
)
from fintune_xr.text import text_array, texts

_BEING_WRITTEN: Final = "being written: "


def split(
    store: str | Path,
    *,
    fractions: Sequence[float] | None = None,
    seed: int = 0,
    force: bool = False,
    keep: bool = False,
    by: By | None = None,
    test: str = "",
    allow_alike: str | Path | None = None,
    show_leaks: str | Path | None = None,
) -> pd.DataFrame:
    """Assigns each donor with annotated tiles to train, val or test; returns annotated tiles per part and marker.

    By default 0.6, 0.2 and 0.2 of the tiles, by donor; of micrographs 0.9 and 0.1, without a test part, by tile.

    Tiles without an annotation keep an empty split. The split is stored as the coordinate `split` of the
    images, with its seed, fractions and digest. `force` replaces a split that exists. With `keep` the split that
    came with the folders of the tiles, or that a study recommends, is checked and taken; nothing is drawn then. `by`
    tile assigns each tile for itself, for cohorts of a single donor or data set: scores then say nothing about another
    one. Tiles that were cut from one image stay together even so. Donors whose whole name fits the regular expression
    `test` are the test part, e.g. those of some sites, and the others are drawn for train and val by `fractions` alone.

    `allow_alike` is a table of pairs of tiles (first, second, reason) that look alike and are no copies; it is stored
    with the split. `show_leaks` is a folder for pictures of the pairs that are refused, and for such a table of them.

    Raises SplitError for leaks (same donor, same file or nearly the same image on two sides), a split that
    exists or none to keep, or too few donors.
    """
    cohort = open_cohort(store)
    tiles = annotated_tiles(cohort)
    allowed = read_allowed(allow_alike, texts(tiles[n.TILE])) if allow_alike is not None else []
    shown = None if show_leaks is None else Path(show_leaks)
    if keep:
        return _kept(cohort, allowed, shown)
    if not force:
        _refuse_another(cohort, tiles)
    by = by or cohort.kind_facts.split_by
    fractions = fractions if fractions is not None else _usual(cohort, test)
    units = _units(cohort, tiles, by)
    part_of = _drawn(tiles, units, fractions=_three(fractions), seed=seed, by=by, test=test)
    parts = [part_of[unit] for unit in units]
    assigned = dict(zip(texts(tiles[n.TILE]), parts, strict=True))
    if not force:
        _refuse_another(cohort, tiles, assigned)
    refuse_leaks(cohort, parts, by=by, allowed=allowed, pictures=shown)
    facts = {"fractions": [float(f) for f in fractions], "seed": seed, n.SPLIT_BY: by, n.TEST_DONORS: test}
    facts |= _of_allowed(allowed)
    if by == n.TILE:
        say(_weaker(texts(tiles[n.DONOR]), parts))
    _store_split(cohort, assigned, facts)
    moved = parts_not_recommended(cohort)
    if moved:
        say(f"split: not the recommended split: {moved} tile(s) are in another part than the study recommends")
    return split_table(cohort)


def _units(cohort: Cohort, tiles: xr.Dataset, by: By) -> list[str]:
    """What is assigned as one, for each tile: its donor, or the image that it is, or was cut from."""
    units = texts(tiles[unit_of(by)])
    return [whole_name(unit) for unit in units] if by == n.TILE and stored_cut(cohort) else units


def _usual(cohort: Cohort, test: str) -> tuple[float, float, float]:
    train, val, tested = cohort.kind_facts.fractions
    return (train / (train + val), val / (train + val), 0.0) if test else (train, val, tested)


def _drawn(
    tiles: xr.Dataset, units: Sequence[str], *, fractions: tuple[float, float, float], seed: int, by: By, test: str
) -> dict[str, str]:
    """Part of each unit: drawn, but for those of the donors that fit the pattern `test`."""
    markers = texts(tiles[n.MARKER])
    if not test:
        return split_donors(units, markers, fractions=fractions, seed=seed, unit=by)
    if fractions[2]:
        raise SplitError(f"--test {test!r} says which donors are tested, so the third of --fractions must be 0")
    try:
        pattern = re.compile(test)
    except re.error as error:
        raise SplitError(f"--test {test!r} is not a regular expression: {error}") from error
    is_test = [pattern.fullmatch(donor) is not None for donor in texts(tiles[n.DONOR])]
    if not any(is_test) or all(is_test):
        raise SplitError(
            f"--test {test!r}: expected to fit some donors and not others, fits {sum(is_test)} of all tiles"
        )
    others = [at for at, one in enumerate(is_test) if not one]
    drawn = split_donors([units[at] for at in others], [markers[at] for at in others],
                         fractions=fractions, seed=seed, unit=by)  # fmt: skip
    return {unit: n.TEST for unit, one in zip(units, is_test, strict=True) if one} | drawn


def _refuse_another(cohort: Cohort, tiles: xr.Dataset, assigned: Mapping[str, str] | None = None) -> None:
    """Raises SplitError where there is a split, unless it is this one, or before it is drawn any, left half-written."""
    expected = _BEING_WRITTEN + (split_digest(assigned) if assigned else "")
    is_broken_off = str(split_column(cohort).attrs.get(n.DIGEST)).startswith(expected)
    if (tiles[n.SPLIT] != n.UNASSIGNED).any() and not is_broken_off:
        raise SplitError(
            f"{cohort.url} has a split already, and models may have been trained on it. "
            "Use --restart to replace it; runs and metrics made with the old one then no longer agree. A split that "
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


def _of_allowed(allowed: Allowed) -> dict[str, list[list[str]]]:
    """Allowed pairs as the split keeps them, once it is said that there are some."""
    if allowed:
        say(f"split: {len(allowed)} pair(s) of tiles that look alike are allowed on two sides, for the reasons given")
    return allowed_facts(allowed)


def _kept(cohort: Cohort, allowed: Allowed, pictures: Path | None) -> pd.DataFrame:
    """The stored assignment of the annotated tiles, once it is known to leak nothing."""
    tiles = annotated_tiles(cohort)
    parts = recommended_parts(cohort, tiles) or texts(tiles[n.SPLIT])
    if set(parts) <= {n.UNASSIGNED}:
        raise SplitError(
            f"{cohort.url}: no annotated tile came with a part of a split. Ingest folders called train_cells, "
            f"val_cells and test_cells (--layout cellpose), or draw a split: fintune-xr split {cohort.url}"
        )
    refuse_leaks(cohort, parts, allowed=allowed, pictures=pictures)
    assigned = {tile: part for tile, part in zip(texts(tiles[n.TILE]), parts, strict=True) if part != n.UNASSIGNED}
    origin = n.PARTICIPANTS if cohort.has(n.PARTICIPANTS) else "folders"
    _store_split(cohort, assigned, {"origin": origin, **_of_allowed(allowed)})
    return split_table(cohort)


def _store_split(cohort: Cohort, assigned: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """`require_split` refuses the split until its digest is in place, which is written last."""
    with cohort.hold_tiles(), write_errors(f"{cohort.url}/{n.IMAGES}/{n.SPLIT}"):
        tiles = text_array(cohort.images(lazy=False)[n.TILE])
        column = split_column(cohort)
        column.attrs[n.DIGEST] = _BEING_WRITTEN + split_digest(assigned)
        column[:] = np.array([assigned.get(tile, "") for tile in tiles], np.dtypes.StringDType())
        for name in ("fractions", "seed", "origin", n.SPLIT_BY, n.TEST_DONORS, n.ALLOWED_ALIKE):
            column.attrs.pop(name, None)
        column.attrs.update(facts)
        column.attrs[n.DIGEST] = split_digest(assigned)


def _three(fractions: Sequence[float]) -> tuple[float, float, float]:
    if len(fractions) != 3:
        raise SplitError(f"fractions {tuple(fractions)}: expected three numbers (train, val, test)")
    train, val, test = fractions
    return float(train), float(val), float(test)
