"""Marker-positive cells by stored intensities: another rule never needs another segmentation.

The signal of a cell is its mean intensity in the marker channel less the background of its tile, in counts.
Cells come in blocks. Whole numbers are added up as blocks come, to one histogram for each donor and marker and to
counts of tiles, so that neither memory nor result depends on how the cells are cut, and no block is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.groups import tile_groups
from fintune_xr.analysis.kernels import thresholds as kernels
from fintune_xr.analysis.positivity.doubts import in_noise, within_one_mode
from fintune_xr.analysis.positivity.rules import FixedRule, IntensityRule, OtsuDonorRule, OtsuRule, of_rule
from fintune_xr.errors import unknown_name
from fintune_xr.names import (
    BACKGROUND,
    BIN,
    CHANNEL,
    DONOR,
    MARKER,
    MARKER_CHANNEL,
    MEAN_INTENSITY,
    N_ALL,
    N_CELLS,
    N_POSITIVE,
    N_WITHOUT_NUCLEUS,
    REASON,
    RULE,
    SCALE,
    THRESHOLD,
    THRESHOLD_DOUBTS,
    TILE,
    TILE_INDEX,
)
from fintune_xr.tasks.instance import POSITIVITY

CellBlocks: TypeAlias = Callable[[], Iterable[xr.Dataset]]
"""Reads the cell table of a run from its beginning, in parts of any size; each call reads it anew."""


def signal_histogram(blocks: Iterable[xr.Dataset], tiles: xr.Dataset) -> xr.DataArray:
    """Number of cells (donor, marker, bin) by log(1 + signal) in all `blocks`; `bin` is the centre of the bin.

    A block is a part of the cell table of a run; `tiles` holds the run's background (tile, channel) for all tiles of
    the cohort, in the order that `tile_index` counts, with the coordinates donor and marker. Cells without a
    background have no signal, and are in no bin. Where `tiles` has the coordinate `scale` (tile, channel), signals are
    divided by it first. Memory: 8 kB for each donor and marker, and one block.

    Raises UnknownNameError if the intensities have no marker channel.
    """
    groups, background, scale = tile_groups(tiles), marker_background(tiles), _scale(tiles)
    group = groups.group_of_tile
    counts = np.zeros((groups.donors.size * groups.markers.size, kernels.N_BINS), np.int64)
    for cells in blocks:
        index = cells[TILE_INDEX].values
        kernels.add_to_histograms(counts, marker_signal(cells, background) / scale[index], group[index])
    return xr.DataArray(
        counts.reshape(*groups.shape, kernels.N_BINS),
        coords={DONOR: groups.donors, MARKER: groups.markers, BIN: kernels.CENTRES},
        attrs={"units": "cells", "long_name": "Cells by log(1 + signal)."},
    )


def otsu_threshold(histogram: xr.DataArray) -> xr.DataArray:
    """Otsu's threshold in counts of each histogram (..., bin) from `signal_histogram`.

    NaN with a reason, in the coordinate `reason`, where fewer than MIN_CELLS cells, or cells of one value
    only, were counted.
    """
    return _thresholds(histogram, kernels.otsu)


def otsu_doubts(histogram: xr.DataArray) -> dict[str, str]:
    """By marker, why Otsu's threshold of all donors of `histogram` (donor, marker, bin) lies within one mode."""
    of_all = histogram.sum(DONOR)
    return within_one_mode(of_all, otsu_threshold(of_all))


def mixture_threshold(histogram: xr.DataArray) -> xr.DataArray:
    """Threshold in counts where the upper of two Gaussians becomes likelier, of each histogram (..., bin).

    NaN with a reason, in the coordinate `reason`, for too few cells or components that do not separate.
    """
    return _thresholds(histogram, kernels.mixture)


def threshold_of_tiles(histogram: xr.DataArray, tiles: xr.Dataset, *, rule: IntensityRule) -> xr.DataArray:
    """Threshold (tile) in counts above which a cell is positive, with its `reason` where it is NaN.

    `histogram` comes from `signal_histogram` of all cells of `tiles`. The threshold is that of the tile's marker in
    the cohort or, for OtsuDonorRule, of its donor and marker; it is in the counts of the tile, which differ by its
    `scale` where `tiles` has one.
    """
    return _threshold_of_all(histogram, tiles, rule) * xr.DataArray(_scale(tiles), dims=TILE)


