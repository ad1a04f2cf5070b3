"""Instances as COCO records: one file for each run, written object by object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.cell_measurement import renumber
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.label_layers import Choice, LabelledTile, labelled_tiles
from fintune_xr.store.export.masks import SUFFIX
from fintune_xr.store.raw.layouts import safe_name

FILE: Final = "coco.json"
CELL: Final = "cell"
IMAGE_SUFFIX: Final = SUFFIX.removeprefix("_pred")


def write_coco(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """`folder/<run or annotated>/coco.json`, each as soon as it is written.

    Each instance is an annotation of the category `cell`, with its exact pixels as uncompressed run lengths
    (column by column, as COCO counts them), its box (x, y, width, height) and area in px, and its label. An image is
    called as `--to cellpose` calls it, and keeps tile, donor and marker. Memory holds one tile.

    Raises UnknownNameError and FintuneValueError as `labelled_tiles` does.
    """
    waiting = labelled_tiles(cohort, choice)
    one = next(waiting, None)
    while one is not None:
        path = folder / one.layer.name / FILE
        with whole_file(path) as place, place.open("w", encoding="utf-8") as file:
            one = _write_layer(file, one, waiting)
        yield path


def _write_layer(file: TextIO, first: LabelledTile, others: Iterator[LabelledTile]) -> LabelledTile | None:
    """Writes `first` and those of `others` in the same layer; the first of another layer is given back."""
    images: list[dict[str, Any]] = []
    n_objects, one = 0, first
    file.write('{"annotations": [')
    while one is not None and one.layer is first.layer:
        images.append(_image(len(images) + 1, one))
        for record in objects(one.labels, len(images)):
            n_objects += 1
            file.write((",\n" if n_objects > 1 else "\n") + json.dumps({"id": n_objects, **record}))
        one = next(others, None)  # type: ignore[assignment]
    rest = {"images": images, "categories": [{"id": 1, "name": CELL}], "info": {"description": first.layer.name}}
    file.write("\n], " + json.dumps(rest)[1:])
    return one


def objects(labels: NDArray[Any], image_id: int) -> Iterator[dict[str, Any]]:
    """An annotation of each instance of `labels` (y, x), without an id, in ascending order of labels."""
    numbered = renumber(labels)
    for number, where in enumerate(ndimage.find_objects(numbered.mask.astype(np.int64)), start=1):
        rows, columns = where
        mask = numbered.mask[where] == number
        yield {
            "image_id": image_id,
            "category_id": 1,
            "iscrowd": 0,
            "area": int(np.count_nonzero(mask)),
            "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
            "segmentation": {"size": list(labels.shape), "counts": _runs_within(numbered.mask, columns, number)},
            n.LABEL: int(numbered.label[number - 1]),
        }


def _runs_within(mask: NDArray[np.uint32], columns: slice, number: int) -> list[int]:
    """`runs` of an instance of a mask (y, x) that lies in these columns, without looking at the others."""
    height, width = mask.shape
    counts = runs(mask[:, columns] == number)
    counts[0] += columns.start * height
    after = (width - columns.stop) * height
    if len(counts) % 2:
        counts[-1] += after
        return counts
    return [*counts, after] if after else counts


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of outside and inside pixels of a mask (y, x) in turns, column by column from outside on."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    ends = [*([0] if flat.size and flat[0] else []), *changes.tolist(), flat.size]
    return [int(length) for length in np.diff(np.array([0, *ends]))]


def _image(number: int, one: LabelledTile) -> dict[str, Any]:
    height, width = one.labels.shape
    name = f"{safe_name(one.tile)}{IMAGE_SUFFIX}"
    return {
        "id": number, "file_name": name, "height": height, "width": width, n.TILE: one.tile, n.DONOR: one.donor,
        n.MARKER: one.marker,
    }  # fmt: skip
