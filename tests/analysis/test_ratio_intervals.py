"""Intervals of mean ratios against SciPy's t tests."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from fintune_xr.analysis.ratio_intervals import mean_ratio, ratio_differences
from fintune_xr.errors import UnknownNameError


def ratio() -> xr.DataArray:
    """Ratios (run, donor, marker) of seven donors, one of them without cells of one marker; three of another."""
    values = np.random.default_rng(1).beta(2, 5, (2, 7, 3))
    values[0, 2, 1] = np.nan
    values[:, 3:, 2] = np.nan
    coords = {"run": ["base", "tuned"], "donor": list("abcdefg"), "marker": ["GFAP", "IBA1", "few"]}
    return xr.DataArray(values, dims=("run", "donor", "marker"), coords=coords)


def test_mean_ratio_has_the_t_interval() -> None:
    found = mean_ratio(ratio())
    for run, marker in (("base", "GFAP"), ("base", "IBA1"), ("tuned", "IBA1")):
        values = ratio().sel(run=run, marker=marker).dropna("donor").values
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        one = found.sel(run=run, marker=marker)
        np.testing.assert_allclose([one["mean"], one.low, one.high], [values.mean(), max(expected[0], 0), expected[1]])
        assert one.n == values.size
    assert found.sel(marker="few").low.isnull().all()
    assert (found.sel(marker="few").n == 3).all()


def test_differences_are_paired_by_donor() -> None:
    found = ratio_differences(ratio(), baseline="base")
    assert found.run.values.tolist() == ["tuned"]
    for marker in ("GFAP", "IBA1"):
        both = ratio().sel(marker=marker).dropna("donor")
        test = scipy.stats.ttest_rel(both.sel(run="tuned"), both.sel(run="base"))
        one = found.sel(run="tuned", marker=marker)
        np.testing.assert_allclose([one.low, one.high], test.confidence_interval(0.95))
        exact = scipy.stats.permutation_test(
            (both.sel(run="tuned").values, both.sel(run="base").values),
            lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf,
        )  # fmt: skip
        assert one.p == pytest.approx(exact.pvalue)
    assert found.sel(marker="few").p.isnull().all()
    with pytest.raises(UnknownNameError, match="bse"):
        ratio_differences(ratio(), baseline="bse")


def test_stays_lazy(no_compute: None) -> None:
    lazy = ratio().chunk({"marker": 1})
    assert all(part.chunks is not None for part in ratio_differences(lazy, baseline="base").values())
