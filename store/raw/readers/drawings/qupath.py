"""Objects that QuPath exports as GeoJSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.length_units import stated_unit
from fintune_xr.store.raw.readers.drawings.painting import Drawn, base_class, check_one_plane, ring

# What is told apart in an export; whatever says nothing is an annotation, as QuPath takes it.
_ANNOTATION: Final = "annotation"
_KINDS: Final = {"detection": "cells", "cell": "cells", _ANNOTATION: "annotations"}

# Under which keys other programs write the class of an object.
_OTHER_CLASSES: Final = ("class", "class_name", "className", "category", "label", "type")


def drawn_features(document: Any) -> Iterator[Drawn]:
    """The polygons of a feature, a list or a collection of features, called by their names.

    Coordinates are px of the full resolution.

    Raises TileReadError for other geometries, for objects that are no cells or annotations or in several planes, and
    for both cells and annotations in one file: then it must be said which are meant.
    """
    features = _features(document)
    kinds = {_kind(one) for one in features}
    if len(kinds) > 1:
        raise TileReadError("both cells and annotations are in this file. Export those that are meant from QuPath.")
    check_one_plane(map(_plane, features), "Export the objects of one plane.")
    for feature in features:
        name = str(_properties(feature).get("name") or "")
        yield Drawn(name, tuple(ring(one) for one in _rings(feature["geometry"])), of_class=_class(feature))


def unit_of_features(document: Any) -> str:
    """The unit of the coordinates, where the file states one; QuPath states none, and writes px."""
    return stated_unit(document, _features(document))


def _features(document: Any) -> list[Mapping[str, Any]]:
    if isinstance(document, list):
        return document
    return list(document["features"]) if "features" in document else [document]


def _plane(feature: Mapping[str, Any]) -> tuple[Any, Any]:
    """The plane of a stack and the time that a feature lies in, as QuPath writes them."""
    told = (feature.get("geometry") or {}).get("plane") or {}
    return told.get("z", 0), told.get("t", 0)


def _class(feature: Mapping[str, Any]) -> str:
    """The class of a feature: QuPath's classification, or what other programs have in its place."""
    properties = _properties(feature)
    told = properties.get("classification")
    if told is None:
        told = next((properties[key] for key in _OTHER_CLASSES if isinstance(properties.get(key), str)), None)
    if not isinstance(told, Mapping):
        return str(told or "")
    # Classes that are derived from others are written as all of their names.
    return base_class([str(name) for name in told.get("names") or [told.get("name") or ""]])


def _rings(geometry: Mapping[str, Any] | None) -> Iterator[Any]:
    if geometry is None:
        raise TileReadError("no area: a feature has no geometry. Leave it out.")
    kind = geometry["type"]
    if kind not in ("Polygon", "MultiPolygon"):
        raise TileReadError(f"no area: a {kind} encloses nothing")
    pieces = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
    for piece in pieces:
        yield from piece


def _kind(feature: Mapping[str, Any]) -> str:
    told = str(_properties(feature).get("objectType", _ANNOTATION)).lower()
    if told not in _KINDS:
        raise TileReadError(f"objects of the kind {told!r} are no cells and no annotations")
    return _KINDS[told]


def _properties(feature: Mapping[str, Any]) -> Mapping[str, Any]:
    return feature.get("properties") or {}
