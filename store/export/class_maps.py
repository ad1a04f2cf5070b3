"""Maps of classes of runs as PNG files: codes for programs, colours for people."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
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
    """What a run's maps are written with: its tiles, code of each label (256,), colour of each (256, 3).

    `told` has the codes by what they stand for.
    """

    run: str
    stored: xr.Dataset
    folder: Path
    told: Mapping[str, int]
    codes: NDArray[np.uint8]
    colours: NDArray[np.uint8]


def export_class_maps(cohort: Cohort, folder: Path | str, *, runs: Iterable[str]) -> list[Path]:
    """Paths of the maps of all finished tiles of `runs`, below `folder/<run>`.

    `<safe name of the tile>_pred.png` holds codes as `label_codes` gives them, grey; `…_colour.png` is a picture of it.
    The text `fintune-xr` of each PNG names tile and run in JSON, and the code of each class, of none and of ignored
    pixels.

    Raises FintuneValueError where there is nothing to write, StoreWriteError where `folder` cannot be written.
    """
    names = list(runs)
    if not names:
        raise FintuneValueError(f"{cohort.url} has no run of classes to export. Run: fintune-xr infer {cohort.url}")
    legend = annotated_legend(cohort) if cohort.has(n.ANNOTATIONS) else None
    return [path for run in names for path in _written(_maps(cohort, run, Path(folder), legend))]


def label_codes(class_map: ClassMap, legend: Legend | None) -> NDArray[np.uint8]:
    """The code of the annotations for each label (256,), as exports write it: of a class its first code.

    Pixels of none of the classes have the code that the legend calls other, background or rest, or its only code that
    is neither of a class nor ignored. Where there is none, they have a code that nothing else has, 255 if it is free,
    as pixels without prediction do.

    Raises FintuneValueError where codes of classes and legend leave none free.
    """
    table = class_map.run_codes()
    known = {} if legend is None else {code: meaning for code, meaning in legend.rows if code not in legend.ignored}
    taken = {code for _, codes in class_map.classes for code in codes}
    unused = set(range(IGNORED + 1)) - taken - (set() if legend is None else set(legend.meanings))
    if not unused:
        raise FintuneValueError("the legend and the classes have all 256 codes, and none is left for pixels of neither")
    table[IGNORED] = max(unused)
    others = {meaning.lower(): code for code, meaning in known.items() if code not in taken}
    words = [others[word] for word in _REST_WORDS if word in others]
    table[0] = words[0] if words else next(iter(others.values())) if len(others) == 1 else table[IGNORED]
    return table


def _maps(cohort: Cohort, run: str, folder: Path, legend: Legend | None) -> _Maps:
    if cohort.run_product(run) is not CLASSES:
        raise FintuneValueError(f"run {run!r} of {cohort.url} holds no maps of classes; name others with --run")
    stored = cohort.run(run, lazy=False)
    class_map = stored_class_map(stored[n.CLASSES].attrs)
    codes = label_codes(class_map, legend)
    labels = {n.REST: 0, **{name: label for label, name in enumerate(class_map.names, start=1)}, "ignored": IGNORED}
    told = {name: int(codes[label]) for name, label in labels.items()}
    return _Maps(run, stored, folder / run, told, codes, class_colours(class_map.n_classes))


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
    told.add_text("fintune-xr", json.dumps({n.TILE: tile, n.RUN: maps.run, "codes": dict(maps.told)}))
    paths = []
    for suffix, table in ((CODES_SUFFIX, maps.codes), (COLOURS_SUFFIX, maps.colours)):
        path = maps.folder / f"{safe_name(tile)}{suffix}"
        with whole_file(path) as place:
            Image.fromarray(table[labels]).save(place, format="PNG", pnginfo=told)
        paths.append(path)
    return paths[0], paths[1]
