"""Coordinates in JSON: a list of particles, or an object around it.

Three forms, and the same three by micrograph in an object whose keys are names of micrographs:

    [{"x": 3752, "y": 693, "diameter": 108}, …]                 centres; the diameter may be left out
    {"diameter": 108, "particles": [{"x": 3752, "y": 693}, …]}   with a diameter for those that tell none
    {"boxes": [[3698, 639, 108, 108], …]}                        corner, width and height, as in BOX

A key `unit` says what all lengths are in: px where it is not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.coordinates.particles import (
    CORNERS,
    KIND_NAMES,
    UNIT_NAMES,
    Particles,
    check_one_kind,
    check_one_picture,
    number,
    one_side,
    one_unit,
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
    if not isinstance(content, Mapping) or _is_one(content) or not content:
        return {"": _one(content, "", [])}
    units = [content[key] for key in content if _tells_unit(key, content[key])]
    micrographs = {name: part for name, part in content.items() if not _tells_unit(name, part)}
    return {str(name): _one(part, f"{name}: ", units) for name, part in micrographs.items()}


def _told(content: Any, unit: str, found: Particles) -> Particles:
    """`found` with the unit and the side of pixels that the record around the particles tells."""
    records = content if isinstance(content, Mapping) else {}
    side = one_side({plain_name(str(key)): [value] for key, value in records.items()})
    return replace(found, unit=unit, pixel_size_a=side)


def _tells_unit(key: Any, value: Any) -> bool:
    return isinstance(value, str) and plain_name(str(key)) in UNIT_NAMES


def _is_one(content: Mapping[str, Any]) -> bool:
    return BOXES in content or any(name in content for name in _LISTS)


def _one(content: Any, where: str, units: Sequence[str]) -> Particles:
    """Particles of one micrograph; `units` are those that the file states for all of them."""
    records = [content] if isinstance(content, Mapping) else []
    if isinstance(content, Mapping) and BOXES in content:
        rows = _rows(content[BOXES], where)
        boxes = enumerate(rows, start=1)
        found = particles((_box(row, f"{where}box {i}") for i, row in boxes), meaning=CORNERS)
        return _told(content, _unit([*records, *rows], units), found)
    around, usual = content, math.nan
    if isinstance(content, Mapping) and _is_one(content):
        usual = content.get("diameter", math.nan)
        content = next(content[name] for name in _LISTS if name in content)
    rows = _rows(content, where)
    found = particles(_particle(row, usual, f"{where}particle {i}") for i, row in enumerate(rows, start=1))
    return _told(around, _unit([*records, *rows], units), found)


def _unit(records: Sequence[Any], stated: Sequence[str]) -> str:
    keys = [(row, key) for row in records if isinstance(row, Mapping) for key in row]
    return one_unit([*stated, *(row[key] for row, key in keys if _tells_unit(key, row[key]))])


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
