"""Cells that are positive in several channels at once, by a threshold of its own in each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr.analysis.positivity.counting import (
    CellBlocks,
    marker_background,
    marker_signal,
    otsu_doubts,
    signal_histogram,
    threshold_of_tiles,
)
from fintune_xr.analysis.positivity.rules import FixedRule, IntensityRule, OtsuRule
from fintune_xr.errors import unknown_name
from fintune_xr.names import (
    BACKGROUND,
    CHANNEL,
    MARKER_CHANNEL,
    MEAN_INTENSITY,
    N_ALL,
    N_CELLS,
    N_POSITIVE,
    REASON,
    REGION_CODE,
    THRESHOLD_DOUBTS,
    TILE,
    TILE_INDEX,
)


def joint_counts(
    blocks: CellBlocks, tiles: xr.Dataset, *, conditions: Sequence[tuple[str, IntensityRule]], region: int | None = None
) -> xr.Dataset:
    """Cells above the threshold in every channel of `conditions`, `n_positive` (tile), and all of them, `n_all` (tile).

    A condition is a channel and the rule that gives its threshold, which is found in the signals of all cells as that
    of the marker channel is (`apply_rules`, where `blocks` and `tiles` are described). With the code of a `region`,
    cells are counted whose centre lies in it; thresholds are those of all cells all the same. Both are -1 where the
    tile is not done, or has cells and in one of the channels no threshold or no background; `reason` says why. The
    attribute THRESHOLD_DOUBTS says of the rule `otsu`, by marker and channel, where its threshold lies within one mode.
    Blocks are read once for each channel and once to count; memory holds a few numbers for each tile, and one block.

    Raises UnknownNameError for a channel that is not there.
    """
    small = tiles[[N_CELLS, BACKGROUND]].load()
    seen = [_as_marker(small, channel) for channel, _ in conditions]
    found = [_threshold(blocks, one, *condition) for one, condition in zip(seen, conditions, strict=True)]
    limits = [limit for limit, _ in found]
    backgrounds = [marker_background(one) for one in seen]
    counts = np.zeros((2, small.sizes[TILE]), np.int64)
    for cells in blocks():
        chosen = np.ones(cells[TILE_INDEX].shape, bool) if region is None else cells[REGION_CODE].values == region
        index = cells[TILE_INDEX].values
        above = chosen.copy()
        for (channel, _), limit, background in zip(conditions, limits, backgrounds, strict=True):
            above &= marker_signal(_as_marker(cells, channel), background) > limit.values[index]
        for count, which in zip(counts, (chosen, above), strict=True):
            np.add.at(count, index[which], 1)
    doubts = {where: why for _, told in found for where, why in told.items()}
    return _known(counts, small, limits, backgrounds).assign_attrs({THRESHOLD_DOUBTS: {OtsuRule().name: doubts}})


def _threshold(
    blocks: CellBlocks, tiles: xr.Dataset, channel: str, rule: IntensityRule
) -> tuple[xr.DataArray, dict[str, str]]:
    """The threshold (tile) in a channel, and what speaks against it by marker and channel."""
    cells: Iterable[xr.Dataset] = [] if isinstance(rule, FixedRule) else (_as_marker(one, channel) for one in blocks())
    histogram = signal_histogram(cells, tiles)
    doubts = otsu_doubts(histogram) if type(rule) is OtsuRule else {}
    of_channel = {f"{marker} in channel {channel}": why for marker, why in doubts.items()}
    return threshold_of_tiles(histogram, tiles, rule=rule), of_channel


def _known(
    counts: NDArray[np.int64],
    tiles: xr.Dataset,
    limits: Sequence[xr.DataArray],
    backgrounds: Sequence[NDArray[np.float32]],
) -> xr.Dataset:
    """The counts, -1 where they are not known, and why."""
    n_cells = tiles[N_CELLS].values
    why = np.full(n_cells.size, "", object)
    for limit, background in zip(limits, backgrounds, strict=True):
        told = np.asarray(limit[REASON].values, object)
        reason = np.where(np.isnan(background), "no background in a channel", np.where(np.isnan(limit), told, ""))
        why = np.where((why == "") & (n_cells > 0), reason, why)
    why = np.where(n_cells < 0, "the tile is not done", why)
    all_cells, positive = np.where(why == "", counts, -1)
    return xr.Dataset({N_ALL: (TILE, all_cells), N_POSITIVE: (TILE, positive), REASON: (TILE, why)})


def _as_marker(dataset: xr.Dataset, channel: str) -> xr.Dataset:
    """`dataset` with this channel alone, called as the marker's."""
    channels = [str(one) for one in dataset[CHANNEL].to_numpy()]
    if channel not in channels:
        raise unknown_name("channel", channel, channels)
    names = [name for name in (MEAN_INTENSITY, BACKGROUND, N_CELLS, TILE_INDEX) if name in dataset]
    return dataset[names].isel({CHANNEL: [channels.index(channel)]}).assign_coords({CHANNEL: [MARKER_CHANNEL]})
