"""Legends as people write them: tables of label, code and colour, and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fintune_xr.errors import SettingsError
from fintune_xr.tasks.legends import MAX_CODE, Colour, Legend, colour_of
from fintune_xr.text import each_once

_JSON: Final = ".json"
_KEYS: Final = ("code", "colour", "color")


@dataclass(frozen=True, slots=True)
class _Row:
    """A class as a file tells it; `code` or `colour` is None where it does not."""

    label: str
    code: int | None
    colour: Colour | None


def parse_legend(text: str, *, name: str, source: str, ignored: tuple[int, ...] = ()) -> Legend:
    """The legend in a table (label and code, label and colour, or all three), or in the JSON of a `source` so called.

    Columns stand between tabs or commas; a colour is #ff8000 or three numbers of their own. A first line that is no
    class is a heading. JSON is an object of labels with a code, a colour (text or three numbers), or an object of
    `code` and `colour`. Blanks within labels become `_`. Classes without codes are numbered from 0 in their order.

    Raises SettingsError with the line that cannot be read, for codes or colours of some classes only, and for an
    ignored code that is none of them.
    """
    rows = _of_json(text, source) if source.lower().endswith(_JSON) else _of_table(text, source)
    if not rows:
        raise SettingsError(f"{source}: expected a line for each class (label, tab, code or colour), found none")
    codes = _codes(rows, source)
    absent = [code for code in ignored if code not in codes]
    if absent:
        raise SettingsError(f"{source}: code {absent[0]} is to be ignored, but is not in the legend")
    colours = [row.colour for row in rows if row.colour is not None]
    if colours and len(colours) < len(rows):
        bare = next(row.label for row in rows if row.colour is None)
        raise SettingsError(f"{source}: {bare} has no colour, and other classes have one")
    order = sorted(range(len(rows)), key=codes.__getitem__)
    labels = tuple((codes[at], re.sub(r"\s+", "_", rows[at].label)) for at in order)
    return Legend(name, labels, ignored, source, tuple(colours[at] for at in order) if colours else ())


def _codes(rows: Sequence[_Row], source: str) -> list[int]:
    told = [row.code for row in rows if row.code is not None]
    if told and len(told) < len(rows):
        bare = next(row.label for row in rows if row.code is None)
        raise SettingsError(f"{source}: {bare} has no code, and other classes have one")
    if not told and len(rows) > MAX_CODE + 1:
        raise SettingsError(f"{source}: expected up to {MAX_CODE + 1} classes, found {len(rows)}")
    return told or list(range(len(rows)))


def _of_table(text: str, source: str) -> list[_Row]:
    rows: list[_Row] = []
    seen: set[int] = set()
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    for position, (number, line) in enumerate(lines):
        parts = [part.strip() for part in re.split(r"[\t,]", line)]
        row = _row(parts)
        if row is None and position == 0 and len(parts) > 1:
            continue
        if row is None:
            raise SettingsError(f"{source}, line {number}: expected a label and a code or colour, found {line!r}")
        if row.code in seen:
            raise SettingsError(f"{source}, line {number}: code {row.code} is there twice")
        rows.append(row)
        seen |= {row.code} - {None}  # type: ignore[arg-type]
    return rows


def _row(parts: Sequence[str]) -> _Row | None:
    """A class of two to five columns: label, code or not, and colour in one column, in three, or not at all."""
    label, *others = parts
    code = others.pop(0) if len(others) != 3 and others and re.fullmatch(r"\d+", others[0]) else None
    try:
        colour = _colour(others) if others else None
    except ValueError:
        return None
    if not label or (code is None and colour is None):
        return None
    return _Row(label, None if code is None else int(code), colour)


def _colour(parts: Sequence[Any]) -> Colour:
    """A colour in one part as text, or in three numbers. Raises ValueError for what is none."""
    if len(parts) == 1:
        return colour_of(str(parts[0]))
    red, green, blue = (int(str(part)) for part in parts)
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError(f"expected red, green and blue of 0 to 255, got {red}, {green}, {blue}")
    return red, green, blue


def _of_json(text: str, source: str) -> list[_Row]:
    try:
        told = json.loads(text, object_pairs_hook=each_once)
    except ValueError as error:
        raise SettingsError(f"{source}: cannot be read as JSON: {error}") from error
    if not isinstance(told, dict):
        raise SettingsError(f'{source}: expected an object of labels, such as {{"tumor": "#ff0000"}}')
    return [_of_value(str(label).strip(), value, source) for label, value in told.items()]


def _of_value(label: str, value: Any, source: str) -> _Row:
    fault = SettingsError(f"{source}: {label!r}: expected a code, a colour, or both by name, got {value!r}")
    if not isinstance(value, dict):
        value = {"code": value} if isinstance(value, int) else {"colour": value}
    if not label or not value or not set(value) <= set(_KEYS):
        raise fault
    code, colour = value.get("code"), value.get("colour", value.get("color"))
    if isinstance(code, bool) or not isinstance(code, int | None):
        raise fault
    try:
        return _Row(label, code, None if colour is None else _colour(colour if isinstance(colour, list) else [colour]))
    except ValueError as error:
        raise fault from error
