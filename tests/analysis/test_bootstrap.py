"""Resamples: addressed by name, lazy, paired, extendable, and distributed as the scheme says."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fintune_xr.analysis import bootstrap
from fintune_xr.analysis.bootstrap import P_OF_RESAMPLES, SCHEMES, Scheme, resample
from fintune_xr.analysis.kernels import correlation as kernels
from fintune_xr.analysis.kernels import resampling as kernels_resample
from fintune_xr.analysis.ratio import marker_ratio
from fintune_xr.datasets import BOOTSTRAP
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.schema import check_dataset

RESULTS = ("ratio_resampled", "rho_resampled", "p_resampled", "n_drawn")
schemes = pytest.mark.parametrize("scheme", list(SCHEMES))


def cohort(n_donors: int = 8, *, seed: int = 0, missing: float = 0.05) -> xr.Dataset:
    """Counts (run, tile) of two runs over donors with ragged numbers of tiles of two markers."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{donor:03d}", marker, f"{donor:03d}-{marker}-{i}")
        for donor in range(n_donors)
        for marker in ("GFAP", "IBA1")
        for i in range(rng.integers(1, 9))
    ]
    donor, marker, tile = (list(column) for column in zip(*rows, strict=True))
    n_all = rng.integers(0, 60, (2, len(rows)))
    n_positive = rng.binomial(n_all, 0.3)
    n_all[rng.random(n_all.shape) < missing] = -1
    return xr.Dataset(
        {
            "n_positive": (("run", "tile"), n_positive.astype(np.int32)),
            "n_all": (("run", "tile"), n_all.astype(np.int32)),
        },
        coords={"run": ["base", "tuned"], "tile": tile, "donor": ("tile", donor), "marker": ("tile", marker)},
    )


def clinical(counts: xr.Dataset, *, seed: int = 1) -> xr.DataArray:
    """Two outcomes of all donors but the last, with one value missing."""
    donors = np.unique(counts.donor)[:-1]
    values = np.random.default_rng(seed).integers(0, 5, (donors.size, 2)).astype(float)
    values[0, 1] = np.nan
    return xr.DataArray(values, dims=("donor", "outcome"), coords={"donor": donors, "outcome": ["braaksc", "nft"]})


def drawn(counts: xr.Dataset, scheme: Scheme, n: int = 30, first: int = 0, seed: int = 7) -> xr.Dataset:
    """Computed resamples of `counts`."""
    lazy = resample(counts, clinical(counts), scheme=scheme, n_resamples=n, seed=seed, first=first)
    return lazy.compute(scheduler="synchronous")


@schemes
def test_result_fits_its_schema(scheme: Scheme) -> None:
    counts = cohort()
    found = check_dataset(drawn(counts, scheme), BOOTSTRAP)
    assert found.attrs == {"scheme": scheme, "scheme_meaning": SCHEMES[scheme], "seed": 7, "p_method": P_OF_RESAMPLES}
    assert found.ratio_resampled.shape == (30, 2, 8, 2)
    assert found.rho_resampled.shape == (30, 2, 2, 2)


@schemes
def test_nothing_is_computed_before_it_is_asked_for(scheme: Scheme, no_compute: None) -> None:
    counts = cohort()
    lazy = counts.chunk({"tile": 5}).assign_coords(donor=counts.donor, marker=counts.marker)
    found = resample(lazy, clinical(counts).chunk(), scheme=scheme, n_resamples=250, seed=1)
    assert all(found[name].chunks is not None for name in RESULTS)
    assert found.ratio_resampled.chunks[0] == (100, 100, 50)
    with pytest.raises(AssertionError, match="should have stayed lazy"):
        found.compute()


@schemes
def test_first_fifty_of_a_hundred_are_those_of_fifty(scheme: Scheme) -> None:
    counts = cohort()
    hundred, fifty = drawn(counts, scheme, 100), drawn(counts, scheme, 50)
    xr.testing.assert_identical(hundred.isel(resample=slice(50)), fifty)


