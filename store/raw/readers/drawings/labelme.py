"""Shapes that LabelMe saves beside an image."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings.painting import Drawn, check_size, ellipse, rectangle, ring

_NUMBERED: Final = re.compile(r"(.*?)[\s_#.-]*\d+")


def drawn_shapes(document: Mapping[str, Any], shape: tuple[int, int], scale: float) -> Iterator[Drawn]:
    """The shapes of a file; those with the same `group_id` are pieces of one object, and labels are classes.

    Labels that number the objects, `cell 1`, `cell 2` and so on, are the class before the number. `scale` px of the
    tile are one of the picture that was drawn in.

    Raises TileReadError where the image was of another size, and for lines and points, which enclose nothing.
    """
    check_size((document.get("imageHeight"), document.get("imageWidth")), shape, scale)
    grouped: dict[Any, list[Mapping[str, Any]]] = {}
    for at, one in enumerate(document["shapes"]):
        group = one.get("group_id")
        grouped.setdefault(("alone", at) if group is None else ("group", group), []).append(one)
    labels = [str(pieces[0].get("label") or "") for pieces in grouped.values()]
    for pieces, label, of_class in zip(grouped.values(), labels, _classes(labels), strict=True):
        yield Drawn(label, parts=tuple(_part(piece, pieces, shape) for piece in pieces), of_class=of_class)


def _classes(labels: list[str]) -> list[str]:
    """The class of each object, without the number behind it where all have one, and no two the same."""
    bare = [_NUMBERED.fullmatch(label) for label in labels]
    if len(set(labels)) == len(labels) and all(bare):
        return [found[1] for found in bare if found]
    return labels


def _part(one: Mapping[str, Any], pieces: list[Mapping[str, Any]], shape: tuple[int, int]) -> Drawn:
    if any(piece.get("shape_type") == "mask" for piece in pieces):
        return Drawn("", mask=_mask(one, shape))
    return Drawn("", (_ring(one),))


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
