"""Coordinates in JSON: a list of particles, or an object around it.

Three forms, and the same three by micrograph in an object whose keys are names of micrographs:

    [{"x": 3752, "y": 693, "diameter": 108}, …]                 centres; the diameter may be left out
    {"diameter": 108, "particles": [{"x": 3752, "y": 693}, …]}   with a diameter for those that tell none
    {"boxes": [[3698, 639, 108, 108], …]}                        corner, width and height, as in BOX
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import (
    CORNERS,
    KIND_NAMES,
    Particles,
    check_one_kind,
    check_one_picture,
    number,
    particles,
    plain_name,
    positive,
)
from fintune_xr.text import each_once

_LISTS: Final = ("particles", "points", "coordinates")
BOXES: Final = "boxes"


def parse_json(text: str) -> dict[str, Particles]:
    """Particles by micrograph, "" where the file names none.

    Raises TileReadError for what is no JSON, has none of the three forms, or a malformed particle, or a key such as
    `label` that tells several kinds of particles apart.
    """
    try:
        content = json.loads(text, object_pairs_hook=each_once)
    except ValueError as error:
        raise TileReadError(f"unreadable: expected JSON ({str(error)[:120]})") from error
    if isinstance(content, Mapping) and ("shapes" in content or {"images", "annotations"} <= set(content)):
        program = "LabelMe" if "shapes" in content else "COCO"
        raise TileReadError(
            f"malformed: this is a file of {program}. Known are lists of {{x, y, diameter}}, and objects with "
            "particles or boxes; convert it to one of these, or to CSV."
        )
    if isinstance(content, Mapping) and not _is_one(content) and content:
        return {str(name): _one(part, f"{name}: ") for name, part in content.items()}
    return {"": _one(content, "")}


def _is_one(content: Mapping[str, Any]) -> bool:
    return BOXES in content or any(name in content for name in _LISTS)


def _one(content: Any, where: str) -> Particles:
    if isinstance(content, Mapping) and BOXES in content:
        boxes = enumerate(_rows(content[BOXES], where), start=1)
        return particles((_box(row, f"{where}box {i}") for i, row in boxes), meaning=CORNERS)
    usual: Any = math.nan
    if isinstance(content, Mapping) and _is_one(content):
        usual = content.get("diameter", math.nan)
        content = next(content[name] for name in _LISTS if name in content)
    return particles(
        _particle(row, usual, f"{where}particle {i}") for i, row in enumerate(_rows(content, where), start=1)
    )


def _rows(rows: Any, where: str) -> Sequence[Any]:
    if not isinstance(rows, list):
        raise TileReadError(f"malformed: {where}expected a list of particles or boxes, found {type(rows).__name__}")
    records = [row for row in rows if isinstance(row, Mapping)]
    for key in sorted({str(key) for row in records for key in row if plain_name(str(key)) in KIND_NAMES}):
        check_one_kind([str(row.get(key, "")) for row in records], key)
    for key in sorted({str(key) for row in records for key in row}):
        check_one_picture([row.get(key, "") for row in records], key)
    return rows


def _particle(row: Any, usual: Any, here: str) -> tuple[float, float, float]:
    if not isinstance(row, Mapping) or not {"x", "y"} <= set(row):
        raise TileReadError(f"malformed: {here}: expected {{'x': …, 'y': …}}, found {row!r}"[:200])
    told = row.get("diameter", usual)
    size = math.nan if isinstance(told, float) and math.isnan(told) else positive(told, "diameter", here)
    return number(row["y"], "y", here), number(row["x"], "x", here), size


def _box(row: Any, here: str) -> tuple[float, float, float]:
    if isinstance(row, Mapping):
        row = [row.get(name) for name in ("x", "y", "width", "height")]
    if isinstance(row, list) and len(row) > 2 and isinstance(row[2], str):
        raise TileReadError(
            f"malformed: {here}: found {row!r}, as EMAN2 writes centres. Save the boxes as BOX in e2boxer."[:200]
        )
    if not isinstance(row, list) or len(row) < 4:
        raise TileReadError(f"malformed: {here}: expected [x, y, width, height], found {row!r}"[:200])
    x, y = number(row[0], "x", here), number(row[1], "y", here)
    width, height = positive(row[2], "width", here), positive(row[3], "height", here)
    return y + height / 2, x + width / 2, math.nan