@settings(max_examples=20)
@given(st.sampled_from(list(SCHEMES)), st.integers(1, 40), st.integers(1, 13), st.integers(1, 20))
def test_chunks_and_extension_change_nothing(scheme: Scheme, split: int, block: int, tiles: int) -> None:
    counts = cohort(5)
    whole = drawn(counts, scheme, 41)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES_PER_BLOCK", block)
        chunked = counts.chunk({"tile": tiles})
        parts = [drawn(chunked, scheme, split), drawn(chunked, scheme, 41 - split, first=split)]
    joined = xr.concat(parts, "resample")
    xr.testing.assert_identical(joined, whole)


@given(st.sampled_from(list(SCHEMES)), st.integers(0, 2**32 - 1))
def test_order_of_the_tiles_changes_nothing(scheme: Scheme, seed: int) -> None:
    counts = cohort(4)
    order = np.random.default_rng(seed).permutation(counts.sizes["tile"])
    shuffled = counts.isel(tile=order)
    xr.testing.assert_identical(drawn(shuffled, scheme, 8), drawn(counts, scheme, 8))


@schemes
def test_threads_change_nothing(scheme: Scheme) -> None:
    counts = cohort()
    lazy = resample(counts, clinical(counts), scheme=scheme, n_resamples=300, seed=7)
    xr.testing.assert_identical(lazy.compute(scheduler="threads"), drawn(counts, scheme, 300))


@pytest.mark.parametrize("scheme", ["tiles_80", "tiles"])
def test_another_donor_leaves_the_draws_of_the_others(scheme: Scheme) -> None:
    counts = cohort()
    fewer = counts.isel(tile=counts.donor != "003")
    left = drawn(counts, scheme).ratio_resampled.sel(donor=np.unique(fewer.donor))
    xr.testing.assert_equal(drawn(fewer, scheme).ratio_resampled, left)


@schemes
def test_a_tile_unknown_in_all_runs_is_as_if_it_were_not_there(scheme: Scheme) -> None:
    counts = cohort(missing=0.0)
    lost = counts.copy(deep=True)
    lost["n_positive"][:, 4] = -1
    xr.testing.assert_identical(drawn(lost, scheme), drawn(counts.drop_isel(tile=[4]), scheme))


@schemes
def test_runs_see_the_same_draws(scheme: Scheme) -> None:
    counts = cohort(missing=0.0)
    twins = counts.isel(run=[0, 0]).assign_coords(run=["a", "b"])
    found = drawn(twins, scheme)
    for name in RESULTS[:3]:
        np.testing.assert_array_equal(found[name].sel(run="a"), found[name].sel(run="b"))


@functools.cache
def rho_of_every_order(n: int) -> np.ndarray:
    """|rho| of every order of n pairs without ties, from the sum of squared differences of ranks."""
    orders = np.array(list(itertools.permutations(range(n))))
    return np.abs(1 - 6 * ((orders - np.arange(n)) ** 2).sum(axis=1) / (n * (n**2 - 1)))


def every_order(n: int, rho: float) -> float:
    """Share of the orders of n pairs without ties whose rho is as far from zero; NaN without a rho."""
    return np.nan if np.isnan(rho) else float((rho_of_every_order(n) >= abs(rho) - 1e-9).mean())


@schemes
def test_rho_and_p_follow_from_the_stored_ratio(scheme: Scheme) -> None:
    counts = cohort()
    outcomes = clinical(counts).reindex(donor=np.unique(counts.donor))
    found = drawn(counts, scheme, 10)
    for r, run, marker, k in itertools.product(range(10), range(2), range(2), range(2)):
        times = found.n_drawn.values[r]
        ratio = found.ratio_resampled.values[r, run, :, marker]
        expected = kernels.spearman(np.repeat(ratio, times), np.repeat(outcomes.values[:, k], times))
        np.testing.assert_allclose(found.rho_resampled.values[r, run, marker, k], expected.rho, atol=1e-12)
        p = every_order(int(expected.n), float(expected.rho))
        np.testing.assert_allclose(found.p_resampled.values[r, run, marker, k], p, atol=1e-12)


