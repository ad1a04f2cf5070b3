"""Thresholds that lie within one mode of the signals are named; those between two populations are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.kernels import thresholds as kernels
from fintune_xr.analysis.kernels.separation import separation
from fintune_xr.analysis.positivity.counting import apply_rules
from fintune_xr.analysis.positivity.doubts import doubt_lines
from fintune_xr.analysis.positivity.rules import FixedRule, MixtureRule, OtsuDonorRule, OtsuRule
from fintune_xr.seeds import stream

Draw = Callable[[np.random.Generator, int], np.ndarray]
TILES = 6
EVERY = (OtsuRule(), OtsuDonorRule(), MixtureRule(), FixedRule(threshold=15))

ONE_MODE: dict[str, Draw] = {
    "noise": lambda rng, size: rng.normal(0, 20, size),
    "noise below": lambda rng, size: rng.normal(-10, 20, size),
    "noise above": lambda rng, size: rng.normal(30, 20, size),
    "gaussian": lambda rng, size: rng.normal(200, 40, size),
    "log-normal": lambda rng, size: rng.lognormal(5, 0.5, size),
    "gamma": lambda rng, size: rng.gamma(2, 50, size),
    "exponential": lambda rng, size: rng.exponential(100, size),
    "even": lambda rng, size: rng.uniform(0, 1000, size),
}
TWO: dict[str, Draw] = {
    "a tenth": lambda rng, size: np.where(
        rng.random(size) < 0.1, rng.lognormal(6.5, 0.3, size), rng.lognormal(4.5, 0.4, size)
    ),
    "a third": lambda rng, size: np.where(
        rng.random(size) < 0.3, rng.lognormal(6, 0.4, size), rng.lognormal(4.5, 0.4, size)
    ),
    "noise and a fifth": lambda rng, size: np.where(
        rng.random(size) < 0.2, rng.normal(800, 200, size), rng.normal(0, 20, size)
    ),
    "all others below the background": lambda rng, size: np.where(
        rng.random(size) < 0.2, rng.normal(800, 200, size), rng.normal(-50, 10, size)
    ),
    "all others at the background": lambda rng, size: np.where(rng.random(size) < 0.2, rng.lognormal(5, 0.5, size), 0),
}


def cells(signal: np.ndarray, background: float = 100.0) -> tuple[xr.Dataset, xr.Dataset]:
    """Cells of six tiles of three donors, in order, and the tiles."""
    index = np.sort(np.arange(signal.size) % TILES)
    table = xr.Dataset(
        {n.MEAN_INTENSITY: ((n.CELL, n.CHANNEL), (signal + background)[:, None].astype(np.float32)),
         n.TILE_INDEX: (n.CELL, index.astype(np.int32))},
        {n.CHANNEL: [n.MARKER_CHANNEL]},
    )  # fmt: skip
    tiles = xr.Dataset(
        {n.N_CELLS: (n.TILE, np.bincount(index, minlength=TILES).astype(np.int32)),
         n.BACKGROUND: ((n.TILE, n.CHANNEL), np.full((TILES, 1), background, np.float32))},
        {n.TILE: [f"t{at}" for at in range(TILES)], n.CHANNEL: [n.MARKER_CHANNEL],
         n.DONOR: (n.TILE, [f"d{at // 2}" for at in range(TILES)]), n.MARKER: (n.TILE, ["GFAP"] * TILES)},
    )  # fmt: skip
    return table, tiles


def doubts(signal: np.ndarray) -> dict[str, dict[str, str]]:
    table, tiles = cells(signal)
    plain = apply_rules(lambda: [table], tiles, rules=EVERY)
    found = apply_rules(lambda: [table], tiles, rules=EVERY, doubts=True)
    # Nothing is counted otherwise, whatever is doubted.
    xr.testing.assert_equal(plain, found)
    return dict(found.attrs[n.THRESHOLD_DOUBTS])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", list(ONE_MODE))
def test_a_threshold_within_one_population_is_named(kind: str, seed: int) -> None:
    found = doubts(ONE_MODE[kind](stream(seed, kind), 3000))
    for line in doubt_lines(found, "otsu"):
        assert line.startswith("GFAP: the threshold of rule otsu lies within one mode: ")
        assert line.endswith("The share of positive cells is not to be trusted")
    assert list(found["otsu"]) == ["GFAP"]


@pytest.mark.parametrize("size", [600, 6000])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", list(TWO))
def test_a_threshold_between_two_populations_is_not(kind: str, seed: int, size: int) -> None:
    found = doubts(TWO[kind](stream(seed, kind), size))
    assert found["otsu"] == {}
    # Of 200 cells of a donor Otsu's rule does cut the noise at times.
    assert size < 1000 or found["otsu_donor"] == {}


def test_a_donor_without_a_positive_cell_is_named_where_each_has_a_threshold() -> None:
    rng = stream(3, "donors")
    signal = np.where(rng.random(1200) < 0.3, rng.normal(800, 200, 1200), rng.normal(0, 20, 1200))
    signal[:400] = rng.normal(0, 20, 400)
    found = doubts(signal)
    assert (found["otsu"], list(found["otsu_donor"])) == ({}, ["GFAP of donor d0"])
    below, above = int((signal < -15).sum()), int((signal > 15).sum())
    assert (list(found["fixed_15"]) == ["GFAP"]) == (2 * below >= above)


def test_a_threshold_inside_the_larger_population_is_named() -> None:
    """Of few bright cells Otsu's rule knows nothing: it cuts the dim ones in two."""
    rng = stream(5, "few")
    signal = np.r_[rng.lognormal(4.5, 0.4, 20_000), rng.lognormal(7.5, 0.2, 30)]
    counts = np.zeros((1, kernels.N_BINS), np.int64)
    kernels.add_to_histograms(counts, signal, np.zeros(signal.size, np.int64))
    limit = kernels.otsu(counts).counts
    assert np.exp(4) < limit[0] < np.exp(5)
    cut, right = separation(counts, limit), separation(counts, np.array([600.0]))
    assert (cut.is_between.item(), right.is_between.item()) == (False, True)
    assert cut.distance == right.distance == pytest.approx(np.sqrt(2) * 3 / np.hypot(0.4, 0.2), rel=0.1)


def test_where_there_is_no_threshold_there_is_no_doubt() -> None:
    assert doubts(stream(0, "few").normal(0, 20, 12))["otsu"] == {}
    assert doubts(np.full(100, 50.0)) == {rule.name: {} for rule in EVERY}
