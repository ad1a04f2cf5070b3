"""What a gate does to donor ratios: the positivity rule applied to the cells that stay, and the ranks it changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.analysis.positivity.counting import CellBlocks, apply_rules
from fintune_xr.analysis.positivity.rules import IntensityRule
from fintune_xr.errors import unknown_name
from fintune_xr.names import (
    AREA_PX,
    CHANNEL,
    DONOR,
    MARKER_CHANNEL,
    MEAN_INTENSITY,
    N_ALL,
    N_CELLS,
    N_POSITIVE,
    RULE,
    TILE_INDEX,
)
from fintune_xr.pixels.cell_gates import is_kept


def gated_cells(cells: xr.Dataset, *, bounds: xr.DataArray, min_area: int) -> xr.Dataset:
    """tile_index and mean_intensity of `cells`, where the intensities of dropped cells are NaN.

    `bounds` (tile, bound) are the lowest and highest marker intensity that stay in each tile, as
    `gating.intensity_bounds` finds them. No histogram and no count takes a cell without an intensity.

    Raises UnknownNameError if the intensities have no marker channel.
    """
    intensity = marker_intensity(cells)
    stays = is_kept(intensity.values, cells[AREA_PX].values, bounds.values[cells[TILE_INDEX].values], min_area)
    return cells[[TILE_INDEX]].assign({MEAN_INTENSITY: cells[MEAN_INTENSITY].where(intensity.copy(data=stays))})


def gated_counts(
    blocks: CellBlocks,
    tiles: xr.Dataset,
    *,
    n_kept: xr.DataArray,
    bounds: xr.DataArray,
    min_area: int,
    rule: IntensityRule,
) -> xr.Dataset:
    """N_all and n_positive (tile) under one gate; a threshold is found anew on the cells that stay.

    `blocks` and `tiles` as in `positivity.apply_rules`; `n_kept` (tile) cells stay, -1 where a tile is not done.
    The background of a tile stays that of the mask before the gate.

    Raises UnknownNameError if the intensities have no marker channel.
    """

    def staying() -> Iterator[xr.Dataset]:
        return (gated_cells(cells, bounds=bounds, min_area=min_area) for cells in blocks())

    judged = apply_rules(staying, tiles.assign({N_CELLS: n_kept}), rules=[rule])
    return judged[[N_ALL, N_POSITIVE]].isel({RULE: 0}, drop=True)


def marker_intensity(cells: xr.Dataset) -> xr.DataArray:
    """Mean raw marker intensity (cell).

    Raises UnknownNameError if there is no marker channel.
    """
    channels = [str(channel) for channel in cells[CHANNEL].to_numpy()]
    if MARKER_CHANNEL not in channels:
        raise unknown_name(f"channel in {MEAN_INTENSITY}", MARKER_CHANNEL, channels)
    return cells[MEAN_INTENSITY].isel({CHANNEL: channels.index(MARKER_CHANNEL)}).reset_coords(drop=True)


def rank_agreement(ratio: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """Spearman correlation (…, marker) over donors of `ratio` (…, donor, marker) with `reference` (donor, marker).

    NaN where fewer than three donors have both, or one of them is the same in all donors.
    """
    rho: xr.DataArray = xr.apply_ufunc(
        _rho,
        ratio,
        reference.reset_coords(drop=True),
        input_core_dims=[[DONOR], [DONOR]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return rho


def _rho(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    return kernels.spearman(first, second).rho