@schemes
def test_bootstrap_of_a_constant_has_no_width(scheme: Scheme) -> None:
    counts = cohort(missing=0.0)
    counts["n_all"][:] = 40
    counts["n_positive"][:] = 10
    ratio = drawn(counts, scheme).ratio_resampled
    assert set(ratio.values[~np.isnan(ratio.values)]) == {0.25}
    assert drawn(counts, scheme).rho_resampled.isnull().all()


def test_donors_keeps_all_tiles_of_those_it_draws() -> None:
    counts = cohort()
    found = drawn(counts, "donors")
    observed = marker_ratio(counts.n_positive, counts.n_all).ratio
    assert (found.n_drawn.sum("donor") == 8).all()
    expected = observed.where(found.n_drawn > 0).transpose(*found.ratio_resampled.dims)
    np.testing.assert_array_equal(found.ratio_resampled, expected)


@pytest.mark.parametrize("n", range(1, 60))
def test_eighty_percent_is_rounded_to_the_nearest_tile(n: int) -> None:
    assert kernels_resample.n_kept(n) == max(1, round(0.8 * n))
    assert 0.8 * n % 1 != 0.5


def test_every_set_of_kept_tiles_is_equally_likely() -> None:
    counts = np.array([[1, 2, 4, 8, 16, 32]])
    pool = kernels_resample.pools(counts, np.ones((1, 6), int), np.zeros(6, int), np.array([9], np.uint64))
    n_draws = 30_000
    ratio = kernels_resample.leave_out_ratios(pool, 5, np.arange(n_draws))
    times = Counter(np.rint(ratio[:, 0, 0] * 5).astype(int).tolist())
    assert sorted(times) == sorted(63 - 2**i for i in range(6))
    chi2 = sum((found - n_draws / 6) ** 2 / (n_draws / 6) for found in times.values())
    assert chi2 < 20.5  # 0.999 quantile of chi-squared with 5 degrees of freedom


def test_every_draw_with_replacement_is_as_likely_as_counting_says() -> None:
    counts = np.array([[1, 4, 16]])
    pool = kernels_resample.pools(counts, np.ones((1, 3), int), np.zeros(3, int), np.array([2], np.uint64))
    n_draws = 27_000
    ratio = kernels_resample.ratios_redrawn(pool, 11, np.arange(n_draws))
    times = Counter(np.rint(ratio[:, 0, 0] * 3).astype(int).tolist())
    ways = Counter(sum(three) for three in itertools.product((1, 4, 16), repeat=3))
    assert times.keys() == ways.keys()
    chi2 = sum((times[total] - n_draws * k / 27) ** 2 / (n_draws * k / 27) for total, k in ways.items())
    assert chi2 < 27.9  # 0.999 quantile of chi-squared with 9 degrees of freedom


def test_donors_are_drawn_binomially() -> None:
    times = kernels_resample.draw_donors(10, 3, np.arange(20_000))
    absent = (times == 0).mean(axis=0)
    np.testing.assert_allclose(absent, 0.9**10, atol=5 * math.sqrt(0.35 * 0.65 / 20_000))


def test_counts_without_runs_are_one_run() -> None:
    counts = cohort(missing=0.0)
    one = counts.sel(run="tuned")
    both = drawn(counts, "tiles").sel(run=["tuned"])
    xr.testing.assert_identical(drawn(one, "tiles"), both)


def test_doors() -> None:
    counts = cohort()
    outcomes = clinical(counts)
    with pytest.raises(UnknownNameError, match=r"no resampling scheme 'tile'; known: .*Did you mean 'tiles'"):
        resample(counts, outcomes, scheme="tile", n_resamples=1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(FintuneValueError, match="expected n_resamples >= 1 and first >= 0, got n_resamples=0"):
        resample(counts, outcomes, scheme="tiles", n_resamples=0, seed=0)
    with pytest.raises(FintuneValueError, match="expected the coordinates 'donor' and 'marker' along 'tile'"):
        resample(counts.drop_vars("donor"), outcomes, scheme="tiles", n_resamples=1, seed=0)
    with pytest.raises(FintuneValueError, match="A draw is addressed by the tile's name"):
        resample(counts.drop_vars("tile"), outcomes, scheme="tiles", n_resamples=1, seed=0)
