"""Verification of maps of classes: codes that the legend has, labels that the run has, counts equal to the maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.execution.read_ahead import ahead
from fintune_xr.store.check.problem import Fault, TileFault, array_at, first_few, values_at
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.tasks.class_map import IGNORED, check_class_map, stored_class_map
from fintune_xr.text import texts

_AGAIN = "Annotate again with --restart"


def check_codes(cohort: Cohort) -> Iterator[Fault]:
    """What is wrong with the annotated codes of a cohort that has some: strange tiles, codes without meaning."""
    found = cohort.annotations(lazy=False)
    tiles, images = texts(found[n.TILE]), cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    strange = [tile for tile in tiles if tile not in place]
    if strange:
        yield n.ANNOTATIONS, f"{len(strange)} annotated tile(s) are not among the images: {first_few(strange)}", _AGAIN
    if len(set(tiles)) < len(tiles):
        yield n.ANNOTATIONS, "an annotated tile is there twice", _AGAIN
    legend = annotated_legend(cohort)
    known = np.zeros(256, np.bool_)
    known[[code for code, _ in legend.rows]] = True
    heights, widths = (images[side].values for side in (n.HEIGHT, n.WIDTH))
    codes = found[n.CLASSES].variable
    for at, tile in enumerate(tiles):
        if tile not in place:
            continue
        real = (slice(0, int(heights[place[tile]])), slice(0, int(widths[place[tile]])))
        pixels = values_at(codes, (at, *real))
        values = np.unique(pixels) if pixels is not None else np.empty(0, np.uint8)
        unknown = values[~known[values]]
        if unknown.size:
            what = f"tile {tile} holds code {unknown[0]}, which legend {legend.name!r} lacks"
            yield f"{n.ANNOTATIONS}/{n.CLASSES}", what, _AGAIN


def check_class_run(cohort: Cohort, run: str) -> Iterator[TileFault]:
    """What is wrong with a run of classes: classes that do not fit the legend, labels beyond them, wrong counts."""
    path = f"{n.RUNS}/{run}"
    stored = cohort.run(run, lazy=False)
    class_map = stored_class_map(stored[n.CLASSES].attrs)
    if texts(stored[n.CLASS]) != list(class_map.names):
        yield path, "its classes are not those of its class map", f"Make run {run} again with --restart", ()
    if cohort.has(n.ANNOTATIONS):
        try:
            check_class_map(class_map, annotated_legend(cohort))
        except SettingsError as error:
            yield path, str(error), "Annotate with the legend that it was trained on, or train again", ()
    remedy = f"Set the tiles back with `fintune-xr check --repair`, then `fintune-xr infer --run {run}`"
    beyond, differing = _wrong_tiles(cohort, run, class_map.n_classes)
    for tiles, where, what in (
        (beyond, n.CLASSES, f"labels beyond the {class_map.n_classes} classes"),
        (differing, n.CLASS_PX, "other pixels of a class than the map"),
    ):
        if tiles:
            yield f"{path}/{where}", f"{len(tiles)} tile(s) have {what}: {first_few(tiles)}", remedy, tuple(tiles)


def _wrong_tiles(cohort: Cohort, run: str, n_classes: int) -> tuple[list[int], list[int]]:
    """Finished tiles with labels that there are not, and those whose counts are not those of the map."""
    stored = cohort.run(run, lazy=False)
    counts, maps = stored[n.CLASS_PX].values, array_at(cohort, f"{n.RUNS}/{run}/{n.CLASSES}")
    sides = [stored[side].values for side in (n.HEIGHT, n.WIDTH)]

    def fault(tile: int) -> tuple[int, str]:
        height, width = (int(side[tile]) for side in sides)
        pixels = values_at(maps, (tile, slice(height), slice(width)))
        if pixels is None:
            return tile, ""
        found = np.bincount(pixels.ravel(), minlength=IGNORED + 1)
        if found[n_classes + 1 : IGNORED].any():
            return tile, n.CLASSES
        return tile, "" if np.array_equal(found[1 : n_classes + 1], counts[tile]) else n.CLASS_PX

    done = np.flatnonzero(stored[n.STATE].values == n.DONE).tolist()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(ahead(pool, fault, done, depth=8))
    return [t for t, what in found if what == n.CLASSES], [t for t, what in found if what == n.CLASS_PX]
