"""Coordinates in STAR files, as RELION writes them."""

from __future__ import annotations

import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import CENTRES, Particles, check_one_picture, number, particles

MICROGRAPH: Final = "rlnMicrographName"
X: Final = "rlnCoordinateX"
Y: Final = "rlnCoordinateY"
FILES: Final = "coordinate_files"
_STACKS: Final = "rlnImageName"
_GROUP: Final = "rlnOpticsGroup"
_SIDE: Final = "rlnMicrographPixelSize"
# Within a name these are letters, and only where words begin or end they say something; starfile takes them for
# the beginning of a comment and for quotes everywhere. So they are other letters for as long as it reads.
_LETTERS: Final = {"#": ("\ue000", re.compile(r"(?<=\S)#")), "'": ("\ue001", re.compile(r"(?<=\S)'(?=\S)"))}
_SHIFTS: Final = ("rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst")
UNSHIFTED: Final = f"{CENTRES} as they were picked, without the shifts that a refinement found (rlnOrigin…)"


def parse_star(text: str) -> dict[str, Particles]:
    """Particles by `rlnMicrographName` ("" without that column) of `rlnCoordinateX` and `rlnCoordinateY`.

    All blocks with both columns are taken; RELION 3.1 and later put a block of optics before them. No STAR tells
    the diameter of a particle. RELION's list of coordinate files, which lies beside them, holds none itself.
    Coordinates are px of the summed micrograph, whose `rlnMicrographPixelSize` is told with them. That of the images of
    particles (`rlnImagePixelSize`) may be another one, and does not matter.

    Raises TileReadError where no block has the columns, a row is malformed, or rows are of several planes, tomograms
    or stacks that no `rlnMicrographName` tells apart, or of several sizes of pixels in one micrograph.
    """
    blocks = _blocks(text)
    if set(blocks) == {FILES}:
        return {}
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    sides: defaultdict[str, set[float]] = defaultdict(set)
    meaning, of_group = CENTRES, _sides_of_groups(blocks)
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
            sides[name].add(_side(row) or of_group.get(str(row.get(_GROUP, "")), 0.0))
    return {
        name: replace(particles(rows, meaning=meaning), pixel_size_a=_one_side(name, sides[name]))
        for name, rows in found.items()
    }


def _sides_of_groups(blocks: Mapping[str, Any]) -> dict[str, float]:
    """Side in angstrom of the micrographs' pixels, by the number of the optics group."""
    rows: list[Mapping[Any, Any]] = []
    for block in blocks.values():
        rows += block.to_dict("records") if hasattr(block, "columns") else [block]
    return {str(row[_GROUP]): _side(row) for row in rows if isinstance(row, Mapping) and _GROUP in row and _SIDE in row}


def _side(row: Mapping[Any, Any]) -> float:
    return number(row[_SIDE], _SIDE, "a row") if _SIDE in row else 0.0


def _one_side(name: str, sides: set[float]) -> float:
    known = sorted(side for side in sides if side > 0)
    if len(known) > 1:
        told = " and ".join(f"{side:g}" for side in (known[0], known[-1]))
        raise TileReadError(f"malformed: pixels of {name or 'one micrograph'} are of several sizes, {told} A ({_SIDE})")
    return known[0] if known else 0.0


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

    for letter, pattern in _LETTERS.values():
        text = pattern.sub(letter, text)
    with tempfile.NamedTemporaryFile("w", suffix=".star", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            found = dict(starfile.read(Path(file.name), always_dict=True, parse_as_string=[MICROGRAPH]))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
            raise TileReadError(f"unreadable: expected a STAR ({str(error)[:120]})") from error
    for block in found.values():
        for name in (MICROGRAPH, _STACKS):
            if hasattr(block, "columns") and name in block:
                block[name] = [_as_written(str(value)) for value in block[name]]
    return found


def _as_written(text: str) -> str:
    for sign, (letter, _) in _LETTERS.items():
        text = text.replace(letter, sign)
    return text


def _with_coordinates(blocks: Mapping[str, Any]) -> list[Any]:
    found = [block for block in blocks.values() if hasattr(block, "columns") and {X, Y} <= set(block.columns)]
    if found:
        return found
    if any("rlnCenteredCoordinateXAngst" in block.columns for block in blocks.values() if hasattr(block, "columns")):
        raise TileReadError("not in px: rlnCenteredCoordinateXAngst counts angstrom from the centre of a tomogram")
    raise TileReadError(f"malformed: expected a loop with {X} and {Y}, found blocks {sorted(map(str, blocks))}"[:200])
