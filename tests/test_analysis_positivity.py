"""Positivity rules against scikit-image, SciPy and counting by hand."""

from __future__ import annotations

import json
import weakref

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

from fintune_xr.analysis import kernels_threshold as kernels
from fintune_xr.analysis.detected import apply_detected
from fintune_xr.analysis.positivity import (
    apply_rule,
    count_positive,
    marker_signal,
    mixture_threshold,
    otsu_threshold,
    signal_histogram,
    thresholds,
)
from fintune_xr.analysis.rules import (
    DetectedRule,
    FixedRule,
    IntensityRule,
    MixtureRule,
    OtsuDonorRule,
    OtsuRule,
    PositivityRule,
)
from fintune_xr.datasets import POSITIVITY
from fintune_xr.errors import UnknownNameError
from fintune_xr.schema import check_dataset

RULES: tuple[IntensityRule, ...] = (OtsuRule(), OtsuDonorRule(), MixtureRule(), FixedRule(threshold=150))
rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)

EMPTY, PENDING, UNLIT, LONELY = 1, 5, 9, 14
"""Tiles of the cohort: no cells; not done; no background pixel; 3 cells, the only ones of their marker."""


class Block(np.ndarray):
    """An array that a weak reference can follow."""


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
        coords=channel | {
            "tile": [f"t{i:02d}" for i in range(16)],
            "donor": ("tile", [f"d{i // 4}" for i in range(16)]),
            "marker": ("tile", marker),
        },
    )
    return cells, tiles


def lazy(cells: xr.Dataset, tiles: xr.Dataset, n: int = 37, m: int = 5) -> tuple[xr.Dataset, xr.Dataset]:
    """The same in chunks, with the indexed coordinates in memory."""
    return cells.chunk({"cell": n}), tiles.chunk({"tile": m}).assign_coords(donor=tiles.donor, marker=tiles.marker)


@rules
def test_every_rule_finds_the_bright_cells(rule: IntensityRule) -> None:
    cells, tiles = cohort()
    found = check_dataset(apply_rule(cells, tiles, rule=rule), POSITIVITY).compute().isel(rule=0)
    truth = np.bincount(cells.tile_index, weights=cells.bright, minlength=16)
    usable = np.setdiff1d(np.arange(16), [EMPTY, PENDING, UNLIT, LONELY])
    np.testing.assert_array_equal(found.n_positive[usable], truth[usable])
    np.testing.assert_array_equal(found.n_all, tiles.n_cells)
    assert (found.n_without_nucleus == 0).all()
    assert (found.reason[usable] == "").all()
    assert json.loads(found.settings.item()) == rule.as_dict()


@rules
def test_what_is_unknown_is_minus_one_and_says_why(rule: IntensityRule) -> None:
    found = apply_rule(*cohort(), rule=rule).compute().isel(rule=0)
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


@rules
def test_stays_lazy(rule: IntensityRule, no_compute: None) -> None:
    found = apply_rule(*lazy(*cohort()), rule=rule)
    assert found.n_positive.chunks is not None
    assert marker_signal(*lazy(*cohort())).chunks is not None


@settings(max_examples=12)
@given(st.sampled_from(RULES), st.integers(20, 700), st.integers(1, 20))
def test_chunks_change_nothing(rule: IntensityRule, n: int, m: int) -> None:
    whole = apply_rule(*cohort(), rule=rule).compute()
    xr.testing.assert_identical(apply_rule(*lazy(*cohort(), n, m), rule=rule).compute(), whole)


@rules
def test_blocks_of_cells_are_read_anew_and_never_held(rule: IntensityRule) -> None:
    cells, tiles = cohort()
    cells, tiles = lazy(cells, tiles, n=100)
    n_blocks = len(cells.chunks["cell"])
    blocks: list[weakref.ref[Block]] = []
    alive: list[int] = []

    def read(block: np.ndarray) -> np.ndarray:
        fresh = block.copy().view(Block)
        blocks.append(weakref.ref(fresh))
        alive.append(sum(one() is not None for one in blocks))
        return fresh

    meta = np.empty((0, 0), np.float32)
    source = cells.mean_intensity.data.map_blocks(read, dtype=np.float32, meta=meta)
    counted = cells.assign(mean_intensity=cells.mean_intensity.copy(data=source))
    apply_rule(counted, tiles, rule=rule).compute(scheduler="synchronous")
    assert len(blocks) == n_blocks * (1 if isinstance(rule, FixedRule) else 2)
    assert max(alive) <= 2


