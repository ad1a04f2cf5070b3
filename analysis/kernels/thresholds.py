"""Thresholds of histograms of log signal, and nuclei inside instances, on plain arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fintune_xr.compilation import compile_kernel

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

N_BINS: Final = 1024
MAX_SIGNAL: Final = 65535.0
"""Largest count of a 16-bit detector; brighter signals fall into the last bin."""

EDGES: Final = np.linspace(0.0, np.log1p(MAX_SIGNAL), N_BINS + 1)
"""Edges of the bins on the scale log(1 + counts): one bin is about 1.1 % of the signal."""

CENTRES: Final = (EDGES[:-1] + EDGES[1:]) / 2

MIN_CELLS: Final = 20
"""A threshold from fewer cells would be decided by single ones."""

REASONS: Final = (
    "",
    f"fewer than {MIN_CELLS} cells to take a threshold from",
    "the signal is the same in all cells",
    "the fit of two components did not converge",
    "the two components do not separate",
    "the tile is not done",
    "the tile has no background pixel",
)
OK, TOO_FEW, SINGLE_VALUED, NOT_CONVERGED, NOT_SEPARATE, NOT_DONE, NO_BACKGROUND = range(len(REASONS))

_PRESENT, _WITH_NUCLEUS = 1, 2

# Otsu's sums take ten times the memory of the histograms themselves.
_HISTOGRAMS_AT_ONCE = 256
_MAX_STEPS = 5000
_TOLERANCE = 1e-9


class Thresholds(NamedTuple):
    """Thresholds in counts, NaN where there is none, and an index into REASONS that says why."""

    counts: Floats
    code: NDArray[np.int8]


class Mixture(NamedTuple):
    """Two Gaussians of each histogram: weight, mean and variance, all (group, 2)."""

    weight: Floats
    mean: Floats
    variance: Floats


def add_to_histograms(counts: Counts, signal: NDArray[Any], group: NDArray[Any]) -> None:
    """Adds cells to the histograms `counts` (group, bin) of log(1 + signal) in EDGES.

    `signal` (cell,) in counts, `group` (cell,). NaN signals are in no bin, negative ones in the first.
    """
    present = ~np.isnan(signal)
    log = np.log1p(np.clip(signal[present].astype(np.float64), 0, None))
    bins = np.minimum((log * (N_BINS / EDGES[-1])).astype(np.int64), N_BINS - 1)
    np.add.at(counts.reshape(-1), group[present].astype(np.int64) * N_BINS + bins, 1)


def otsu(counts: Counts) -> Thresholds:
    """Otsu's threshold of each histogram `counts` (..., bin): the upper edge of the lower class.

    Reference: Otsu 1979, IEEE Trans. Syst. Man Cybern. 9:62.
    """
    flat = counts.reshape(-1, N_BINS)
    code, split = np.empty(len(flat), np.int8), np.empty(len(flat), np.int64)
    for first in range(0, len(flat), _HISTOGRAMS_AT_ONCE):
        here = slice(first, first + _HISTOGRAMS_AT_ONCE)
        code[here], split[here] = _usable(flat[here]), _otsu_split(flat[here])
    threshold = np.where(code == OK, np.expm1(EDGES[split + 1]), np.nan)
    return Thresholds(threshold.reshape(counts.shape[:-1]), code.reshape(counts.shape[:-1]))


def two_components(counts: Counts) -> Mixture:
    """Two Gaussians fitted to each histogram (group, bin) by `mixture`'s fit, the one of lower mean first.

    The same histograms are fitted once.
    """
    components = _fitted(np.ascontiguousarray(counts, np.int64).tobytes())[0]
    order = np.argsort(components.mean, axis=-1)
    return Mixture(*(np.take_along_axis(part, order, axis=1) for part in components))


def mixture(counts: Counts) -> Thresholds:
    """Where the upper of two Gaussians, fitted to each histogram `counts` (..., bin), becomes likelier.

    The fit is expectation maximisation from the two classes of Otsu, the same at every call. Cells no
    brighter than the background (the first bin) are negative by definition and take no part in it.

    Reference: Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39:1.
    """
    shape = counts.shape[:-1]
    counts = counts.reshape(-1, N_BINS).copy()
    counts[:, 0] = 0
    code = _usable(counts)
    threshold = np.full(len(counts), np.nan)
    fit = np.flatnonzero(code == OK)
    if fit.size:
        components, converged = _fitted(counts[fit].tobytes())
        threshold[fit] = _crossing(components)
        code[fit[np.isnan(threshold[fit])]] = NOT_SEPARATE
        code[fit[~converged]] = NOT_CONVERGED
    threshold[code != OK] = np.nan
    return Thresholds(threshold.reshape(shape), code.reshape(shape))


def add_positives(counts: NDArray[np.int32], signal: NDArray[Any], tile: NDArray[Any], threshold: NDArray[Any]) -> None:
    """Adds to `counts` (tile,) the cells whose `signal` (cell,) is above the `threshold` (tile,) of their tile."""
    np.add.at(counts, tile[signal > threshold[tile]], 1)


def nuclei_in_instances(masks: NDArray[np.uint32], nuclei: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Nuclei, instances with a nucleus, and instances without (tile, 3) of `masks` and `nuclei` (tile, y, x).

    An instance has a nucleus where the centroid of one lies in it.
    """
    found = np.empty((masks.shape[0], 3), np.int32)
    for tile in range(masks.shape[0]):
        _nuclei_in_instances(masks[tile], nuclei[tile], found[tile])
    return found


