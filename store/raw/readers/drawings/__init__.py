"""Masks out of files of the tools that people draw in: one face for all of them."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.length_units import stated_unit
from fintune_xr.store.raw.readers.drawings import cellpose_seg, coco, imagej, labelme, qupath
from fintune_xr.store.raw.readers.drawings.json_documents import JsonKind, document_kind, parse_json
from fintune_xr.store.raw.readers.drawings.painting import Drawn, DrawnReading, paint
from fintune_xr.store.raw.sources import Place, open_place

_Answer = TypeVar("_Answer")

AS_DRAWN: Final = DrawnReading()

JSON_SUFFIXES: Final = (".json", ".geojson")
DRAWN_SUFFIXES: Final = (".npy", ".zip", ".roi", *JSON_SUFFIXES)

# What lists and records of another form than expected raise.
_MALFORMED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True, eq=False)
class DrawnLook:
    """How many objects of each class a tile's file holds, and how far those that are taken reach, (object, 2) as shares
    of height and width; of files that state a unit nothing, and of pictures of objects neither. `picture` is the name
    of the image that it was drawn in, where one is told.
    """

    classes: Counter[str]
    reach: NDArray[np.float64]
    picture: str = ""


def is_drawn(path: str) -> bool:
    """Whether a file holds what somebody has drawn, rather than an image of labels."""
    return PurePosixPath(path).suffix.lower() in DRAWN_SUFFIXES


def read_drawn(
    place: Place, shape: tuple[int, int], *, page: int | None = None, how: DrawnReading = AS_DRAWN
) -> tuple[NDArray[np.uint32], str]:
    """The label image (y, x) of a tile of `shape` that was drawn in a file, and the SHA-256 of its bytes.

    Objects keep the numbers that they are called by where all are called by different ones, and are 1, 2, … in their
    order else. `page` is the place of the tile's image in a COCO file.

    Raises TileReadError: not what its name says, damaged, of another size, without areas, objects that overlap, or
    numbers that are hardly px.
    """
    try:
        with open_place(place) as file:
            content = file.read()
        return _decoded(content, str(place), shape, page, how), hashlib.sha256(content).hexdigest()
    except TileReadError as error:
        raise TileReadError(error.reason, str(place)) from error
    except OSError as error:
        raise TileReadError(f"unreadable: {error.strerror or error}", str(place)) from error


def look_at_drawn(
    place: Place, pictures: Sequence[tuple[int | None, tuple[int, int]]], how: DrawnReading
) -> list[DrawnLook]:
    """What a file holds of each of its `pictures`, given by page and shape, nothing being painted.

    Nothing is said of a file that has no classes. Raises TileReadError as `read_drawn` does.
    """
    suffix = PurePosixPath(str(place)).suffix.lower()
    if suffix == ".npy":
        return []
    try:
        with open_place(place) as file:
            held = _parsed(file.read(), suffix)
        is_told = how.is_told or bool(held.unit)
        looks = [_looked_at(_drawn(held, shape, page, how), how, shape) for page, shape in pictures]
        picture = str(held.document.get("imagePath") or "") if held.kind == "labelme" else ""
        return [replace(one, reach=one.reach[: 0 if is_told else None], picture=picture) for one in looks]
    except TileReadError as error:
        raise TileReadError(error.reason, str(place)) from error
    except _MALFORMED as error:
        raise TileReadError(_malformed(error), str(place)) from error
    except OSError as error:
        raise TileReadError(f"unreadable: {error.strerror or error}", str(place)) from error


def coco_images(place: Place) -> list[str]:
    """Names of the images of a COCO file, in their order.

    Raises TileReadError where it is none.
    """
    return _of_document(place, coco.image_names)


def json_kind(place: Place) -> JsonKind:
    """Which program's objects a JSON file holds.

    Raises TileReadError where it is of none that is known here.
    """
    return _of_document(place, document_kind)


def _of_document(place: Place, ask: Callable[[Any], _Answer]) -> _Answer:
    try:
        with open_place(place) as file:
            return ask(parse_json(file.read()))
    except TileReadError as error:
        raise TileReadError(error.reason, str(place)) from error
    except _MALFORMED as error:
        raise TileReadError(_malformed(error), str(place)) from error
    except OSError as error:
        raise TileReadError(f"unreadable: {error.strerror or error}", str(place)) from error


def _decoded(
    content: bytes, path: str, shape: tuple[int, int], page: int | None, how: DrawnReading
) -> NDArray[np.uint32]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".npy":
        return cellpose_seg.segmentation_mask(content)
    try:
        held = _parsed(content, suffix) if page is None else _parsed_once(content, suffix)
        return paint(_drawn(held, shape, page, how), shape, how, held.unit)
    except TileReadError:
        raise
    except _MALFORMED as error:
        raise TileReadError(_malformed(error)) from error


def _malformed(error: Exception) -> str:
    what = f"the key {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
    return f"unreadable: {what[:140]}"


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What a file holds: regions of ImageJ, or a parsed document of JSON; and the unit that it states, if any."""

    regions: Sequence[Drawn] | None = None
    document: Any = None
    kind: JsonKind | None = None
    unit: str = ""


def _parsed(content: bytes, suffix: str) -> _Held:
    if suffix in (".zip", ".roi"):
        return _Held(regions=list(imagej.drawn_regions(content, suffix)))
    document = parse_json(content)
    kind = document_kind(document)
    unit = qupath.unit_of_features(document) if kind == "geojson" else stated_unit(document)
    return _Held(document=document, kind=kind, unit=unit)


# Whoever comes second waits for what the first one parses.
_PARSING: Final = threading.Lock()


def _parsed_once(content: bytes, suffix: str) -> _Held:
    """What the file of many images holds that was read last: parsing it for each of them would take their square."""
    with _PARSING:
        return _last_parsed(content, suffix)


@functools.lru_cache(maxsize=1)
def _last_parsed(content: bytes, suffix: str) -> _Held:
    return _parsed(content, suffix)


def _drawn(held: _Held, shape: tuple[int, int], page: int | None, how: DrawnReading) -> Iterator[Drawn]:
    if held.regions is not None:
        return iter(held.regions)
    if page is not None:
        return coco.drawn_annotations(held.document, page, shape, how.scale)
    if held.kind == "coco":
        raise TileReadError("unreadable: a file of COCO, which names its images itself. Read it with --layout coco")
    if held.kind == "labelme":
        return labelme.drawn_shapes(held.document, shape, how.scale)
    return qupath.drawn_features(held.document)


def _looked_at(objects: Iterator[Drawn], how: DrawnReading, shape: tuple[int, int]) -> DrawnLook:
    found = list(objects)
    taken = [one for one in found if how.takes(one.of_class)]
    reach = np.array([one.reach for one in taken if one.reach != (0.0, 0.0)], np.float64).reshape(-1, 2) / shape
    return DrawnLook(Counter(one.of_class for one in found), reach)
