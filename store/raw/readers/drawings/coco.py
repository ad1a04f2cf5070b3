"""Annotations of one image in a COCO file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.readers.drawings.painting import Drawn, check_size, ring


def image_names(document: Any) -> list[str]:
    """Names of the images in their order. Raises TileReadError where this is no COCO file of instances."""
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise TileReadError("unreadable: expected a COCO file with images and annotations")
    names = [str(image["file_name"]) for image in document["images"]]
    if len(set(names)) < len(names):
        raise TileReadError("unreadable: two images of the COCO file have one name")
    _check_ids([image["id"] for image in document["images"]], [one["image_id"] for one in document["annotations"]])
    return names


def _check_ids(images: Sequence[Any], owners: Sequence[Any]) -> None:
    """Refuses images of one id, files without annotations, and images without any beside annotations of no image:
    their tiles would hold no cells.
    """
    twice = [one for one, times in Counter(images).items() if times > 1]
    if twice:
        raise TileReadError(f"unreadable: {images.count(twice[0])} images of the COCO file have the id {twice[0]!r}")
    lost = sorted(set(owners) - set(images), key=repr)
    if lost and set(images) - set(owners):
        raise TileReadError(
            "unreadable: images of the COCO file have no annotation, and annotations are of images that it does not "
            f"list (image_id {lost[0]!r}; ids of images {', '.join(map(repr, images[:3]))})"
        )
    if images and not owners:
        raise TileReadError("no objects: the COCO file lists images and not one annotation. Was it exported whole?")


def drawn_annotations(document: Any, at: int, shape: tuple[int, int], scale: float) -> Iterator[Drawn]:
    """The annotations of the image at this place, called by the key `label`, if any; their categories are classes.

    `scale` px of the tile are one of the picture that was drawn in.

    Raises TileReadError where the image was of another size, and for crowds, which are no instances.
    """
    image_names(document)
    image = document["images"][at]
    check_size((int(image["height"]), int(image["width"])), shape, scale)
    names = {one["id"]: str(one.get("name") or one["id"]) for one in document.get("categories") or []}
    for one in document["annotations"]:
        if one["image_id"] == image["id"]:
            category = one.get("category_id")
            yield replace(_drawn(one), of_class="" if category is None else names.get(category, str(category)))


def _drawn(one: Mapping[str, Any]) -> Drawn:
    name, segmentation = str(one.get("label", "")), one["segmentation"]
    if one.get("iscrowd") and "label" not in one:
        raise TileReadError("a crowd of objects (iscrowd) is no instance. Leave crowds out.")
    if one.get("ignore"):
        raise TileReadError("an annotation that is to be ignored (ignore) would be stored as a cell. Leave it out.")
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        lengths = unpack_text(counts) if isinstance(counts, str) else counts
        return Drawn(name, mask=unpack_runs(lengths, segmentation["size"]))
    # Polygons of COCO are pieces of one object, and know no holes.
    if not all(isinstance(one, list) and len(one) % 2 == 0 for one in segmentation):
        raise TileReadError("unreadable: expected polygons as lists [x, y, x, y, …], one list for each polygon")
    if not segmentation:
        raise TileReadError("no area: an annotation has an empty segmentation")
    return Drawn(name, parts=tuple(Drawn("", (ring(np.reshape(one, (-1, 2))),)) for one in segmentation))


def unpack_runs(counts: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
    """The mask (y, x) of `size` out of the lengths of runs outside and inside in turns, column by column.

    Raises TileReadError where they are of another size.
    """
    lengths = np.asarray(counts, np.int64)
    if (lengths.size and lengths.min() < 0) or lengths.sum() != int(size[0]) * int(size[1]):
        raise TileReadError(f"unreadable: run lengths of {lengths.sum()} pixels, expected {size[0]} x {size[1]}")
    flat = np.repeat(np.arange(lengths.size) % 2 == 1, lengths)
    return flat.reshape((int(size[0]), int(size[1])), order="F")


def unpack_text(text: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a character, from the third length on less the one before the last.

    Reference: `rleFrString` of pycocotools.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    return counts
