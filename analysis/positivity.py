"""Marker-positive cells by stored intensities: another rule never needs another segmentation.

The signal of a cell is its mean intensity in the marker channel less the background of its tile, in counts.
Cells are read block by block and only histograms and counts of tiles are kept, so memory does not grow with
the cohort.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.graph_manipulation import bind
from numpy.typing import NDArray

from fintune_xr.analysis import kernels_threshold as kernels
from fintune_xr.analysis.groups import tile_groups
from fintune_xr.analysis.rules import FixedRule, IntensityRule, OtsuDonorRule, OtsuRule, of_rule
from fintune_xr.datasets import POSITIVITY
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
    THRESHOLD,
    TILE,
    TILE_INDEX,
)

_BLOCK = "block"


def marker_signal(cells: xr.Dataset, tiles: xr.Dataset) -> xr.DataArray:
    """Background-subtracted marker intensity (cell) in counts, lazy; NaN without a background pixel.

    `cells` is the cell table of a run; `tiles` holds its background (tile, channel) for all tiles of the
    cohort, in the order that `tile_index` counts.
    """
    signal: xr.DataArray = xr.apply_ufunc(
        _signal, cells[TILE_INDEX], _marker(cells, MEAN_INTENSITY), _background(tiles),
        input_core_dims=[[], [], [TILE]], dask="parallelized", output_dtypes=[np.float32],
    )
    return signal.rename(None).assign_attrs(units="counts", long_name="Marker signal above background.")


def signal_histogram(cells: xr.Dataset, tiles: xr.Dataset) -> xr.DataArray:
    """Number of cells (donor, marker, bin) by log(1 + signal), lazy; `bin` is the centre of the bin.

    `cells` and `tiles` as in `marker_signal`; `tiles` has the coordinates donor and marker along tile. Cells
    without a signal are in no bin.
    """
    groups = tile_groups(tiles)
    sizes = {DONOR: groups.donors.size, MARKER: groups.markers.size, BIN: kernels.N_BINS}
    group = xr.DataArray(groups.group_of_tile, dims=TILE)
    counts = _summed_over_cells(_histogram_block, cells, tiles, group, sizes)
    labelled = counts.assign_coords({DONOR: groups.donors, MARKER: groups.markers, BIN: kernels.CENTRES})
    return labelled.assign_attrs(units="cells", long_name="Cells by log(1 + signal).")


def otsu_threshold(histogram: xr.DataArray) -> xr.DataArray:
    """Otsu's threshold in counts of each histogram (..., bin) from `signal_histogram`.

    NaN with a reason, in the coordinate `reason`, where fewer than MIN_CELLS cells, or cells of one value
    only, were counted.
    """
    return _thresholds(histogram, kernels.otsu)


def mixture_threshold(histogram: xr.DataArray) -> xr.DataArray:
    """Threshold in counts where the upper of two Gaussians becomes likelier, of each histogram (..., bin).

    NaN with a reason, in the coordinate `reason`, for too few cells or components that do not separate.
    """
    return _thresholds(histogram, kernels.mixture)


def thresholds(cells: xr.Dataset, tiles: xr.Dataset, *, rule: IntensityRule) -> xr.DataArray:
    """Threshold (tile) in counts above which a cell is positive, lazy, with its `reason` where it is NaN.

    `cells` and `tiles` as in `signal_histogram`. The threshold is that of the tile's marker in the cohort or,
    for OtsuDonorRule, of its donor and marker.
    """
    groups = tile_groups(tiles)
    coords = {TILE: tiles.coords[TILE].reset_coords(drop=True)}
    if isinstance(rule, FixedRule):
        values = np.full(groups.donor_of_tile.size, rule.threshold, np.float32)
        fixed = xr.DataArray(values, dims=TILE, coords=coords)
        return fixed.assign_coords({REASON: (TILE, np.full(values.size, "", object))})
    histogram = signal_histogram(cells, tiles)
    place = {MARKER: xr.DataArray(groups.marker_of_tile, dims=TILE, coords=coords)}
    if isinstance(rule, OtsuDonorRule):
        place[DONOR] = xr.DataArray(groups.donor_of_tile, dims=TILE, coords=coords)
        found = otsu_threshold(histogram)
    else:
        fit = otsu_threshold if isinstance(rule, OtsuRule) else mixture_threshold
        found = fit(histogram.sum(DONOR))
    reason = _of_tiles(found[REASON], place)
    return _of_tiles(found, place).astype(np.float32).assign_coords({REASON: reason})


def count_positive(cells: xr.Dataset, tiles: xr.Dataset, *, threshold: xr.DataArray) -> xr.DataArray:
    """Number of cells (tile) whose signal is above the `threshold` (tile) of their tile, lazy.

    `tiles` holds n_cells and background. -1 where the number is unknown: the tile is not done, or it has
    cells but no threshold or no background.
    """
    again = _read_after(cells, threshold)
    counted = _summed_over_cells(_positive_block, again, tiles, threshold, {TILE: tiles.sizes[TILE]})
    n_cells = tiles[N_CELLS].reset_coords(drop=True)
    has_rule = threshold.reset_coords(drop=True).notnull() & _background(tiles).notnull()
    known = (n_cells == 0) | ((n_cells > 0) & has_rule)
    return n_cells.copy(data=counted.data).where(known, -1).astype(np.int32)


def apply_rule(cells: xr.Dataset, tiles: xr.Dataset, *, rule: IntensityRule) -> xr.Dataset:
    """N_all, n_positive, n_without_nucleus, threshold and reason (rule, tile) of one run, lazy.

    `cells` is the run's cell table; `tiles` its n_cells (tile) and background (tile, channel) with the
    coordinates tile, donor and marker of the images. Unknown counts are -1 and `reason` says why.

    Raises UnknownNameError if the intensities have no marker channel.
    """
    threshold = thresholds(cells, tiles, rule=rule)
    n_cells = tiles[N_CELLS].reset_coords(drop=True)
    code = xr.zeros_like(n_cells).where(_background(tiles).notnull() | (n_cells <= 0), kernels.NO_BACKGROUND)
    code = code.where(n_cells >= 0, kernels.NOT_DONE)
    why = _described(code)
    reason = why.where(why != "", threshold[REASON].reset_coords(drop=True))
    parts = {
        N_ALL: n_cells.astype(np.int32),
        N_POSITIVE: count_positive(cells, tiles, threshold=threshold),
        N_WITHOUT_NUCLEUS: xr.zeros_like(n_cells, np.int32),
        THRESHOLD: threshold.reset_coords(drop=True),
        REASON: reason,
    }
    return of_rule(parts, rule)


def _thresholds(
    histogram: xr.DataArray, kernel: Callable[[NDArray[np.int64]], kernels.Thresholds]
) -> xr.DataArray:
    threshold, code = xr.apply_ufunc(
        kernel, histogram, input_core_dims=[[BIN]], output_core_dims=[[], []], dask="parallelized",
        output_dtypes=[np.float64, np.int8],
    )
    named: xr.DataArray = threshold.assign_attrs(POSITIVITY[THRESHOLD].attrs)
    return named.assign_coords({REASON: _described(code)})


def _of_tiles(groups: xr.DataArray, place: dict[str, xr.DataArray]) -> xr.DataArray:
    """Values (tile) of `groups`, whose dims are the keys of `place`, at the positions (tile) in `place`.

    In one block: indexing a Dask array would make a block, and ten tasks, for every few tiles.
    """
    dims = [str(dim) for dim in groups.dims]
    found: xr.DataArray = xr.apply_ufunc(
        _at, groups.reset_coords(drop=True), *(place[dim] for dim in dims),
        input_core_dims=[dims, *[[TILE]] * len(dims)], output_core_dims=[[TILE]], dask="parallelized",
        output_dtypes=[groups.dtype], keep_attrs=False,
    )
    return found.assign_attrs(groups.attrs)


def _at(values: NDArray[Any], *positions: NDArray[np.int64]) -> NDArray[Any]:
    chosen: NDArray[Any] = values[positions]
    return chosen


def _described(code: xr.DataArray) -> xr.DataArray:
    # References to a few texts: text of fixed width takes two hundred bytes a tile.
    texts = np.asarray(kernels.REASONS, object)
    described: xr.DataArray = xr.apply_ufunc(
        _texts_of, code, kwargs={"texts": texts}, dask="parallelized", output_dtypes=[texts.dtype]
    )
    return described


def _texts_of(code: NDArray[Any], *, texts: NDArray[Any]) -> NDArray[Any]:
    described: NDArray[Any] = texts[code]
    return described


def _background(tiles: xr.Dataset) -> xr.DataArray:
    """Background (tile) of the marker channel, in one chunk: four bytes a tile."""
    background = _marker(tiles, BACKGROUND)
    return background.chunk({TILE: -1}) if background.chunks is not None else background


def _marker(dataset: xr.Dataset, name: str) -> xr.DataArray:
    channels = [str(channel) for channel in dataset[CHANNEL].to_numpy()]
    if MARKER_CHANNEL not in channels:
        raise unknown_name(f"channel in {name}", MARKER_CHANNEL, channels)
    return dataset[name].isel({CHANNEL: channels.index(MARKER_CHANNEL)}).reset_coords(drop=True)


def _summed_over_cells(
    block: Callable[..., NDArray[Any]],
    cells: xr.Dataset,
    tiles: xr.Dataset,
    per_tile: xr.DataArray,
    sizes: dict[str, int],
) -> xr.DataArray:
    """Sum over the blocks of cells of what `block` returns for each, an array of `sizes`."""
    shape = tuple(sizes.values())
    axes = tuple(range(1, len(shape) + 1))
    cell, tile = (0,), (len(shape) + 1,)
    partial = da.blockwise(  # type: ignore[no-untyped-call]
        _as_one_row, (0, *axes),
        _lazy(cells[TILE_INDEX]), cell, _lazy(_marker(cells, MEAN_INTENSITY)), cell,
        _lazy(_background(tiles)), tile, _lazy(per_tile.chunk({TILE: -1})), tile,
        new_axes=dict(zip(axes, shape, strict=True)), adjust_chunks={0: 1}, concatenate=True,
        dtype=np.int64, meta=np.empty((0,) * (len(shape) + 1), np.int64), block=block, shape=shape,
    )
    return xr.DataArray(partial, dims=(_BLOCK, *sizes)).sum(_BLOCK)


def _read_after(cells: xr.Dataset, threshold: xr.DataArray) -> xr.Dataset:
    """`cells` as arrays of their own that are read once the threshold is known.

    Otherwise Dask would share the blocks between histogram and count, and hold all of them until the
    threshold is there.
    """
    needed = cells[[TILE_INDEX, MEAN_INTENSITY]]
    lazy = {name: array for name, array in needed.data_vars.items() if array.chunks is not None}
    if threshold.chunks is None or not lazy:
        return needed
    arrays = bind([array.data for array in lazy.values()], threshold.data, seed="read after the threshold")
    return needed.assign({name: old.copy(data=new) for (name, old), new in zip(lazy.items(), arrays, strict=True)})


def _lazy(array: xr.DataArray) -> Any:
    return array.data if array.chunks is not None else array.chunk().data


def _as_one_row(
    index: NDArray[np.int32],
    intensity: NDArray[np.float32],
    background: NDArray[np.float32],
    per_tile: NDArray[Any],
    *,
    block: Callable[..., NDArray[Any]],
    shape: tuple[int, ...],
) -> NDArray[np.int64]:
    signal = _signal(index, intensity, background)
    return block(signal, index, per_tile, shape)[None].astype(np.int64)


def _signal(
    index: NDArray[np.int32], intensity: NDArray[np.float32], background: NDArray[np.float32]
) -> NDArray[np.float32]:
    return intensity.astype(np.float32) - background.astype(np.float32)[index]


def _histogram_block(
    signal: NDArray[Any], index: NDArray[Any], group: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    n_donors, n_markers, n_bins = shape
    return kernels.histogram(signal, group[index], n_donors * n_markers).reshape(n_donors, n_markers, n_bins)


def _positive_block(
    signal: NDArray[Any], index: NDArray[Any], threshold: NDArray[Any], _: tuple[int, ...]
) -> NDArray[Any]:
    return kernels.positives(signal, index, threshold)
