"""Picked particles of cryoSPARC: a NumPy table whose positions are fractions of the micrograph's sides."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from dataclasses import replace
from typing import Any, Final

import numpy as np

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import Particles, number, particles

MICROGRAPH: Final = "location/micrograph_path"
X: Final = "location/center_x_frac"
Y: Final = "location/center_y_frac"
SHAPE: Final = "location/micrograph_shape"


def parse_cs(content: bytes) -> dict[str, Particles]:
    """Particles by `location/micrograph_path`, their centres as fractions of the micrograph's height and width.

    Raises TileReadError for what is no table of NumPy, holds pickled objects, or has no positions.
    """
    table = _table(content)
    missing = [name for name in (MICROGRAPH, X, Y) if name not in (table.dtype.names or ())]
    if missing:
        raise TileReadError(
            f"malformed: expected the columns {MICROGRAPH}, {X} and {Y}, found no {', '.join(missing)}. Positions "
            "lie in the picked or extracted particles of a job, or in its passthrough file."
        )
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for place, (name, x, y) in enumerate(zip(table[MICROGRAPH], table[X], table[Y], strict=True), start=1):
        here = f"particle {place}"
        found[_text(name)].append((number(y, Y, here), number(x, X, here), math.nan))
    pictures = _pictures(table)
    made = {name: particles(rows, is_fraction=True) for name, rows in found.items()}
    return {name: replace(one, picture=pictures.get(name)) for name, one in made.items()}


def _pictures(table: np.ndarray[Any, Any]) -> dict[str, tuple[int, int]]:
    """Height and width of each micrograph, where the table tells them."""
    if SHAPE not in (table.dtype.names or ()) or table[SHAPE].shape[1:] != (2,):
        return {}
    sizes = zip(table[MICROGRAPH], table[SHAPE].tolist(), strict=True)
    return {_text(name): (int(height), int(width)) for name, (height, width) in sizes if height > 0 < width}


def _table(content: bytes) -> np.ndarray[Any, Any]:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise TileReadError(f"unreadable: expected a table of cryoSPARC ({str(error)[:120]})") from error
    if not isinstance(found, np.ndarray):
        raise TileReadError("unreadable: expected a table of cryoSPARC, found an archive of arrays")
    return np.atleast_1d(found)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
