"""Which program a JSON file of drawn objects is of, told by what it holds and not by its suffix."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, TypeAlias

from fintune_xr.errors import TileReadError
from fintune_xr.text import each_once

JsonKind: TypeAlias = Literal["geojson", "labelme", "coco"]
"""Layouts of masks whose files are JSON."""

# Of the keys of a file that nobody knows, so many are named.
_MOST_KEYS: Final = 6


def parse_json(content: bytes) -> Any:
    """What JSON says. Raises TileReadError where it is none, or has a key twice in one object."""
    try:
        return json.loads(content, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as error:
        raise TileReadError(f"unreadable: expected JSON ({str(error)[:80]})") from error


def document_kind(document: Any) -> JsonKind:
    """What a parsed JSON file holds: COCO has images and annotations, LabelMe shapes, GeoJSON features.

    Raises TileReadError for anything else, saying what it looks like.
    """
    if isinstance(document, list):
        if all(_is_feature(one) for one in document):
            return "geojson"
    elif isinstance(document, dict):
        if {"images", "annotations"} <= document.keys():
            return "coco"
        if "shapes" in document:
            return "labelme"
        if "features" in document or _is_feature(document):
            return "geojson"
    raise TileReadError(
        "unreadable: expected GeoJSON (features), a file of LabelMe (shapes) or of COCO (images and annotations), "
        f"found {_looks(document)}"
    )


def _is_feature(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "Feature"


def _looks(document: Any) -> str:
    if isinstance(document, list):
        if any(isinstance(one, dict) and "image_id" in one for one in document):
            return "a list of COCO's annotations alone, without the names and sizes of their images"
        return f"a list of {len(document)} values that are no features"
    if not isinstance(document, dict):
        return f"{str(document)[:40]!r} alone"
    if any(str(key).startswith("_via") for key in document):
        return "a project of VIA. Export it as COCO."
    keys = ", ".join(repr(str(key)[:40]) for key in list(document)[:_MOST_KEYS])
    return f"the keys {keys}" if document else "an empty record"
