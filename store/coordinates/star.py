"""Coordinates in STAR files, as RELION writes them."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from fintune_xr.errors import TileReadError

from .particles import Particles, number, particles

MICROGRAPH: Final = "rlnMicrographName"
X: Final = "rlnCoordinateX"
Y: Final = "rlnCoordinateY"


def parse_star(text: str) -> dict[str, Particles]:
    """Particles by `rlnMicrographName` ("" without that column) of `rlnCoordinateX` and `rlnCoordinateY`.

    The first block with both columns is taken: RELION 3.1 and later put a block of optics before it. No STAR tells
    the diameter of a particle.

    Raises TileReadError where no block has the columns, or a row is malformed.
    """
    table = _table(text)
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    if MICROGRAPH not in table:
        found[""] = []
    for place, row in enumerate(table.to_dict("records"), start=1):
        here = f"particle {place}"
        name = str(row.get(MICROGRAPH, ""))
        found[name].append((number(row[Y], Y, here), number(row[X], X, here), math.nan))
    return {name: particles(rows) for name, rows in found.items()}


def _table(text: str) -> Any:
    import starfile

    with tempfile.NamedTemporaryFile("w", suffix=".star", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            blocks = starfile.read(Path(file.name), always_dict=True)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
            raise TileReadError(f"unreadable: expected a STAR ({str(error)[:120]})") from error
    for block in blocks.values():
        if hasattr(block, "columns") and {X, Y} <= set(block.columns):
            return block
    raise TileReadError(f"malformed: expected a loop with {X} and {Y}, found blocks {sorted(map(str, blocks))}"[:200])