def _threshold_of_all(histogram: xr.DataArray, tiles: xr.Dataset, rule: IntensityRule) -> xr.DataArray:
    groups = tile_groups(tiles)
    coords = {TILE: tiles.coords[TILE].reset_coords(drop=True)}
    if isinstance(rule, FixedRule):
        values = np.full(groups.donor_of_tile.size, rule.threshold, np.float32)
        return xr.DataArray(values, {**coords, REASON: (TILE, np.full(values.size, "", object))}, TILE)
    place = {MARKER: xr.DataArray(groups.marker_of_tile, dims=TILE, coords=coords)}
    if isinstance(rule, OtsuDonorRule):
        place[DONOR] = xr.DataArray(groups.donor_of_tile, dims=TILE, coords=coords)
        found = otsu_threshold(histogram)
    else:
        fit = otsu_threshold if isinstance(rule, OtsuRule) else mixture_threshold
        found = fit(histogram.sum(DONOR))
    return found.isel(place).drop_vars([DONOR, MARKER], errors="ignore").astype(np.float32)


def count_positive(
    blocks: Iterable[xr.Dataset], tiles: xr.Dataset, *, thresholds: Sequence[xr.DataArray]
) -> list[xr.DataArray]:
    """Number of cells (tile) whose signal is above the threshold (tile) of their tile, for each of `thresholds`.

    `tiles` holds n_cells and background. -1 where the number is unknown: the tile is not done, or it has
    cells but no threshold or no background. Memory: four bytes for each tile and threshold, and one block.
    """
    return _counted(blocks, tiles, thresholds)[0]


def _counted(
    blocks: Iterable[xr.Dataset], tiles: xr.Dataset, thresholds: Sequence[xr.DataArray]
) -> tuple[list[xr.DataArray], list[NDArray[np.int32]]]:
    """What `count_positive` counts, and cells (tile,) as far below 0 as the threshold is above, for each of them."""
    background, n_cells = marker_background(tiles), tiles[N_CELLS].reset_coords(drop=True)
    counts, mirrored = ([np.zeros(n_cells.size, np.int32) for _ in thresholds] for _ in range(2))
    limits = [threshold.values for threshold in thresholds]
    for cells in blocks:
        signal, index = marker_signal(cells, background), cells[TILE_INDEX].values
        for count, below, limit in zip(counts, mirrored, limits, strict=True):
            kernels.add_positives(count, signal, index, limit)
            kernels.add_positives(below, -signal, index, limit)
    for count, limit in zip(counts, limits, strict=True):
        has_rule = ~np.isnan(limit) & ~np.isnan(background)
        count[(n_cells.values < 0) | ((n_cells.values > 0) & ~has_rule)] = -1
    return [n_cells.copy(data=count) for count in counts], mirrored


def apply_rules(
    blocks: CellBlocks, tiles: xr.Dataset, *, rules: Sequence[IntensityRule], doubts: bool = False
) -> xr.Dataset:
    """N_all, n_positive, n_without_nucleus, threshold and reason (rule, tile) of one run.

    `blocks` gives the run's cell table, which is read twice: for the histograms, and to count; `tiles` its n_cells
    (tile) and background (tile, channel) with the coordinates tile, donor and marker of the images. Unknown counts
    are -1 and `reason` says why. With `doubts` the attribute THRESHOLD_DOUBTS says of each rule, and of the markers or
    donors whose threshold it is, what speaks against it (`analysis.positivity.doubts`).

    Raises UnknownNameError if the intensities have no marker channel.
    """
    small = tiles[[N_CELLS, BACKGROUND]].load()
    reads_cells = doubts or any(not isinstance(rule, FixedRule) for rule in rules)
    histogram = signal_histogram(blocks() if reads_cells else [], small)
    thresholds = [threshold_of_tiles(histogram, small, rule=rule) for rule in rules]
    counts, mirrored = _counted(blocks(), small, thresholds)
    parts = [_of_rule(*one, small) for one in zip(rules, thresholds, counts, strict=True)]
    applied = xr.concat(parts, RULE, join="exact", combine_attrs="drop")
    if not doubts:
        return applied
    told = {
        rule.name: _doubts(rule, histogram, small, (count.values, below))
        for rule, count, below in zip(rules, counts, mirrored, strict=True)
    }
    return applied.assign_attrs({THRESHOLD_DOUBTS: told})


