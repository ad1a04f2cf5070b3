"""Shapes that LabelMe saves beside an image."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings.painting import Drawn, check_class, ellipse, rectangle, ring


def drawn_shapes(document: Mapping[str, Any], shape: tuple[int, int]) -> Iterator[Drawn]:
    """The shapes of a file; those with the same `group_id` are pieces of one object.

    Raises TileReadError where the image was of another size, and for lines and points, which enclose nothing.
    """
    said = (document.get("imageHeight"), document.get("imageWidth"))
    if None not in said and (int(said[0]), int(said[1])) != shape:  # type: ignore[arg-type]
        raise TileReadError(f"wrong shape: expected {shape[0]} x {shape[1]} as the tile, found {said[0]} x {said[1]}")
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for at, one in enumerate(document["shapes"]):
        group = one.get("group_id")
        grouped.setdefault(("alone", at) if group is None else ("group", group), []).append(one)
    for pieces in grouped.values():
        name = str(pieces[0].get("label") or "")
        check_class(name)
        # A pixel of two pieces of an object is of the object.
        yield Drawn(name, mask=np.logical_or.reduce([_pixels(piece, pieces, shape) for piece in pieces]))


def _pixels(one: Mapping[str, Any], pieces: list[Mapping[str, Any]], shape: tuple[int, int]) -> np.ndarray:
    if any(piece.get("shape_type") == "mask" for piece in pieces):
        return _mask(one, shape)
    return Drawn("", (_ring(one),)).pixels(shape)


def _ring(one: Mapping[str, Any]) -> np.ndarray:
    kind, points = one.get("shape_type") or "polygon", np.asarray(one["points"], np.float64)
    if kind == "polygon":
        return ring(points)
    if kind == "rectangle":
        return rectangle(*points.min(axis=0), *points.max(axis=0))
    if kind == "circle":
        if len(points) != 2:
            raise TileReadError(f"unreadable: expected a circle's middle and a point on it, found {len(points)} points")
        radius = math.dist(points[0], points[1])
        return ellipse((points[0][0], points[0][1]), (radius, radius))
    raise TileReadError(f"no area: a shape of the kind {kind!r} encloses nothing, or is not known here")


def _mask(one: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Pixels of a shape that is a picture of itself, at the corner of its box."""
    from PIL import Image

    if one.get("shape_type") != "mask":
        raise TileReadError("a mask and another shape are pieces of one object")
    try:
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(one["mask"], validate=True))).convert("L")) > 0
    except (binascii.Error, OSError) as error:
        raise TileReadError(f"unreadable: the picture of a mask ({str(error)[:80]})") from error
    left, top = (round(float(value)) for value in np.asarray(one["points"], np.float64).min(axis=0))
    if left < 0 or top < 0 or top + picture.shape[0] > shape[0] or left + picture.shape[1] > shape[1]:
        raise TileReadError("wrong shape: a mask reaches beyond the image")
    found = np.zeros(shape, np.bool_)
    found[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return found
