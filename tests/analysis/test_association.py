"""Association, its q-values, and what the resamples say about them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from fintune_xr.analysis.association import associate, q_values
from fintune_xr.analysis.comparison import compare_runs, summarise
from fintune_xr.errors import FintuneValueError, UnknownNameError

DONORS = [f"{i:02d}" for i in range(14)]


def ratio(seed: int = 0) -> xr.DataArray:
    """Ratios (run, donor, marker) with ties and a missing value."""
    values = np.random.default_rng(seed).random((2, 14, 3)).round(1)
    values[0, 3, 1] = np.nan
    coords = {"run": ["base", "tuned"], "donor": DONORS, "marker": ["GFAP", "IBA1", "OLIG2"]}
    return xr.DataArray(values, dims=("run", "donor", "marker"), coords=coords)


def outcomes(seed: int = 1) -> xr.DataArray:
    """Outcomes (donor, outcome) of which one is constant and one has no values; donors in another order."""
    values = np.random.default_rng(seed).integers(0, 6, (12, 4)).astype(float)
    values[2, 0] = np.nan
    values[:, 2] = 3
    values[:, 3] = np.nan
    coords = {"donor": DONORS[:1:-1], "outcome": ["braaksc", "nft", "constant", "empty"]}
    return xr.DataArray(values, dims=("donor", "outcome"), coords=coords)


def test_equals_scipy_and_statsmodels_pair_by_pair() -> None:
    found = associate(ratio(), outcomes())
    joined = outcomes().reindex(donor=DONORS)
    for run in found.run.values:
        ps = []
        for marker in found.marker.values:
            for name in ("braaksc", "nft"):
                a, b = ratio().sel(run=run, marker=marker).values, joined.sel(outcome=name).values
                ok = ~np.isnan(a) & ~np.isnan(b)
                expected = scipy.stats.spearmanr(a[ok], b[ok])
                one = found.sel(run=run, marker=marker, outcome=name)
                assert one.rho == pytest.approx(expected.statistic, abs=1e-10)
                assert abs(one.p - expected.pvalue) < 0.01, "orders and Student's t do not differ by more at 11 donors"
                assert one.p_method == "Monte-Carlo permutation"
                assert one.p_resolution == 1e-5
                assert one.n == ok.sum()
                assert one.reason == ""
                ps.append(one.p.item())
        q = found.q.sel(run=run, outcome=["braaksc", "nft"]).values.ravel()
        np.testing.assert_allclose(q, multipletests(ps, method="fdr_bh")[1], atol=1e-10)


def test_missing_correlations_have_a_reason() -> None:
    found = associate(ratio(), outcomes())
    assert found.rho.sel(outcome=["constant", "empty"]).isnull().all()
    assert found.q.sel(outcome=["constant", "empty"]).isnull().all()
    assert (found.reason.sel(outcome="constant") == "the outcome is the same in all donors").all()
    assert (found.reason.sel(outcome="empty") == "fewer than 3 donors have both values").all()
    assert (found.n.sel(outcome="empty") == 0).all()


def test_below_five_donors_there_is_a_p_and_no_q() -> None:
    few = outcomes()[:, :2].assign_coords(outcome=["four", "nft"])
    few[4:, 0] = np.nan
    found = associate(ratio(), few)
    four, others = found.sel(outcome="four"), found.sel(outcome="nft")
    assert (four.n <= 4).all()
    assert four.p.notnull().any()
    assert four.q.isnull().all()
    for run in found.run.values:
        expected = multipletests(others.p.sel(run=run).values, method="fdr_bh")[1]
        np.testing.assert_allclose(others.q.sel(run=run), expected, atol=1e-12)


def test_family_is_an_argument_and_is_stored() -> None:
    found = associate(ratio(), outcomes(), family=("run", "outcome"))
    assert found.q.attrs["family"] == ["run", "outcome"]
    assert found.attrs == {"family": ["run", "outcome"], "covariates": []}
    p = found.p.sel(marker="IBA1", outcome=["braaksc", "nft"])
    expected = multipletests(p.values.ravel(), method="fdr_bh")[1].reshape(2, 2)
    np.testing.assert_allclose(found.q.sel(marker="IBA1", outcome=["braaksc", "nft"]), expected, atol=1e-12)
    with pytest.raises(UnknownNameError, match=r"no dim for the family of tests 'markers'; .*Did you mean 'marker'"):
        associate(ratio(), outcomes(), family=("markers",))


@settings(max_examples=8)
@given(st.integers(0, 100))
def test_permuting_donors_permutes_nothing(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(14)
    xr.testing.assert_identical(associate(ratio().isel(donor=order), outcomes()), associate(ratio(), outcomes()))


def test_stays_lazy(no_compute: None) -> None:
    lazy = associate(ratio().chunk({"marker": 1}), outcomes().chunk())
    assert all(lazy[name].chunks is not None for name in ("rho", "p", "q", "n", "reason"))


@pytest.mark.parametrize("adjusted", [False, True])
def test_chunks_change_nothing(adjusted: bool) -> None:
    covariates = None
    if adjusted:
        values = np.random.default_rng(5).normal(size=(14, 2))
        coords = {"donor": DONORS, "covariate": ["age_death", "msex"]}
        covariates = xr.DataArray(values, dims=("donor", "covariate"), coords=coords)
    whole = associate(ratio(), outcomes(), covariates=covariates)
    lazy = associate(ratio().chunk({"marker": 1, "run": 1}), outcomes(), covariates=covariates)
    xr.testing.assert_identical(lazy.compute(), whole)
    assert whole.attrs["covariates"] == (["age_death", "msex"] if adjusted else [])


def test_partial_correlation_takes_out_what_the_covariate_explains() -> None:
    rng = np.random.default_rng(8)
    age = rng.normal(size=400)
    donors = [str(i) for i in range(400)]
    share = xr.DataArray(
        (age + 0.3 * rng.normal(size=400))[None, :, None],
        dims=("run", "donor", "marker"),
        coords={"run": ["a"], "donor": donors, "marker": ["GFAP"]},
    )
    score = xr.DataArray(
        (age + 0.3 * rng.normal(size=400))[:, None],
        dims=("donor", "outcome"),
        coords={"donor": donors, "outcome": ["nft"]},
    )
    covariate = xr.DataArray(
        age[:, None], dims=("donor", "covariate"), coords={"donor": donors, "covariate": ["age_death"]}
    )
    assert associate(share, score).rho.item() > 0.8
    assert abs(associate(share, score, covariates=covariate).rho.item()) < 0.15


def resampled(n: int = 400, seed: int = 2) -> xr.Dataset:
    """Resampled rho and p of two runs; the second run is higher by 0.2 for GFAP, and one pair has no rho."""
    rng = np.random.default_rng(seed)
    rho = rng.normal(0.1, 0.05, (n, 1, 2, 2)) + rng.normal(0, 0.02, (n, 2, 2, 2))
    rho[:, 1, 0] += 0.2
    rho[:, :, 1, 1] = np.nan
    rho[:7, 0, 0, 0] = np.nan
    p = np.where(np.isnan(rho), np.nan, rng.random(rho.shape) * 0.1)
    dims = ("resample", "run", "marker", "outcome")
    coords = {"run": ["base", "tuned"], "marker": ["GFAP", "IBA1"], "outcome": ["nft", "gpath"]}
    data = {"rho_resampled": (dims, rho), "p_resampled": (dims, p)}
    return xr.Dataset(data, coords=coords, attrs={"scheme": "tiles_80", "seed": 3})


def test_summary_by_hand() -> None:
    data = resampled()
    found = summarise(data)
    rho = data.rho_resampled.values[7:, 0, 0, 0]
    p = data.p_resampled.values[7:, 0, 0, 0]
    one = found.sel(run="base", marker="GFAP", outcome="nft")
    assert one.n_resamples == 393
    np.testing.assert_allclose([one.low, one.middle, one.high], np.quantile(rho, [0.025, 0.5, 0.975]))
    assert one.sign_consistency == pytest.approx(max((rho > 0).mean(), (rho < 0).mean()))
    assert one.share_significant == pytest.approx((p <= 0.05).mean())
    ps = data.p_resampled.values[50, 0]
    q = multipletests(ps[~np.isnan(ps)], method="fdr_bh")[1]
    within = q_values(data.p_resampled, family=("marker", "outcome")).values[50, 0]
    np.testing.assert_allclose(within[~np.isnan(ps)], q)
    assert (found.share_discovered <= found.share_significant).sum() == 6
    assert found.attrs == {"scheme": "tiles_80", "seed": 3, "alpha": 0.05, "family": ["marker", "outcome"]}


def test_what_was_never_resampled_is_missing() -> None:
    one = summarise(resampled()).sel(run="base", marker="IBA1", outcome="gpath")
    assert one.n_resamples == 0
    for name in ("low", "middle", "high", "sign_consistency", "share_significant", "share_discovered"):
        assert np.isnan(one[name])


def test_difference_is_paired() -> None:
    data = resampled()
    found = compare_runs(data, baseline="base", other="tuned")
    gfap, iba1 = (found.sel(marker=marker, outcome="nft") for marker in ("GFAP", "IBA1"))
    difference = data.rho_resampled.sel(run="tuned") - data.rho_resampled.sel(run="base")
    expected = np.nanquantile(difference.sel(marker="GFAP", outcome="nft"), [0.025, 0.5, 0.975])
    np.testing.assert_allclose([gfap.low, gfap.middle, gfap.high], expected)
    assert bool(gfap.differs)
    assert gfap.share_higher == 1
    assert not bool(iba1.differs)
    # Pairing removes the variation that the runs share: 0.02 * sqrt(2) is left of 0.05 and 0.02.
    assert gfap.high - gfap.low < 4.5 * 0.02 * np.sqrt(2)
    missing = found.sel(marker="IBA1", outcome="gpath")
    assert np.isnan(missing.middle)
    assert not bool(missing.differs)


def test_a_run_does_not_differ_from_itself() -> None:
    found = compare_runs(resampled(), baseline="tuned", other="tuned")
    assert not found.differs.any()
    assert ((found.high - found.low).isnull() | (found.high - found.low == 0)).all()


def test_summaries_stay_lazy_and_ignore_chunks() -> None:
    data = resampled()
    for chunks in ({"resample": 100}, {"resample": 33, "marker": 1}):
        lazy = summarise(data.chunk(chunks))
        assert lazy.low.chunks is not None
        xr.testing.assert_allclose(lazy.compute(), summarise(data))
        both = compare_runs(data.chunk(chunks), baseline="base", other="tuned")
        assert both.differs.chunks is not None
        xr.testing.assert_allclose(both.compute(), compare_runs(data, baseline="base", other="tuned"))


def test_nothing_is_computed_by_a_summary(no_compute: None) -> None:
    lazy = resampled().chunk({"resample": 100})
    for summary in (summarise(lazy), compare_runs(lazy, baseline="base", other="tuned")):
        assert all(array.chunks is not None for array in summary.data_vars.values())


def test_doors() -> None:
    with pytest.raises(UnknownNameError, match=r"no resampled run 'tune'; known: base, tuned. Did you mean 'tuned'"):
        compare_runs(resampled(), baseline="base", other="tune")
    with pytest.raises(FintuneValueError, match=r"expected alpha between 0 and 1, got 5; 0\.05 gives a 95 % interval"):
        summarise(resampled(), alpha=5)