def _doubts(
    rule: IntensityRule, histogram: xr.DataArray, tiles: xr.Dataset, counted: tuple[NDArray[np.int32], ...]
) -> dict[str, str]:
    """What speaks against the thresholds of a rule: the noise where there is any, else the shape of the signals.

    `counted` are the cells (tile,) above the threshold and as far below 0.
    """
    groups = tile_groups(tiles)
    known = counted[0] >= 0
    sums = [np.bincount(groups.group_of_tile[known], one[known], np.prod(groups.shape)) for one in counted]
    above, below = (one.astype(np.int64).reshape(groups.shape) for one in sums)
    if isinstance(rule, OtsuDonorRule):
        return in_noise(histogram, otsu_threshold(histogram), above, below)
    of_all = histogram.sum(DONOR)
    if isinstance(rule, FixedRule):
        given = xr.full_like(of_all[{BIN: 0}], rule.threshold, np.float64)
        return in_noise(of_all, given, above.sum(axis=0), below.sum(axis=0))
    found = otsu_threshold(of_all) if isinstance(rule, OtsuRule) else mixture_threshold(of_all)
    return within_one_mode(of_all, found) | in_noise(of_all, found, above.sum(axis=0), below.sum(axis=0))


def marker_background(tiles: xr.Dataset) -> NDArray[np.float32]:
    """Background (tile,) of the marker channel."""
    return _marker(tiles, BACKGROUND).astype(np.float32)


def marker_signal(cells: xr.Dataset, background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Signal (cell,) of a part of the cell table; `background` (tile,) is that of the marker channel."""
    intensity = _marker(cells, MEAN_INTENSITY).astype(np.float32)
    signal: NDArray[np.float32] = intensity - background[cells[TILE_INDEX].values]
    return signal


def _of_rule(rule: IntensityRule, threshold: xr.DataArray, n_positive: xr.DataArray, tiles: xr.Dataset) -> xr.Dataset:
    n_cells = tiles[N_CELLS].reset_coords(drop=True)
    code = np.where(np.isnan(marker_background(tiles)) & (n_cells > 0), kernels.NO_BACKGROUND, kernels.OK)
    why = _described(n_cells.copy(data=np.where(n_cells < 0, kernels.NOT_DONE, code)))
    parts = {
        N_ALL: n_cells.astype(np.int32),
        N_POSITIVE: n_positive,
        N_WITHOUT_NUCLEUS: xr.zeros_like(n_cells, np.int32),
        THRESHOLD: threshold.reset_coords(drop=True),
        REASON: why.where(why != "", threshold[REASON].reset_coords(drop=True)),
    }
    return of_rule(parts, rule)


def _thresholds(histogram: xr.DataArray, kernel: Callable[[NDArray[np.int64]], kernels.Thresholds]) -> xr.DataArray:
    threshold, code = xr.apply_ufunc(kernel, histogram, input_core_dims=[[BIN]], output_core_dims=[[], []])
    named: xr.DataArray = threshold.assign_attrs(POSITIVITY[THRESHOLD].attrs)
    return named.assign_coords({REASON: _described(code)})


def _described(code: xr.DataArray) -> xr.DataArray:
    # References to a few texts: text of fixed width takes two hundred bytes a tile.
    return code.copy(data=np.asarray(kernels.REASONS, object)[code.values])


def _scale(tiles: xr.Dataset) -> NDArray[np.float32]:
    """What signals (tile,) of the marker channel are divided by; 1 where nothing is told."""
    if SCALE not in tiles.coords:
        return np.ones(tiles.sizes[TILE], np.float32)
    return _marker(tiles, SCALE).astype(np.float32)


def _marker(dataset: xr.Dataset, name: str) -> NDArray[Any]:
    channels = [str(channel) for channel in dataset[CHANNEL].to_numpy()]
    if MARKER_CHANNEL not in channels:
        raise unknown_name(f"channel in {name}", MARKER_CHANNEL, channels)
    values: NDArray[Any] = dataset[name].isel({CHANNEL: channels.index(MARKER_CHANNEL)}).to_numpy()
    return values
