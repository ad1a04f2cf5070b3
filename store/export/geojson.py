"""Label images as GeoJSON that QuPath imports: cells as detections, regions of classes as annotations.

Reference: `QuPathTypeAdapters` of QuPath 0.4 and later. A feature without a UUID or with another form of measurements
is read as something else there, without a word.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.outlines import Outline, Ring, outlines
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.cells_of_tiles import CellsOfTiles
from fintune_xr.store.export.label_layers import Choice, LabelledTile, labelled_tiles
from fintune_xr.store.raw.layouts import safe_name

SUFFIX: Final = ".geojson"
# What ids of exported objects are made in, so that the same object has the same id in every export.
_IDS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/fintune-xr")
# QuPath's own colours of these classes.
_CLASSES: Final = {
    True: {"name": "Positive", "color": [250, 62, 62]},
    False: {"name": "Negative", "color": [112, 112, 225]},
}
_NOT_MEASURED: Final = (n.LABEL,)


def write_geojson(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """`folder/<run or annotated>/<safe name of the tile>.geojson` of the chosen tiles, each as soon as it is written.

    Coordinates are px of the tile from the upper left corner of its first pixel, and polygons enclose exactly the
    pixels of the object. Cells are detections with their measurements, classified as positive or negative by the
    active rule where it could tell; regions of maps of classes are annotations of their class. Memory holds one tile.

    Raises UnknownNameError and FintuneValueError as `labelled_tiles` does.
    """
    tables: dict[str, CellsOfTiles | None] = {}
    for one in labelled_tiles(cohort, choice):
        run = one.layer.run
        if run not in tables:
            tables[run] = CellsOfTiles(cohort, run) if run and cohort.has(f"{n.CELLS}/{run}") else None
        path = folder / one.layer.name / f"{safe_name(one.tile)}{SUFFIX}"
        features = _regions(one) if one.layer.meanings else _cells(one, tables[run])
        with whole_file(path) as place:
            place.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
        yield path


def polygons(outline: Outline) -> dict[str, Any]:
    """GeoJSON geometry of an outline: whole numbers, each ring closed by its first corner."""
    pieces = [[_closed(ring) for ring in piece] for piece in outline.pieces]
    if len(pieces) == 1:
        return {"type": "Polygon", "coordinates": pieces[0]}
    return {"type": "MultiPolygon", "coordinates": pieces}


def object_id(*what: object) -> str:
    """A UUID that is the same for the same object of the same cohort, run and tile, and for no other."""
    return str(uuid.uuid5(_IDS, "\0".join(map(str, what))))


def _closed(ring: Ring) -> list[list[int]]:
    corners = ring.astype(int).tolist()
    return [*corners, corners[0]]


def _cells(one: LabelledTile, table: CellsOfTiles | None) -> Iterator[dict[str, Any]]:
    rows: dict[int, dict[Any, Any]] = {}
    if table is not None:
        found = table.of_tile(one.row)
        rows = {int(label): row for label, row in zip(found[n.LABEL], found.to_dict("records"), strict=True)}
    for outline in outlines(one.labels):
        row = rows.get(outline.label, {})
        # Neither where the rule could not tell, or none was applied.
        positive = row.get(table.positive) if table is not None else None
        classified = {} if positive is None or positive is pd.NA else {"classification": _CLASSES[bool(positive)]}
        feature = _feature(one, outline, "detection", {**classified, "measurements": _measurements(row)})
        feature["properties"]["metadata"] |= {n.REGION: row[n.REGION]} if n.REGION in row else {}
        yield feature


def _measurements(row: Mapping[str, Any]) -> dict[str, float]:
    known = {
        name: value for name, value in row.items() if name not in _NOT_MEASURED and not name.startswith(n.POSITIVE)
    }
    numbers = {name: value for name, value in known.items() if not isinstance(value, str)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def _regions(one: LabelledTile) -> Iterator[dict[str, Any]]:
    for outline in outlines(np.where(np.isin(one.labels, one.layer.unknown), 0, one.labels)):
        name = one.layer.meanings.get(outline.label, str(outline.label))
        yield _feature(one, outline, "annotation", {"classification": {"name": name, "color": _colour(outline.label)}})


def _colour(value: int) -> list[int]:
    digest = uuid.uuid5(_IDS, f"class {value}").bytes
    return [64 + byte % 192 for byte in digest[:3]]


def _feature(one: LabelledTile, outline: Outline, kind: str, more: Mapping[str, Any]) -> dict[str, Any]:
    of = {n.TILE: one.tile, n.DONOR: one.donor, n.MARKER: one.marker, n.LABEL: str(outline.label)}
    of |= {n.RUN: one.layer.run} if one.layer.run else {}
    return {
        "type": "Feature",
        "id": object_id(one.layer.name, one.tile, outline.label),
        "geometry": polygons(outline),
        "properties": {"objectType": kind, "name": str(outline.label), **more, "metadata": of},
    }
