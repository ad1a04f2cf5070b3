"""Draws of tiles and donors on plain arrays, from a generator addressed by resample and group.

The generator is SplitMix64. Its state starts from a key of the whole bootstrap, the index of the resample and
the name of the group, so that a draw depends on nothing else: not on chunks, workers, or the order of the
tiles.

Reference: Steele, Lea & Flood 2014, Fast splittable pseudorandom number generators, OOPSLA.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

SEED_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


class Pools(NamedTuple):
    """Counts of the tiles that may be drawn, group after group.

    `counts` (tile, run, 2): positive and all cells, 0 where the run has no count; the tiles of group g lie at
    `start[g]:start[g + 1]`; `key` (group,) is the group's own place in the random stream.
    """

    counts: Ints
    start: Ints
    key: Keys


def pools(n_positive: NDArray[Any], n_all: NDArray[Any], group: Ints, key: Keys) -> Pools:
    """Pools of the counts (run, tile), whose tiles are sorted by `group` (tile,).

    A count of -1 is unknown and adds nothing. A tile without a count in any run is in no pool, as if it had
    never been there; a tile that only some runs have is drawn for all, so that runs stay paired.
    """
    known = (n_positive >= 0) & (n_all >= 0)
    usable = known.any(axis=0)
    counts = np.stack([np.where(known, n_positive, 0), np.where(known, n_all, 0)], axis=-1).astype(np.int64)
    size = np.bincount(group[usable], minlength=key.size)
    start = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return Pools(np.ascontiguousarray(counts[:, usable].swapaxes(0, 1)), start, key)


def n_kept(n_tiles: int) -> int:
    """80 % of `n_tiles`, rounded to the nearest whole tile (never a half) and at least one."""
    return int(_n_kept(n_tiles))


def leave_out_ratios(pools: Pools, key: int, resample: Ints) -> Floats:
    """Ratios (resample, run, group) when every group keeps `n_kept` of its tiles, without replacement."""
    ratio = np.empty((resample.size, pools.counts.shape[1], pools.key.size))
    _ratios_left_out(*pools, np.uint64(key), resample.astype(np.uint64), ratio)
    return ratio


def ratios_redrawn(pools: Pools, key: int, resample: Ints) -> Floats:
    """Ratios (resample, run, group) when every group draws as many tiles as it has, with replacement."""
    ratio = np.empty((resample.size, pools.counts.shape[1], pools.key.size))
    _ratios_redrawn(*pools, np.uint64(key), resample.astype(np.uint64), ratio)
    return ratio


def ratios_whole(pools: Pools, resample: Ints) -> Floats:
    """Ratios (resample, run, group) of all tiles, the same in every resample."""
    sums = np.zeros((pools.key.size, *pools.counts.shape[1:]), np.int64)
    np.add.at(sums, np.repeat(np.arange(pools.key.size), np.diff(pools.start)), pools.counts)
    with np.errstate(invalid="ignore"):
        ratio = np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)
    return np.broadcast_to(ratio.T, (resample.size, *ratio.T.shape)).copy()


def draw_donors(n_donors: int, key: int, resample: Ints) -> NDArray[np.int32]:
    """Times (resample, donor) that each donor comes when `n_donors` are drawn with replacement."""
    drawn = np.zeros((resample.size, n_donors), np.int32)
    _donors_drawn(np.uint64(key), resample.astype(np.uint64), drawn)
    return drawn


@compile_kernel
def _mixed(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> _30)) * _MIX_1
    state = (state ^ (state >> _27)) * _MIX_2
    return state ^ (state >> _31)


@compile_kernel
def below(state: np.uint64, n: int) -> int:
    """A whole number from 0 to n - 1; its bias of n / 2**32 is far below what any resample shows."""
    return np.int64(((_mixed(state) >> _32) * np.uint64(n)) >> _32)  # type: ignore[return-value]


@compile_kernel
def _n_kept(n: int) -> int:
    return max(1, (8 * n + 5) // 10)


@compile_kernel
def place_of(key: np.uint64, resample: np.uint64, group: np.uint64) -> np.uint64:
    """State of the stream of one resample of one group."""
    return _mixed(_mixed(key + resample * SEED_STEP) ^ group)


@compile_kernel
def _divide(sums: Ints, ratio: Floats) -> None:
    for run in range(sums.shape[0]):
        ratio[run] = sums[run, 0] / sums[run, 1] if sums[run, 1] > 0 else np.nan


@compile_kernel
def _group_sums(counts: Ints, start: Ints, sums: Ints) -> None:
    sums[:] = 0
    for group in range(sums.shape[0]):
        for tile in range(start[group], start[group + 1]):
            sums[group] += counts[tile]


@compile_kernel
def _ratios_left_out(counts: Ints, start: Ints, group_key: Keys, key: np.uint64, resample: Keys, ratio: Floats) -> None:
    whole = np.empty((group_key.size, counts.shape[1], 2), np.int64)
    _group_sums(counts, start, whole)
    left_out_in = np.full(counts.shape[0], -1, np.int64)
    sums = np.empty((counts.shape[1], 2), np.int64)
    for r in range(resample.size):
        for group in range(group_key.size):
            first, size = start[group], start[group + 1] - start[group]
            state = place_of(key, resample[r], group_key[group])
            sums[:] = whole[group]
            # Floyd's sample without replacement of the few that are left out, not of the many kept.
            for last in range(min(_n_kept(size), size), size):
                state += SEED_STEP
                tile = first + below(state, last + 1)
                if left_out_in[tile] == r:
                    tile = first + last
                left_out_in[tile] = r
                for run in range(sums.shape[0]):
                    sums[run, 0] -= counts[tile, run, 0]
                    sums[run, 1] -= counts[tile, run, 1]
            _divide(sums, ratio[r, :, group])


@compile_kernel
def _ratios_redrawn(counts: Ints, start: Ints, group_key: Keys, key: np.uint64, resample: Keys, ratio: Floats) -> None:
    # Run by run along the tiles, so that the sums over a group are vector instructions.
    columns = np.ascontiguousarray(counts.transpose((1, 2, 0)).astype(np.int32))
    times = np.zeros(counts.shape[0], np.int32)
    sums = np.empty((counts.shape[1], 2), np.int64)
    for r in range(resample.size):
        times[:] = 0
        for group in range(group_key.size):
            first, stop = start[group], start[group + 1]
            state = place_of(key, resample[r], group_key[group])
            drawn = times[first:stop]
            for _ in range(stop - first):
                state += SEED_STEP
                drawn[below(state, stop - first)] += 1
            for run in range(sums.shape[0]):
                for kind in range(2):
                    sums[run, kind] = _weighted_sum(columns[run, kind, first:stop], drawn)
            _divide(sums, ratio[r, :, group])


@compile_kernel
def _weighted_sum(values: NDArray[np.int32], times: NDArray[np.int32]) -> int:
    total = np.int64(0)
    for i in range(values.size):
        total += np.int64(values[i]) * np.int64(times[i])
    return total  # type: ignore[return-value]


@compile_kernel
def _donors_drawn(key: np.uint64, resample: Keys, drawn: NDArray[np.int32]) -> None:
    for r in range(resample.size):
        state = place_of(key, resample[r], np.uint64(0))
        for _ in range(drawn.shape[1]):
            state += SEED_STEP
            drawn[r, below(state, drawn.shape[1])] += 1
