"""Maps of classes of runs as PNG files: codes for programs, colours for people."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.raw.layouts import safe_name
from fintune_xr.tasks.class_map import IGNORED, ClassMap, stored_class_map
from fintune_xr.tasks.legends import Legend
from fintune_xr.tasks.product import CLASSES
from fintune_xr.tasks.semantic import class_colours

CODES_SUFFIX: Final = "_pred.png"
COLOURS_SUFFIX: Final = "_colour.png"

# What a pixel of none of the classes is called in legends, the first of these that a legend has.
_REST_WORDS: Final = ("other", "background", "rest")


@dataclass(frozen=True, slots=True, eq=False)
class _Maps:
    """What a run's maps are written with: its tiles, code of each label (256,), colour of each (256, 3)."""

    run: str
    stored: xr.Dataset
    folder: Path
    codes: NDArray[np.uint8]
    colours: NDArray[np.uint8]


def export_class_maps(cohort: Cohort, folder: Path | str, *, runs: Iterable[str]) -> list[Path]:
    """Paths of the maps of all finished tiles of `runs`, below `folder/<run>`.

    `<safe name of the tile>_pred.png` holds the first code of each class, grey; pixels of none of the classes have the
    code that the legend calls other or background, or 255 where there is no such code, as pixels without prediction
    have. `…_colour.png` is a picture of it. The text `fintune-xr` of each PNG names tile and run in JSON.

    Raises FintuneValueError where there is nothing to write, StoreWriteError where `folder` cannot be written.
    """
    names = list(runs)
    if not names:
        raise FintuneValueError(f"{cohort.url} has no run of classes to export. Run: fintune-xr infer {cohort.url}")
    legend = annotated_legend(cohort) if cohort.has(n.ANNOTATIONS) else None
    return [path for run in names for path in _written(_maps(cohort, run, Path(folder), legend))]


def label_codes(class_map: ClassMap, legend: Legend | None) -> NDArray[np.uint8]:
    """The code of the annotations for each label (256,), as exports write it."""
    table = class_map.run_codes()
    table[0], table[IGNORED] = IGNORED, IGNORED
    meanings = {meaning.lower(): code for code, meaning in legend.rows} if legend is not None else {}
    taken = {code for _, codes in class_map.classes for code in codes}
    for word in _REST_WORDS:
        if word in meanings and meanings[word] not in taken:
            table[0] = meanings[word]
            break
    return table


def _maps(cohort: Cohort, run: str, folder: Path, legend: Legend | None) -> _Maps:
    if cohort.run_product(run) is not CLASSES:
        raise FintuneValueError(f"run {run!r} of {cohort.url} holds no maps of classes; name others with --run")
    stored = cohort.run(run, lazy=False)
    class_map = stored_class_map(stored[n.CLASSES].attrs)
    return _Maps(run, stored, folder / run, label_codes(class_map, legend), class_colours(class_map.n_classes))


def _written(maps: _Maps) -> list[Path]:
    done = np.flatnonzero(maps.stored[n.STATE].values == n.DONE).tolist()
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        pairs = ahead(pool, lambda index: _write(maps, index), done, depth=2 * workers)
        return [path for pair in pairs for path in pair]


def _write(maps: _Maps, index: int) -> tuple[Path, Path]:
    labels = tile_pixels(maps.stored, index, n.CLASSES)
    tile = str(maps.stored[n.TILE].values[index])
    told = PngInfo()
    told.add_text("fintune-xr", json.dumps({n.TILE: tile, n.RUN: maps.run}))
    paths = []
    for suffix, table in ((CODES_SUFFIX, maps.codes), (COLOURS_SUFFIX, maps.colours)):
        path = maps.folder / f"{safe_name(tile)}{suffix}"
        with whole_file(path) as place:
            Image.fromarray(table[labels]).save(place, format="PNG", pnginfo=told)
        paths.append(path)
    return paths[0], paths[1]
