"""Tiles with their masks as Cellpose's window opens and saves them: NAME.tif with NAME_seg.npy beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.cellpose import IMAGE_SUFFIX, as_planes, planes_of, write_planes
from fintune_xr.store.export.label_layers import Choice, labelled_tiles
from fintune_xr.store.export.masks import label_dtype
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.text import texts

SUFFIX: Final = "_seg.npy"


def write_segmentations(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """Paths of images and segmentations of the chosen tiles below `folder/<run or annotated>`.

    `<safe name of the tile>.tif` holds raw counts as `--to cellpose` writes them; `<safe name>_seg.npy` is a pickled
    record of arrays with the keys that Cellpose's own has, without flows. Labels are those of the store.

    Raises UnknownNameError and FintuneValueError as `labelled_tiles` does; FintuneValueError for more than three
    channels.
    """
    images = cohort.images(lazy=False)
    planes, sides = planes_of(texts(images[n.CHANNEL]), cohort.url), sides_um(images)
    for one in labelled_tiles(cohort, choice):
        image = folder / one.layer.name / f"{safe_name(one.tile)}{IMAGE_SUFFIX}"
        write_planes(image, as_planes(tile_pixels(images, one.row)[planes]), side_um=float(sides[one.row]))
        yield image
        path = image.with_name(image.name.removesuffix(IMAGE_SUFFIX) + SUFFIX)
        with whole_file(path) as place, place.open("wb") as file:
            np.save(file, np.array(segmentation(one.labels, image.name), object), allow_pickle=True)
        yield path


def segmentation(labels: NDArray[Any], image: str) -> dict[str, Any]:
    """What a `_seg.npy` holds of `labels` (y, x) of the file `image` beside it."""
    masks: NDArray[Any] = labels.astype(label_dtype(labels))
    return {
        "outlines": np.where(on_edge(masks), masks, masks.dtype.type(0)),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(np.count_nonzero(np.unique(masks)), bool),
        "filename": image,
        "flows": [[], [], [], [], [[]]],
        "diameter": np.nan,
    }


def on_edge(masks: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels (y, x) of instances beside a pixel of another instance, of none, or outside of the image."""
    padded = np.pad(masks, 1)
    inner = padded[1:-1, 1:-1]
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs: NDArray[np.bool_] = np.logical_or.reduce([inner != one for one in around])
    return np.asarray(differs & (inner != 0))
