"""Masks out of files of the tools that people draw in: one face for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings import cellpose_seg, coco, imagej, labelme, qupath
from fintune_xr.store.raw.readers.drawings.json_documents import JsonKind, document_kind, parse_json
from fintune_xr.store.raw.readers.drawings.painting import Drawn, Overlap, paint
from fintune_xr.store.raw.sources import Place, open_place

_Answer = TypeVar("_Answer")

JSON_SUFFIXES: Final = (".json", ".geojson")
DRAWN_SUFFIXES: Final = (".npy", ".zip", ".roi", *JSON_SUFFIXES)

# What lists and records of another form than expected raise.
_MALFORMED: Final = (KeyError, TypeError, ValueError, IndexError, AttributeError)

# What reads files of JSON that are of one tile.
_OF_JSON: Final[Mapping[JsonKind, Callable[[Any, tuple[int, int]], Iterator[Drawn]]]] = {
    "labelme": labelme.drawn_shapes,
    "geojson": qupath.drawn_features,
}


def is_drawn(path: str) -> bool:
    """Whether a file holds what somebody has drawn, rather than an image of labels."""
    return PurePosixPath(path).suffix.lower() in DRAWN_SUFFIXES


def read_drawn(
    place: Place, shape: tuple[int, int], *, page: int | None = None, overlap: Overlap | None = None
) -> tuple[NDArray[np.uint32], str]:
    """The label image (y, x) of a tile of `shape` that was drawn in a file, and the SHA-256 of its bytes.

    Objects keep the numbers that they are called by where all are called by different ones, and are 1, 2, … in their
    order else. `page` is the place of the tile's image in a COCO file. What becomes of pixels of two objects says
    `overlap`.

    Raises TileReadError: not what its name says, damaged, of another size, without areas, or objects that overlap.
    """
    try:
        with open_place(place) as file:
            content = file.read()
        return _decoded(content, str(place), shape, page, overlap), hashlib.sha256(content).hexdigest()
    except TileReadError as error:
        raise TileReadError(error.reason, str(place)) from error
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
    content: bytes, path: str, shape: tuple[int, int], page: int | None, overlap: Overlap | None
) -> NDArray[np.uint32]:
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".npy":
        return cellpose_seg.segmentation_mask(content)
    try:
        return paint(_drawn(content, suffix, shape, page), shape, overlap)
    except TileReadError:
        raise
    except _MALFORMED as error:
        raise TileReadError(_malformed(error)) from error


def _malformed(error: Exception) -> str:
    what = f"the key {error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
    return f"unreadable: {what[:140]}"


def _drawn(content: bytes, suffix: str, shape: tuple[int, int], page: int | None) -> Iterator[Drawn]:
    if suffix in (".zip", ".roi"):
        return imagej.drawn_regions(content, suffix)
    document = parse_json(content)
    if page is not None:
        return coco.drawn_annotations(document, page, shape)
    kind = document_kind(document)
    if kind not in _OF_JSON:
        raise TileReadError("unreadable: a file of COCO, which names its images itself. Read it with --layout coco")
    return _OF_JSON[kind](document, shape)
