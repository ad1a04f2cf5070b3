"""Coordinates in STAR files, as RELION writes them."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import Particles, number, particles

MICROGRAPH: Final = "rlnMicrographName"
X: Final = "rlnCoordinateX"
Y: Final = "rlnCoordinateY"
FILES: Final = "coordinate_files"


def parse_star(text: str) -> dict[str, Particles]:
    """Particles by `rlnMicrographName` ("" without that column) of `rlnCoordinateX` and `rlnCoordinateY`.

    All blocks with both columns are taken; RELION 3.1 and later put a block of optics before them. No STAR tells
    the diameter of a particle. RELION's list of coordinate files, which lies beside them, holds none itself.

    Raises TileReadError where no block has the columns, or a row is malformed.
    """
    blocks = _blocks(text)
    if set(blocks) == {FILES}:
        return {}
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for table in _with_coordinates(blocks):
        if MICROGRAPH not in table:
            found.setdefault("", [])
        for place, row in enumerate(table.to_dict("records"), start=1):
            here = f"particle {place}"
            name = str(row.get(MICROGRAPH, ""))
            found[name].append((number(row[Y], Y, here), number(row[X], X, here), math.nan))
    return {name: particles(rows) for name, rows in found.items()}


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
