"""Positivity rules against scikit-image, SciPy and counting by hand."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter, ValidationError
from skimage.filters import threshold_otsu

from fintune_xr.analysis.kernels import thresholds as kernels
from fintune_xr.analysis.positivity.by_nuclei import apply_detected, count_nuclei
from fintune_xr.analysis.positivity.counting import (
    apply_rules,
    count_positive,
    mixture_threshold,
    otsu_threshold,
    signal_histogram,
    threshold_of_tiles,
)
from fintune_xr.analysis.positivity.rules import (
    DetectedRule,
    FixedRule,
    IntensityRule,
    MixtureRule,
    OtsuDonorRule,
    OtsuRule,
    PositivityRule,
)
from fintune_xr.errors import UnknownNameError
from fintune_xr.schema import check_dataset
from fintune_xr.tasks.instance import POSITIVITY

RULES: tuple[IntensityRule, ...] = (OtsuRule(), OtsuDonorRule(), MixtureRule(), FixedRule(threshold=150))
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)

EMPTY, PENDING, UNLIT, LONELY = 1, 5, 9, 14
"""Tiles of the cohort: no cells; not done; no background pixel; 3 cells, the only ones of their marker."""


def cohort(seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    """Cells and tiles of four donors and two markers whose positive cells are about 20 times brighter."""
    rng = np.random.default_rng(seed)
    n_cells = rng.integers(30, 60, 16).astype(np.int32)
    n_cells[[EMPTY, PENDING, LONELY]] = 0, -1, 3
    tile_index = np.repeat(np.arange(16), np.maximum(n_cells, 0)).astype(np.int32)
    bright = rng.random(tile_index.size) < 0.3
    signal = np.where(bright, rng.lognormal(6.5, 0.3, bright.size), rng.lognormal(3.5, 0.4, bright.size))
    background = np.full((16, 2), 100, np.float32) + np.arange(16)[:, None]
    intensity = np.stack([np.full(bright.size, 900.0), signal + background[tile_index, 1]], axis=1)
    background[UNLIT, 1] = np.nan
    channel = {"channel": ["DAPI", "marker"]}
    cells = xr.Dataset(
        {
            "tile_index": ("cell", tile_index),
            "mean_intensity": (("cell", "channel"), intensity.astype(np.float32)),
            "bright": ("cell", bright),
        },
        coords=channel,
    )
    marker = np.where(np.arange(16) % 2, "IBA1", "GFAP")
    marker[LONELY] = "OLIG2"
    tiles = xr.Dataset(
        {"n_cells": ("tile", n_cells), "background": (("tile", "channel"), background)},
        coords=channel
        | {
            "tile": [f"t{i:02d}" for i in range(16)],
            "donor": ("tile", [f"d{i // 4}" for i in range(16)]),
            "marker": ("tile", marker),
        },
    )
    return cells, tiles


def in_blocks(cells: xr.Dataset, n: int = 37) -> list[xr.Dataset]:
    """The same cells in blocks of `n`."""
    return [cells.isel(cell=slice(first, first + n)) for first in range(0, max(cells.sizes["cell"], 1), n)]


def judged(cells: xr.Dataset, tiles: xr.Dataset, rule: IntensityRule, n: int = 10_000) -> xr.Dataset:
    """Counts (tile) by one rule, of cells in blocks of `n`."""
    blocks = in_blocks(cells, n)
    return apply_rules(lambda: blocks, tiles, rules=[rule])


@rules
def test_every_rule_finds_the_bright_cells(rule: IntensityRule) -> None:
    cells, tiles = cohort()
    found = check_dataset(judged(cells, tiles, rule), POSITIVITY).isel(rule=0)
    truth = np.bincount(cells.tile_index, weights=cells.bright, minlength=16)
    usable = np.setdiff1d(np.arange(16), [EMPTY, PENDING, UNLIT, LONELY])
    np.testing.assert_array_equal(found.n_positive[usable], truth[usable])
    np.testing.assert_array_equal(found.n_all, tiles.n_cells)
    assert (found.n_without_nucleus == 0).all()
    assert (found.reason[usable] == "").all()
    assert json.loads(found.settings.item()) == rule.as_dict()


@rules
def test_what_is_unknown_is_minus_one_and_says_why(rule: IntensityRule) -> None:
    found = judged(*cohort(), rule).isel(rule=0)
    assert found.n_positive[EMPTY] == 0
    assert found.n_positive[PENDING] == -1
    assert found.reason[PENDING] == "the tile is not done"
    assert found.n_positive[UNLIT] == -1
    assert found.reason[UNLIT] == "the tile has no background pixel"
    if isinstance(rule, FixedRule):
        assert found.n_positive[LONELY] >= 0
    else:
        assert np.isnan(found.threshold[LONELY])
        assert found.n_positive[LONELY] == -1
        assert found.reason[LONELY] == "fewer than 20 cells to take a threshold from"


@settings(max_examples=12)
@given(st.sampled_from(RULES), st.integers(20, 700))
def test_blocks_change_nothing(rule: IntensityRule, n: int) -> None:
    xr.testing.assert_identical(judged(*cohort(), rule, n), judged(*cohort(), rule))


def test_rules_judged_together_are_as_judged_alone() -> None:
    cells, tiles = cohort()
    together = apply_rules(lambda: in_blocks(cells), tiles, rules=RULES)
    for i, rule in enumerate(RULES):
        xr.testing.assert_identical(together.isel(rule=[i]), judged(cells, tiles, rule))


@pytest.mark.parametrize("chosen", [RULES, (FixedRule(threshold=1),)], ids=["all", "fixed"])
def test_cells_are_read_once_or_twice_for_all_rules_and_never_held(chosen: tuple[IntensityRule, ...]) -> None:
    cells, tiles = cohort()
    seen: list[weakref.ref[xr.Dataset]] = []
    alive: list[int] = []

    def read() -> Iterator[xr.Dataset]:
        for block in in_blocks(cells, 100):
            fresh = block.copy(deep=True)
            seen.append(weakref.ref(fresh))
            alive.append(sum(one() is not None for one in seen))
            yield fresh
            del fresh

    apply_rules(read, tiles, rules=chosen)
    assert len(seen) == len(in_blocks(cells, 100)) * (1 if len(chosen) == 1 else 2)
    assert max(alive) <= 2


@rules
def test_memory_does_not_grow_with_the_number_of_blocks(rule: IntensityRule) -> None:
    cells, tiles = cohort()

    def peak(n_blocks: int) -> int:
        def read() -> Iterator[xr.Dataset]:
            return (cells.copy(deep=True) for _ in range(n_blocks))

        tracemalloc.start()
        try:
            apply_rules(read, tiles, rules=[rule])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    # One histogram of these eight groups is 64 kB: were one kept per block, it would be six MB more.
    assert peak(128) < peak(32) + 64_000


def test_order_of_cells_changes_nothing() -> None:
    cells, tiles = cohort()
    shuffled = cells.isel(cell=np.random.default_rng(1).permutation(cells.sizes["cell"]))
    for rule in RULES:
        xr.testing.assert_identical(judged(shuffled, tiles, rule), judged(cells, tiles, rule))


def test_histogram_counts_every_cell_with_a_signal_once() -> None:
    cells, tiles = cohort()
    found = signal_histogram(in_blocks(cells), tiles)
    assert found.sum() == (cells.tile_index != UNLIT).sum()
    # What is left of the marker above the background of the tile.
    signal = cells.mean_intensity[:, 1].values - tiles.background[:, 1].values[cells.tile_index.values]
    of = tiles.isel(tile=cells.tile_index.values)
    own = signal[(of.donor.values == "d1") & (of.marker.values == "GFAP")]
    expected, _ = np.histogram(np.log1p(np.clip(own, 0, None)), bins=kernels.EDGES)
    np.testing.assert_array_equal(found.sel(donor="d1", marker="GFAP"), expected)


@given(hnp.arrays(np.int64, kernels.N_BINS, elements=st.integers(0, 30), fill=st.just(0)))
def test_otsu_splits_where_scikit_image_does(counts: np.ndarray) -> None:
    found = kernels.otsu(counts)
    if counts.sum() < kernels.MIN_CELLS or (counts > 0).sum() < 2:
        assert np.isnan(found.counts)
        return
    below = threshold_otsu(hist=(counts, kernels.CENTRES)) + 1e-9 >= kernels.CENTRES
    ours = np.log1p(found.counts) > kernels.CENTRES
    assert counts[ours].sum() == counts[below].sum()


def test_otsu_of_many_histograms_is_that_of_each() -> None:
    counts = np.random.default_rng(2).poisson(0.05, (20, 30, kernels.N_BINS))
    found = kernels.otsu(counts)
    alone = [[kernels.otsu(one) for one in row] for row in counts]
    np.testing.assert_array_equal(found.counts, [[one.counts for one in row] for row in alone])
    np.testing.assert_array_equal(found.code, [[one.code for one in row] for row in alone])


def test_otsu_pools_over_the_cohort_or_over_one_donor() -> None:
    cells, tiles = cohort()
    histogram = signal_histogram([cells], tiles)
    pooled = threshold_of_tiles(histogram, tiles, rule=OtsuRule())
    own = threshold_of_tiles(histogram, tiles, rule=OtsuDonorRule())
    by_marker, by_donor = otsu_threshold(histogram.sum("donor")), otsu_threshold(histogram)
    for tile in (0, 3, 7, 12):
        donor, marker = tiles.donor.values[tile], tiles.marker.values[tile]
        assert pooled[tile] == by_marker.sel(marker=marker).astype(np.float32)
        assert own[tile] == by_donor.sel(donor=donor, marker=marker).astype(np.float32)


def test_mixture_is_the_most_likely_pair_of_gaussians() -> None:
    rng = np.random.default_rng(4)
    log = np.concatenate([rng.normal(3.5, 0.5, 4000), rng.normal(6.0, 0.4, 1000)])
    histogram = np.zeros((1, kernels.N_BINS), np.int64)
    kernels.add_to_histograms(histogram, np.expm1(log), np.zeros(log.size, int))
    found = np.log1p(kernels.mixture(histogram).counts[0])

    def density(at: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (1 - p[0]) * scipy.stats.norm.pdf(at, p[1], p[2]), p[0] * scipy.stats.norm.pdf(at, p[3], p[4])

    def unlikelihood(p: np.ndarray) -> float:
        return -float(np.log(np.add(*density(log, p))).sum())

    bounds = [(0.01, 0.99), (2, 5), (0.1, 2), (4, 8), (0.1, 2)]
    best = scipy.optimize.minimize(unlikelihood, [0.5, 3, 1, 6, 1], bounds=bounds, method="L-BFGS-B").x
    crossing = scipy.optimize.brentq(lambda at: np.subtract(*density(at, best)), best[1], best[3])
    assert found == pytest.approx(crossing, abs=2 * kernels.EDGES[1])


def test_one_population_gives_no_mixture_threshold_or_a_finite_one_but_no_crash() -> None:
    bins = np.zeros((3, kernels.N_BINS), np.int64)
    bins[0, 400] = 50
    bins[1, 0] = 50
    bins[2, 400] = 5
    found = kernels.mixture(bins)
    assert np.isnan(found.counts).all()
    assert [kernels.REASONS[code] for code in found.code] == [
        "the signal is the same in all cells",
        "fewer than 20 cells to take a threshold from",
        "fewer than 20 cells to take a threshold from",
    ]


def test_cells_below_background_take_no_part_in_the_mixture() -> None:
    cells, tiles = cohort()
    histogram = signal_histogram([cells], tiles).sum("donor")
    dim = histogram.copy(deep=True)
    dim[:, 0] += 500
    xr.testing.assert_identical(mixture_threshold(dim), mixture_threshold(histogram))


def test_fixed_threshold_is_exclusive_and_counts_by_hand() -> None:
    channel = {"channel": ["DAPI", "marker"]}
    cells = xr.Dataset(
        {
            "tile_index": ("cell", np.array([0, 0, 0, 1], np.int32)),
            "mean_intensity": (("cell", "channel"), np.array([[0, 149], [0, 150], [0, 151], [0, 400]], np.float32)),
        },
        coords=channel,
    )
    tiles = xr.Dataset(
        {
            "n_cells": ("tile", np.array([3, 1], np.int32)),
            "background": (("tile", "channel"), np.full((2, 2), 100, np.float32)),
        },
        coords=channel | {"tile": ["a", "b"], "donor": ("tile", ["1", "1"]), "marker": ("tile", ["GFAP", "GFAP"])},
    )
    threshold = threshold_of_tiles(signal_histogram([cells], tiles), tiles, rule=FixedRule(threshold=50))
    (found,) = count_positive([cells], tiles, thresholds=[threshold])
    assert found.values.tolist() == [1, 1]


def test_cohort_without_any_cell_has_reasons_and_no_crash() -> None:
    cells, tiles = cohort()
    tiles["n_cells"][:] = 0
    for rule in RULES:
        found = judged(cells.isel(cell=slice(0)), tiles, rule)
        assert (found.n_positive == 0).all()
        assert found.threshold.isnull().all() or isinstance(rule, FixedRule)


def test_without_a_marker_channel() -> None:
    cells, tiles = cohort()
    with pytest.raises(UnknownNameError, match=r"no channel in mean_intensity 'marker'; known: DAPI, GFAP"):
        signal_histogram([cells.assign_coords(channel=["DAPI", "GFAP"])], tiles)


def masks() -> tuple[xr.DataArray, xr.DataArray]:
    """Two tiles: three instances, of which two hold nuclei (one holds two); and an empty one with a nucleus."""
    instances, nuclei = np.zeros((2, 2, 24, 24), np.uint32)
    instances[0, 2:10, 2:10] = 1
    instances[0, 2:10, 14:22] = 2
    instances[0, 14:22, 2:10] = 5
    nuclei[0, 3:5, 3:5] = 1
    nuclei[0, 7:9, 7:9] = 2
    nuclei[0, 12:18, 4:8] = 4
    nuclei[0, 20:23, 20:23] = 7
    nuclei[1, 5:8, 5:8] = 1
    both = xr.Dataset(
        {"instances": (("tile", "y", "x"), instances), "nuclei": (("tile", "y", "x"), nuclei)},
        coords={"tile": ["t0", "t2"]},
    )
    return both.instances, both.nuclei


def test_detected_by_hand(no_compute: None) -> None:
    instances, nuclei = masks()
    tiles = xr.DataArray(["t0", "t1", "t2"], dims="tile", coords={"tile": ["t0", "t1", "t2"]})
    lazy = count_nuclei(instances.chunk({"y": 10}), nuclei.chunk())
    found = apply_detected(lazy.compute(scheduler="synchronous"), tiles, rule=DetectedRule(nuclei_run="dapi"))
    by_tile = check_dataset(found, POSITIVITY).isel(rule=0)
    assert by_tile.n_all.values.tolist() == [4, -1, 1]
    assert by_tile.n_positive.values.tolist() == [2, -1, 0]
    assert by_tile.n_without_nucleus.values.tolist() == [1, -1, 0]
    assert by_tile.threshold.isnull().all()
    assert by_tile.reason.values.tolist() == ["", "the tile is not done in both runs", ""]


@given(st.integers(0, 1000))
def test_detected_ratio_is_at_most_one_and_labels_do_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances, nuclei = rng.integers(0, 6, (2, 1, 8, 8)).astype(np.uint32)
    n_all, positive, without = kernels.nuclei_in_instances(instances, nuclei)[0]
    assert positive <= n_all
    assert positive + without == np.unique(instances[instances > 0]).size
    renamed = np.array([0, 5, 1, 9, 2, 3], np.uint32)
    np.testing.assert_array_equal(
        kernels.nuclei_in_instances(renamed[instances], renamed[nuclei])[0], [n_all, positive, without]
    )


def test_rules_are_settings_and_know_their_names() -> None:
    read = TypeAdapter(PositivityRule).validate_python
    assert read({"kind": "otsu"}) == OtsuRule()
    assert read({"kind": "fixed", "threshold": 120}).name == "fixed_120"
    assert read({"kind": "detected", "nuclei_run": "dapi"}).name == "detected"
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        read({"kind": "fixed", "threshold": -1})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        read({"kind": "otzu"})