def test_order_of_cells_changes_nothing() -> None:
    cells, tiles = cohort()
    shuffled = cells.isel(cell=np.random.default_rng(1).permutation(cells.sizes["cell"]))
    for rule in RULES:
        whole = apply_rule(cells, tiles, rule=rule).compute()
        xr.testing.assert_identical(apply_rule(shuffled, tiles, rule=rule).compute(), whole)


def test_signal_is_what_is_left_of_the_marker_above_background() -> None:
    cells, tiles = cohort()
    expected = cells.mean_intensity[:, 1].values - tiles.background[:, 1].values[cells.tile_index.values]
    np.testing.assert_array_equal(marker_signal(*lazy(cells, tiles)).compute(), expected)


def test_histogram_counts_every_cell_with_a_signal_once() -> None:
    cells, tiles = cohort()
    found = signal_histogram(*lazy(cells, tiles)).compute()
    assert found.sum() == (cells.tile_index != UNLIT).sum()
    signal = marker_signal(cells, tiles)
    of = tiles.isel(tile=cells.tile_index.values)
    own = signal[(of.donor.values == "d1") & (of.marker.values == "GFAP")].values
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


def test_otsu_pools_over_the_cohort_or_over_one_donor() -> None:
    cells, tiles = cohort()
    histogram = signal_histogram(cells, tiles)
    pooled = thresholds(cells, tiles, rule=OtsuRule()).compute()
    own = thresholds(cells, tiles, rule=OtsuDonorRule()).compute()
    by_marker, by_donor = otsu_threshold(histogram.sum("donor")), otsu_threshold(histogram)
    for tile in (0, 3, 7, 12):
        donor, marker = tiles.donor.values[tile], tiles.marker.values[tile]
        assert pooled[tile] == by_marker.sel(marker=marker).astype(np.float32)
        assert own[tile] == by_donor.sel(donor=donor, marker=marker).astype(np.float32)


def test_mixture_is_the_most_likely_pair_of_gaussians() -> None:
    rng = np.random.default_rng(4)
    log = np.concatenate([rng.normal(3.5, 0.5, 4000), rng.normal(6.0, 0.4, 1000)])
    histogram = kernels.histogram(np.expm1(log), np.zeros(log.size, int), 1)
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
    histogram = signal_histogram(cells, tiles).sum("donor")
    dim = histogram.copy(data=histogram.data).compute()
    dim[:, 0] += 500
    xr.testing.assert_identical(mixture_threshold(dim), mixture_threshold(histogram).compute())


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
    threshold = thresholds(cells, tiles, rule=FixedRule(threshold=50))
    assert count_positive(cells, tiles, threshold=threshold).values.tolist() == [1, 1]


def test_cohort_without_any_cell_has_reasons_and_no_crash() -> None:
    cells, tiles = cohort()
    tiles["n_cells"][:] = 0
    for rule in RULES:
        found = apply_rule(cells.isel(cell=slice(0)), tiles, rule=rule).compute()
        assert (found.n_positive == 0).all()
        assert found.threshold.isnull().all() or isinstance(rule, FixedRule)


def test_without_a_marker_channel() -> None:
    cells, tiles = cohort()
    with pytest.raises(UnknownNameError, match=r"no channel in mean_intensity 'marker'; known: DAPI, GFAP"):
        marker_signal(cells.assign_coords(channel=["DAPI", "GFAP"]), tiles)


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
    found = apply_detected(instances.chunk({"y": 10}), nuclei.chunk(), tiles, rule=DetectedRule(nuclei_run="dapi"))
    check_dataset(found, POSITIVITY)
    by_tile = found.compute(scheduler="synchronous").isel(rule=0)
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
