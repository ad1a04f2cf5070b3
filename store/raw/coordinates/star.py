"""Coordinates in STAR files, as RELION writes them."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import CENTRES, Particles, check_one_picture, number, particles

MICROGRAPH: Final = "rlnMicrographName"
X: Final = "rlnCoordinateX"
Y: Final = "rlnCoordinateY"
FILES: Final = "coordinate_files"
_STACKS: Final = "rlnImageName"
_SHIFTS: Final = ("rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst")
UNSHIFTED: Final = f"{CENTRES} as they were picked, without the shifts that a refinement found (rlnOrigin…)"


def parse_star(text: str) -> dict[str, Particles]:
    """Particles by `rlnMicrographName` ("" without that column) of `rlnCoordinateX` and `rlnCoordinateY`.

    All blocks with both columns are taken; RELION 3.1 and later put a block of optics before them. No STAR tells
    the diameter of a particle. RELION's list of coordinate files, which lies beside them, holds none itself.

    Raises TileReadError where no block has the columns, a row is malformed, or rows are of several planes, tomograms
    or stacks that no `rlnMicrographName` tells apart.
    """
    blocks = _blocks(text)
    if set(blocks) == {FILES}:
        return {}
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    meaning = CENTRES
    for table in _with_coordinates(blocks):
        _check_one_picture(table)
        if any((table[name].astype(float) != 0).any() for name in _SHIFTS if name in table):
            meaning = UNSHIFTED
        if MICROGRAPH not in table:
            found.setdefault("", [])
        for place, row in enumerate(table.to_dict("records"), start=1):
            here = f"particle {place}"
            name = str(row.get(MICROGRAPH, ""))
            found[name].append((number(row[Y], Y, here), number(row[X], X, here), math.nan))
    return {name: particles(rows, meaning=meaning) for name, rows in found.items()}


def _check_one_picture(table: Any) -> None:
    """Raises TileReadError where rows of a table are of several pictures, and no micrograph's name says of which."""
    for column in table.columns:
        check_one_picture(table[column].tolist(), str(column))
    if MICROGRAPH not in table and _STACKS in table:
        stacks = list(dict.fromkeys(str(name).rpartition("@")[2] for name in table[_STACKS]))
        if len(stacks) > 1:
            raise TileReadError(
                f"several micrographs: particles are in {len(stacks)} stacks ({_STACKS}), {stacks[0]} and {stacks[1]} "
                f"among them, and there is no {MICROGRAPH}. Add that column."
            )


def _blocks(text: str) -> dict[str, Any]:
    import starfile

    with tempfile.NamedTemporaryFile("w", suffix=".star", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            return dict(starfile.read(Path(file.name), always_dict=True, parse_as_string=[MICROGRAPH]))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
            raise TileReadError(f"unreadable: expected a STAR ({str(error)[:120]})") from error


def _with_coordinates(blocks: Mapping[str, Any]) -> list[Any]:
    found = [block for block in blocks.values() if hasattr(block, "columns") and {X, Y} <= set(block.columns)]
    if found:
        return found
    if any("rlnCenteredCoordinateXAngst" in block.columns for block in blocks.values() if hasattr(block, "columns")):
        raise TileReadError("not in px: rlnCenteredCoordinateXAngst counts angstrom from the centre of a tomogram")
    raise TileReadError(f"malformed: expected a loop with {X} and {Y}, found blocks {sorted(map(str, blocks))}"[:200])
