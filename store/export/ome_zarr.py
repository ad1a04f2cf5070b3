"""Tiles as OME-Zarr 0.5 images of their own, with pyramids and with label images of runs and annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.execution.whole_file import whole_folder
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.label_layers import Choice, LabelLayer, chosen_tiles, label_layers
from fintune_xr.store.labels.ome_zarr import VERSION, image_ome, of_labels, pixel_sides, shown_channels, shown_ranges
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.text import texts

SUFFIX: Final = ".ome.zarr"
LABELS: Final = "labels"
# A level with no side longer than this is the last; a chunk is no longer than the second.
_SMALLEST_LEVEL: Final = 256
_CHUNK: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """What tiles are written from."""

    title: str
    images: xr.Dataset
    layers: Sequence[LabelLayer]
    folder: Path


def write_ome_zarr(cohort: Cohort, folder: Path, choice: Choice) -> Iterator[Path]:
    """Paths of the images of the chosen tiles, each as soon as it is written whole; draw all to write all.

    `folder/<safe name of the tile>.ome.zarr` has the axes of the tile, counts as stored, levels `0`, `1`, … of which
    each joins two by two pixels into their mean, and `labels/<run>` and `labels/annotated` where the tile is done and
    annotated. Levels of labels keep one pixel of four. Memory holds one tile.

    Raises UnknownNameError and FintuneValueError as `label_layers` and `chosen_tiles` do.
    """
    source = _Source(cohort.title, cohort.images(lazy=False), label_layers(cohort, choice.runs), folder)
    for at in chosen_tiles(cohort, choice):
        yield _write_tile(source, at)


def levels(pixels: NDArray[Any], *, are_labels: bool) -> list[NDArray[Any]]:
    """`pixels` (…, y, x) and what is left of them with half the rows and columns, again and again, the smallest last.

    An odd last row or column counts twice. Means of whole numbers are rounded.
    """
    found = [pixels]
    while max(found[-1].shape[-2:]) > _SMALLEST_LEVEL:
        found.append(_halved(found[-1], are_labels=are_labels))
    return found


def _halved(pixels: NDArray[Any], *, are_labels: bool) -> NDArray[Any]:
    if are_labels:
        return pixels[..., ::2, ::2]
    height, width = pixels.shape[-2:]
    even = np.pad(pixels, [*[(0, 0)] * (pixels.ndim - 2), (0, height % 2), (0, width % 2)], mode="edge")
    blocks = even.reshape(*even.shape[:-2], even.shape[-2] // 2, 2, even.shape[-1] // 2, 2)
    means: NDArray[Any] = blocks.mean(axis=(-3, -1))
    whole = pixels.dtype.kind in "ui"
    return (np.rint(means) if whole else means).astype(pixels.dtype, copy=False)


def _write_tile(source: _Source, at: int) -> Path:
    tile = str(source.images[n.TILE].values[at])
    path = source.folder / f"{safe_name(tile)}{SUFFIX}"
    with whole_folder(path) as partial:
        _fill(zarr.open_group(partial, mode="w", zarr_format=3), source, at)
    return path


def _fill(group: zarr.Group, source: _Source, at: int) -> None:
    image, one = source.images[n.IMAGE], source.images.isel({n.TILE: [at]})
    dims, sides = [str(dim) for dim in image.dims[1:]], pixel_sides(one)
    pixels = tile_pixels(source.images, at)
    pyramid = levels(pixels, are_labels=False)
    channels = texts(source.images[n.CHANNEL])
    ranges = [(0.0, 255.0)] * len(channels) if pixels.dtype == np.uint8 else shown_ranges([pixels])
    ome = image_ome(str(one[n.TILE].values[0]), dims, sides, levels=_names(pyramid))
    omero = {"channels": shown_channels(channels, ranges, pixels.dtype)}
    _write_levels(group, pyramid, dims, {**ome, "omero": omero})
    there = {layer.name: labels for layer in source.layers if (labels := layer.of_tile(source.images, at)) is not None}
    if there:
        inside = group.create_group(LABELS, attributes={n.OME: {"version": VERSION, LABELS: list(there)}})
        meanings = {layer.name: layer.meanings for layer in source.layers}
        for name, labels in there.items():
            _write_labels(inside.create_group(name), name, labels, sides, meanings[name])


def _write_labels(
    group: zarr.Group, name: str, labels: NDArray[Any], sides: Mapping[str, float], meanings: Mapping[int, str]
) -> None:
    pyramid = levels(labels, are_labels=True)
    dims = (n.Y, n.X)
    ome = of_labels(image_ome(name, dims, sides, levels=_names(pyramid)), "../../")
    if meanings:
        ome["image-label"]["properties"] = [{"label-value": value, n.CLASS: told} for value, told in meanings.items()]
    _write_levels(group, pyramid, dims, ome)


def _names(pyramid: Sequence[NDArray[Any]]) -> list[str]:
    return [str(level) for level in range(len(pyramid))]


def _write_levels(group: zarr.Group, pyramid: Sequence[NDArray[Any]], dims: Sequence[str], ome: Any) -> None:
    for level, pixels in enumerate(pyramid):
        chunks = (*[1] * (pixels.ndim - 2), *(min(side, _CHUNK) for side in pixels.shape[-2:]))
        array = group.create_array(
            str(level), shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, dimension_names=list(dims)
        )
        array[...] = pixels
    # Last, so that a group that says what it is holds it.
    group.attrs[n.OME] = ome
