"""Tiles of the benchmark with the outlines of every model, cut to where there is something to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from fintune_xr import names as n
from fintune_xr.pixels.real_part import real_part
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import texts

N_TILES = 3
WINDOW_PX = 384


def benchmark_gallery(cohort: Cohort, found: xr.Dataset) -> xr.Dataset:
    """Image (tile, channel, y, x), mask (run, tile, y, x) and annotated (tile, y, x) of up to three test tiles.

    Of every marker in turn, the tile with most annotated cells; of each a window around most of them.
    """
    chosen = _chosen(found)
    images = cohort.images(lazy=False)
    place = {tile: i for i, tile in enumerate(texts(images[n.TILE]))}
    pictures = [_cut(cohort, found, images.isel({n.TILE: place[tile]}), tile) for tile in chosen]
    filled = {n.IMAGE: 0, n.MASK: 0, n.ANNOTATED: 0}
    return xr.concat(pictures, n.TILE, join="outer", coords="different", compat="equals", fill_value=filled)


def busiest_window(mask: NDArray[Any], edge: int) -> tuple[slice, slice]:
    """Rows and columns of a window of `edge` px, or the whole, that holds most of the foreground of `mask` (y, x)."""
    density = ndimage.uniform_filter((mask > 0).astype(np.float32), edge, mode="constant")
    peak = np.unravel_index(int(np.argmax(density)), density.shape)
    first_y, first_x = (
        int(np.clip(middle - edge // 2, 0, max(0, length - edge)))
        for middle, length in zip(peak, mask.shape, strict=True)
    )
    return slice(first_y, first_y + edge), slice(first_x, first_x + edge)


def _chosen(found: xr.Dataset) -> list[str]:
    """Tiles with most annotated cells, markers in turn."""
    n_true = (found[n.TP] + found[n.FN]).isel({n.RUN: 0, n.THRESHOLD: 0}).values
    markers, tiles = texts(found[n.MARKER]), texts(found[n.TILE])
    seen: dict[str, int] = {}
    ranked = []
    for i in np.argsort(-n_true, kind="stable").tolist():
        turn = seen.get(markers[i], 0)
        seen[markers[i]] = turn + 1
        ranked.append((turn, markers[i], i))
    return [tiles[i] for *_, i in sorted(ranked)[:N_TILES]]


def _cut(cohort: Cohort, found: xr.Dataset, tile: xr.Dataset, name: str) -> xr.Dataset:
    mask = cohort.annotations(lazy=False)[n.MASK].sel({n.TILE: name})
    truth = mask.isel(real_part(tile, mask.dims)).values
    rows, columns = busiest_window(truth, WINDOW_PX)
    window = {n.Y: rows, n.X: columns}
    marker, runs = str(tile[n.MARKER].item()), dict(found.attrs["runs"])
    runs[n.HYBRID] = runs[found.attrs[n.HYBRID][marker]]
    masks = [cohort.run(run, lazy=False)[n.MASK].sel({n.TILE: name}).isel(window).values for run in runs.values()]
    height, width = truth[rows, columns].shape
    return xr.Dataset(
        {
            n.IMAGE: ((n.CHANNEL, n.Y, n.X), tile[n.IMAGE].isel(window).values),
            n.MASK: ((n.RUN, n.Y, n.X), np.stack(masks)),
            n.ANNOTATED: ((n.Y, n.X), truth[rows, columns]),
        },
        coords={
            n.RUN: list(runs),
            n.CHANNEL: texts(tile[n.CHANNEL]),
            n.TILE: name,
            n.MARKER: marker,
            n.HEIGHT: height,
            n.WIDTH: width,
        },
    )
