"""Signals of the cells of a run, and some of its tiles with the verdict on each cell, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.positivity import NEGATIVE, POSITIVE, UNDECIDED, JudgedTile
from fintune_xr.analysis.positivity.counting import signal_histogram
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.report.gallery import busiest_window
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import text_array, texts

MOST_RUNS: Final = 3
MOST_TILES: Final = 3
WINDOW_PX: Final = 384


def shown_runs(runs: Sequence[str], baseline: str) -> list[str]:
    """The runs whose cells are shown: a few that are not the baseline, or the baseline where there is no other."""
    return [run for run in runs if run != baseline][:MOST_RUNS] or list(runs)[:1]


def run_signals(cohort: Cohort, run: str) -> xr.DataArray:
    """Cells (marker, bin) by log(1 + signal), of all donors; a block of cells is in memory at a time."""
    tiles = cohort.run(run, lazy=False)[[n.N_CELLS, n.BACKGROUND]].load()
    blocks = cell_blocks(cohort, run, [n.TILE_INDEX, n.MEAN_INTENSITY])
    return signal_histogram(blocks(), tiles).sum(n.DONOR)


def judged_tiles(cohort: Cohort, run: str, rule: str) -> tuple[JudgedTile, ...]:
    """Of each of the first markers the tile with the median share of positive cells, cut to where most cells are."""
    counts = cohort.positivity(run).sel({n.RULE: rule})
    if not np.isfinite(counts[n.THRESHOLD].values).any():
        return ()
    markers = text_array(cohort.images(lazy=False)[n.MARKER])
    chosen = [_typical(counts, markers == marker) for marker in sorted(set(markers.tolist()))[:MOST_TILES]]
    return tuple(_judged(cohort, run, rule, at) for at in chosen if at is not None)


def _typical(counts: xr.Dataset, of_marker: NDArray[np.bool_]) -> int | None:
    positive, whole = (counts[name].values for name in (n.N_POSITIVE, n.N_ALL))
    known = np.flatnonzero(of_marker[: whole.size] & (positive >= 0) & (whole > 0))
    if not known.size:
        return None
    share = positive[known] / whole[known]
    return int(known[np.argsort(share, kind="stable")[known.size // 2]])


def _judged(cohort: Cohort, run: str, rule: str, at: int) -> JudgedTile:
    images, masks = cohort.images(lazy=False), cohort.run(run, lazy=False)
    tile, marker = texts(images[n.TILE])[at], texts(images[n.MARKER])[at]
    mask = tile_pixels(masks, at, n.MASK)
    plane = texts(images[n.CHANNEL]).index(n.MARKER_CHANNEL)
    window = busiest_window(mask, WINDOW_PX)
    cells = cohort.cells(run).sel({n.TILE: tile})[[n.LABEL, n.POSITIVE, n.DECIDED]].sel({n.RULE: rule}).load()
    judged = np.zeros(int(mask.max()) + 1, np.uint8)
    verdict = np.where(cells[n.POSITIVE].values, POSITIVE, NEGATIVE)
    judged[cells[n.LABEL].values] = np.where(cells[n.DECIDED].values, verdict, UNDECIDED)
    side = float(sides_um(images)[at])
    return JudgedTile(f"{marker}, {tile}", tile_pixels(images, at)[plane][window], mask[window], judged, side)
