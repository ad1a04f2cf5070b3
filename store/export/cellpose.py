"""Annotated tiles in the folders that Cellpose trains from, one for each part of the split."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import tifffile
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, whole_file
from fintune_xr.pixels.pixel_side import resolution, sides_um
from fintune_xr.pixels.real_part import real_part, tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.masks import label_dtype
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.text import text_array, texts

FOLDERS: Final = {part: f"{part}_cells" for part in n.SPLITS}
INDEX_FILE: Final = "split.tsv"
TO_ANNOTATE: Final = "to_annotate.tsv"
N_PLANES: Final = 3
IMAGE_SUFFIX: Final = ".tif"
MASK_SUFFIX: Final = "_masks.tif"


def write_training_folders(cohort: Cohort, folder: Path | str, *, workers: int | None = None) -> Iterator[Path]:
    """Paths of images and masks of all annotated tiles with a split, each as soon as it is written.

    `folder/<part>_cells/<safe name of the tile>.tif` holds raw counts (3, y, x) as Cellpose reads them: DAPI,
    then the other channels, then zeros. `_masks.tif` beside it holds the instances, uint16 where they fit and
    else uint32. `folder/split.tsv`, written last, says which tile, donor and marker each image is. Of each
    tile the real height and width are written, and the size of its pixels where it is known. A file appears
    whole, in place of an older one.

    Raises SplitError where no annotated tile has a split, FintuneValueError for more than three channels or
    where a folder holds other files, which Cellpose would train on as well.
    """
    folder, workers = Path(folder), workers or len(os.sched_getaffinity(0))
    tiles, masks = _assigned(cohort)
    planes = planes_of(texts(tiles[n.CHANNEL]), cohort.url)
    index = _index(tiles)
    _refuse_others(folder, index)
    with ThreadPoolExecutor(workers) as pool:
        write = partial(_write_tile, folder, tiles, masks, planes, list(index["image"]))
        for paths in ahead(pool, write, range(len(index)), depth=2 * workers):
            yield from paths
    with whole_file(folder / INDEX_FILE) as place:
        index.to_csv(place, sep="\t", index=False, lineterminator="\n")
    yield folder / INDEX_FILE


def write_tiles_to_annotate(cohort: Cohort, tiles: Sequence[str], folder: Path | str) -> Iterator[Path]:
    """Paths of the images of these tiles, as Cellpose's GUI opens them, and of a table of them, as they are written.

    `folder/<safe name of the tile>.tif` is as in `write_training_folders`; `folder/to_annotate.tsv` names the tile,
    donor and marker of each image in the order of `tiles`. Masks that the GUI saves beside the images are read back by
    `fintune-xr annotate folder STORE --layout cellpose`.

    Raises FintuneValueError for more than three channels.
    """
    images, folder = cohort.images(lazy=False), Path(folder)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    chosen = images.isel({n.TILE: [place[tile] for tile in tiles]})
    planes = planes_of(texts(images[n.CHANNEL]), cohort.url)
    files = [f"{safe_name(tile)}{IMAGE_SUFFIX}" for tile in tiles]
    for at, file in enumerate(files):
        image = as_planes(tile_pixels(chosen, at)[planes])
        write_planes(folder / file, image, side_um=float(sides_um(chosen)[at]))
        yield folder / file
    labels = {name: text_array(chosen[name]).astype(object) for name in (n.TILE, n.DONOR, n.MARKER)}
    with whole_file(folder / TO_ANNOTATE) as place_:
        pd.DataFrame({"image": files, **labels}).to_csv(place_, sep="\t", index=False, lineterminator="\n")
    yield folder / TO_ANNOTATE


def _assigned(cohort: Cohort) -> tuple[xr.Dataset, xr.DataArray]:
    """Images and masks (tile, y, x) of the annotated tiles with a split, in the same order."""
    images, truth = cohort.images(lazy=False), cohort.annotations(lazy=False)
    place = {tile: i for i, tile in enumerate(texts(truth[n.TILE]))}
    kept = [
        (i, place[tile])
        for i, (tile, part) in enumerate(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
        if part != n.UNASSIGNED and tile in place
    ]
    if not kept:
        raise SplitError(f"{cohort.url}: no annotated tile has a split. Run: fintune-xr split {cohort.url}")
    of_image, of_mask = (list(indices) for indices in zip(*kept, strict=True))
    return images.isel({n.TILE: of_image}), truth[n.MASK].isel({n.TILE: of_mask})


def planes_of(channels: list[str], url: str) -> list[int]:
    """Positions of the channels in the order of Cellpose's planes: DAPI first.

    Raises FintuneValueError for more than three.
    """
    if len(channels) > N_PLANES:
        raise FintuneValueError(
            f"{url}: Cellpose takes images of at most {N_PLANES} channels, these tiles have {len(channels)} "
            f"({', '.join(channels)}). Ingest the ones to train on into a store of their own."
        )
    return sorted(range(len(channels)), key=lambda i: channels[i] != n.DAPI)


def _index(tiles: xr.Dataset) -> pd.DataFrame:
    columns = {name: text_array(tiles[name]).astype(object) for name in (n.TILE, n.DONOR, n.MARKER, n.SPLIT)}
    files = [
        f"{FOLDERS[part]}/{safe_name(tile)}{IMAGE_SUFFIX}"
        for part, tile in zip(texts(tiles[n.SPLIT]), texts(tiles[n.TILE]), strict=True)
    ]
    return pd.DataFrame({"image": files, **columns})


def _refuse_others(folder: Path, index: pd.DataFrame) -> None:
    ours = {folder / image for image in index["image"]}
    ours |= {_mask_path(path) for path in ours}
    there = [path for name in FOLDERS.values() for path in sorted((folder / name).glob("*"))]
    # What a killed export was writing is no image, and removed when the next file is written.
    found = [path for path in there if path not in ours and not path.name.endswith(PARTIAL_SUFFIX)]
    if found:
        raise FintuneValueError(
            f"{folder} holds {len(found)} file(s) that do not belong to this export, the first is {found[0]}. "
            "Cellpose would train on them too, whatever part of the split they are from: give an empty folder."
        )


def _write_tile(
    folder: Path, tiles: xr.Dataset, masks: xr.DataArray, planes: list[int], files: list[str], index: int
) -> tuple[Path, Path]:
    path, counts = folder / files[index], tile_pixels(tiles, index)[planes]
    mask: NDArray[Any] = masks.isel({n.TILE: index, **real_part(tiles, masks.dims, index)}).values
    side = float(sides_um(tiles)[index])
    # The mask first: Cellpose takes an image without one for a fault of the whole folder.
    _write(_mask_path(path), mask.astype(label_dtype(mask)), axes="YX", side_um=side)
    write_planes(path, as_planes(counts), side_um=side)
    return path, _mask_path(path)


def as_planes(counts: NDArray[Any]) -> NDArray[Any]:
    """`counts` (channel, y, x) with planes of zeros behind them, as many as Cellpose wants."""
    image = np.zeros((N_PLANES, *counts.shape[1:]), counts.dtype)
    image[: len(counts)] = counts
    return image


def write_planes(path: Path, image: NDArray[Any], *, side_um: float = 0.0) -> None:
    """Writes `image` (plane, y, x) whole; the side of a pixel is 0 where it is not known."""
    _write(path, image, axes="CYX", side_um=side_um)


def _write(path: Path, pixels: NDArray[Any], *, axes: str, side_um: float) -> None:
    with whole_file(path) as place:
        tifffile.imwrite(
            place, pixels, compression="zlib", photometric="minisblack", metadata={"axes": axes}, **resolution(side_um)
        )


def _mask_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(IMAGE_SUFFIX) + MASK_SUFFIX)