def holds_nucleus(mask: NDArray[np.uint32], nuclei: NDArray[np.uint32]) -> tuple[NDArray[np.bool_], int]:
    """Whether each label of `mask` (y, x) has the centroid of a nucleus in it (label,), and the number of nuclei."""
    n_nuclei, state = _nucleus_states(mask, nuclei)
    return state == _WITH_NUCLEUS, int(n_nuclei)


def _usable(counts: Counts) -> NDArray[np.int8]:
    code = np.where((counts > 0).sum(axis=-1) < 2, SINGLE_VALUED, OK)
    return np.where(counts.sum(axis=-1) < MIN_CELLS, TOO_FEW, code).astype(np.int8)


def _otsu_split(counts: Counts) -> NDArray[np.int64]:
    """Last bin (...) of the lower class: the first that makes the variance between the classes largest."""
    weighted = counts * CENTRES
    below, above = np.cumsum(counts, axis=-1), np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_below = np.cumsum(weighted, axis=-1) / below
        mean_above = np.cumsum(weighted[..., ::-1], axis=-1)[..., ::-1] / above
    gap = mean_below[..., :-1] - mean_above[..., 1:]
    between = below[..., :-1].astype(np.float64) * above[..., 1:] * gap**2
    split: NDArray[np.int64] = np.argmax(np.nan_to_num(between, nan=-1.0), axis=-1)
    return split


@lru_cache(maxsize=4)
def _fitted(counts: bytes) -> tuple[Mixture, NDArray[np.bool_]]:
    """`_expectation_maximisation` of whole numbers (group, bin): rules and doubts ask for the same histograms."""
    return _expectation_maximisation(np.frombuffer(counts, np.int64).reshape(-1, N_BINS).astype(np.float64))


def _expectation_maximisation(counts: Floats) -> tuple[Mixture, NDArray[np.bool_]]:
    """Two Gaussians of each histogram (group, bin), and whether the likelihood stopped rising."""
    total = counts.sum(axis=-1)
    upper = np.arange(N_BINS) > _otsu_split(counts.astype(np.int64))[:, None]
    components = _maximised(counts, np.stack([~upper, upper], axis=1).astype(np.float64))
    last = np.full(len(counts), -np.inf)
    converged = np.zeros(len(counts), bool)
    for _ in range(_MAX_STEPS):
        log = _log_density(components, CENTRES)
        joint = np.logaddexp(log[:, 0], log[:, 1])
        likelihood = (counts * joint).sum(axis=-1) / total
        converged = np.abs(likelihood - last) < _TOLERANCE
        if converged.all():
            break
        last = likelihood
        components = _maximised(counts, np.exp(log - joint[:, None]))
    return components, converged


def _maximised(counts: Floats, share: Floats) -> Mixture:
    """Components that fit best when each bin belongs to them by `share` (group, 2, bin)."""
    mass = counts[:, None] * share
    size = np.maximum(mass.sum(axis=-1), np.finfo(np.float64).tiny)
    mean = (mass * CENTRES).sum(axis=-1) / size
    variance = (mass * (CENTRES - mean[..., None]) ** 2).sum(axis=-1) / size
    # A component cannot be narrower than the bins that it was seen through.
    return Mixture(size / size.sum(axis=-1, keepdims=True), mean, np.maximum(variance, EDGES[1] ** 2))


def _log_density(components: Mixture, at: Floats) -> Floats:
    """Log of weight times density (group, 2, at)."""
    weight, mean, variance = (part[..., None] for part in components)
    return np.log(weight) - 0.5 * (np.log(2 * np.pi * variance) + (at - mean) ** 2 / variance)


def _crossing(components: Mixture) -> Floats:
    """First edge between the two means, in counts, at which the upper component is likelier; NaN if none."""
    order = np.argsort(components.mean, axis=-1)
    lower, upper = np.moveaxis(np.take_along_axis(_log_density(components, EDGES), order[..., None], axis=1), 1, 0)
    low, high = np.take_along_axis(components.mean, order, axis=1).T
    wins = (low[:, None] < EDGES) & (high[:, None] > EDGES) & (upper > lower)
    return np.where(wins.any(axis=-1), np.expm1(EDGES[np.argmax(wins, axis=-1)]), np.nan)


@compile_kernel
def _nuclei_in_instances(mask: NDArray[np.uint32], nuclei: NDArray[np.uint32], found: NDArray[np.int32]) -> None:
    n_nuclei, state = _nucleus_states(mask, nuclei)
    found[:] = 0
    found[0] = n_nuclei
    for instance in range(1, state.size):
        if state[instance] == _WITH_NUCLEUS:
            found[1] += 1
        elif state[instance] == _PRESENT:
            found[2] += 1


@compile_kernel
def _nucleus_states(mask: NDArray[np.uint32], nuclei: NDArray[np.uint32]) -> tuple[int, NDArray[np.int8]]:
    """Number of nuclei, and whether each label (label,) is absent, present, or present with a nucleus."""
    sums = np.zeros((np.int64(nuclei.max()) + 1, 3), np.int64)
    state = np.zeros(np.int64(mask.max()) + 1, np.int8)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            state[mask[y, x]] = _PRESENT
            nucleus = nuclei[y, x]
            sums[nucleus, 0] += y
            sums[nucleus, 1] += x
            sums[nucleus, 2] += 1
    n_nuclei = 0
    for nucleus in range(1, sums.shape[0]):
        area = sums[nucleus, 2]
        if area > 0:
            n_nuclei += 1
            y, x = (2 * sums[nucleus, 0] + area) // (2 * area), (2 * sums[nucleus, 1] + area) // (2 * area)
            if mask[y, x] != 0:
                state[mask[y, x]] = _WITH_NUCLEUS
    state[0] = 0
    return n_nuclei, state
