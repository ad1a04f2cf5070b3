"""Thresholds found anew in each resample: those of the drawn donors' cells, on the same draws as with one threshold."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import resample
from fintune_xr.analysis.positivity.counting import apply_rules, signal_histogram
from fintune_xr.analysis.positivity.rules import MixtureRule, OtsuRule
from fintune_xr.analysis.ratio import marker_ratio
from fintune_xr.analysis.threshold_redrawn import _ratios, resample_thresholds
from fintune_xr.errors import FintuneValueError

DONORS, PER_TILE = 6, 60


@pytest.fixture(scope="module")
def tiles() -> xr.Dataset:
    return xr.Dataset(
        {n.N_CELLS: (n.TILE, [PER_TILE] * DONORS), n.BACKGROUND: ((n.TILE, n.CHANNEL), np.full((DONORS, 1), 50.0))},
        coords={
            n.TILE: [f"t{i}" for i in range(DONORS)],
            n.DONOR: (n.TILE, [f"d{i}" for i in range(DONORS)]),
            n.MARKER: (n.TILE, ["GFAP"] * DONORS),
            n.CHANNEL: ["marker"],
        },
    )


@pytest.fixture(scope="module")
def cells() -> xr.Dataset:
    """A dim and a bright population; the brightest donor pulls the threshold up."""
    rng = np.random.default_rng(1)
    signal = [
        np.where(rng.random(PER_TILE) < 0.2 + 0.1 * d, rng.normal(600, 60, PER_TILE), rng.normal(80, 30, PER_TILE))
        for d in range(DONORS)
    ]
    intensity = np.concatenate(signal) * np.repeat([1, 1, 1, 1, 1, 4.0], PER_TILE) + 50
    index = np.repeat(np.arange(DONORS), PER_TILE).astype(np.int32)
    return xr.Dataset(
        {n.TILE_INDEX: (n.CELL, index), n.MEAN_INTENSITY: ((n.CELL, n.CHANNEL), intensity[:, None])},
        coords={n.CHANNEL: ["marker"]},
    )


def histogram(cells: xr.Dataset, tiles: xr.Dataset) -> xr.DataArray:
    return signal_histogram([cells], tiles).expand_dims({n.RUN: ["a"]})


def n_all(cells: xr.Dataset, tiles: xr.Dataset) -> xr.DataArray:
    return xr.full_like(histogram(cells, tiles).isel({n.BIN: 0}, drop=True), PER_TILE)


def by_otsu(cells: xr.Dataset, tiles: xr.Dataset) -> xr.Dataset:
    """Counts (tile) by the threshold of all cells, with donor and marker."""
    counts = apply_rules(lambda: [cells], tiles, rules=[OtsuRule()]).isel({n.RULE: 0}, drop=True)
    labels = {name: (n.TILE, tiles[name].values) for name in (n.DONOR, n.MARKER)}
    return counts[[n.N_POSITIVE, n.N_ALL]].reset_coords(drop=True).assign_coords(labels)


def test_with_every_donor_once_it_is_the_rule_of_the_cohort(cells: xr.Dataset, tiles: xr.Dataset) -> None:
    counts = by_otsu(cells, tiles)
    expected = marker_ratio(counts[n.N_POSITIVE], counts[n.N_ALL])[n.RATIO].values
    found = _ratios(
        np.ones((1, DONORS), np.int32), histogram(cells, tiles).values, n_all(cells, tiles).values, fits=["otsu"]
    )
    np.testing.assert_allclose(found[0], expected)


def test_each_resample_has_the_threshold_of_its_donors(cells: xr.Dataset, tiles: xr.Dataset) -> None:
    """By hand: the cells of the drawn donors, each as often as drawn, through the rule itself."""
    times = np.array([2, 0, 1, 0, 0, 3])
    drawn = [cells.isel({n.CELL: cells[n.TILE_INDEX].values == d}) for d in range(DONORS) for _ in range(times[d])]
    limit = float(apply_rules(lambda: drawn, tiles, rules=[OtsuRule()])[n.THRESHOLD].values[0, 0])
    signal = cells[n.MEAN_INTENSITY].values[:, 0] - 50
    expected = [(signal[cells[n.TILE_INDEX].values == d] > limit).mean() for d in range(DONORS)]
    found = _ratios(times[None], histogram(cells, tiles).values, n_all(cells, tiles).values, fits=["otsu"])
    np.testing.assert_allclose(found[0, 0, :, 0], expected)


def test_donors_are_those_of_the_scheme_with_one_threshold(cells: xr.Dataset, tiles: xr.Dataset) -> None:
    outcomes = xr.DataArray(
        np.arange(DONORS, dtype=float)[:, None], dims=(n.DONOR, n.OUTCOME),
        coords={n.DONOR: [f"d{i}" for i in range(DONORS)], n.OUTCOME: ["nft"]},
    )  # fmt: skip
    counts = by_otsu(cells, tiles).assign_coords({n.RUN: "a"})
    plain = resample(counts, outcomes, scheme="donors", n_resamples=30, seed=4).load()
    asked = {"rules": {"a": "otsu"}, "seed": 4}
    args = (histogram(cells, tiles), n_all(cells, tiles), outcomes)
    anew = resample_thresholds(*args, n_resamples=30, **asked).load()
    np.testing.assert_array_equal(anew[n.N_DRAWN], plain[n.N_DRAWN])
    assert anew[n.RHO_RESAMPLED].dims == plain[n.RHO_RESAMPLED].dims
    assert not np.allclose(anew[n.RATIO_RESAMPLED], plain[n.RATIO_RESAMPLED], equal_nan=True)
    later = resample_thresholds(*args, n_resamples=10, first=20, **asked).load()
    xr.testing.assert_identical(later, anew.isel({n.RESAMPLE: slice(20, None)}))


def test_rules_that_other_donors_do_not_move_are_refused(cells: xr.Dataset, tiles: xr.Dataset) -> None:
    args = (histogram(cells, tiles), n_all(cells, tiles), xr.DataArray(np.ones((1, 1)), dims=(n.DONOR, n.OUTCOME)))
    with pytest.raises(FintuneValueError, match="fixed_50 of a have no threshold"):
        resample_thresholds(*args, rules={"a": "fixed_50"}, n_resamples=1, seed=0)
    assert MixtureRule().name == "mixture"
