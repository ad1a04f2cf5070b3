"""Donor ratios from tile counts against pandas, and what unknown tiles do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fintune_xr.analysis.ratio import marker_ratio, ratio_bounds
from fintune_xr.errors import FintuneValueError


def counts(n_tiles: int, seed: int) -> xr.Dataset:
    """Counts (run, tile) with some unknown and some empty tiles."""
    rng = np.random.default_rng(seed)
    n_all = rng.choice([-1, 0, 3, 10, 17], (2, n_tiles))
    n_positive = np.where(n_all >= 0, rng.integers(0, 100, n_all.shape) % (n_all + 1 + (n_all < 0)), -1)
    return xr.Dataset(
        {"n_positive": (("run", "tile"), n_positive), "n_all": (("run", "tile"), n_all)},
        coords={
            "run": ["a", "b"],
            "tile": [f"t{i}" for i in range(n_tiles)],
            "donor": ("tile", rng.choice(["7", "01", "12"], n_tiles)),
            "marker": ("tile", rng.choice(["IBA1", "GFAP"], n_tiles)),
        },
    )


def in_memory_coordinates(lazy: xr.Dataset, like: xr.Dataset) -> xr.Dataset:
    """`lazy` with the coordinates donor and marker in memory, as their index holds them in a store."""
    return lazy.assign_coords(donor=like.donor, marker=like.marker)


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(0, 1000), st.integers(1, 7))
def test_ratio_equals_pandas_whatever_the_chunks(n_tiles: int, seed: int, chunk: int) -> None:
    data = counts(n_tiles, seed)
    found = marker_ratio(data.n_positive, data.n_all)
    lazy = data.chunk({"tile": chunk})
    xr.testing.assert_identical(marker_ratio(lazy.n_positive, lazy.n_all).compute(), found)

    table = data.to_dataframe().reset_index()
    table = table[table.n_all >= 0]
    for (run, donor, marker), group in table.groupby(["run", "donor", "marker"]):
        one = found.sel(run=run, donor=donor, marker=marker)
        assert one.n_positive == group.n_positive.sum()
        assert one.n_all == group.n_all.sum()
        assert one.n_tiles == len(group)
        total = group.n_all.sum()
        np.testing.assert_equal(one.ratio.item(), group.n_positive.sum() / total if total else np.nan)
    assert found.n_tiles.sum() == len(table)


@given(st.integers(0, 1000))
def test_order_of_tiles_and_names_of_donors(seed: int) -> None:
    data = counts(20, seed)
    shuffled = data.isel(tile=np.random.default_rng(seed).permutation(20))
    found = marker_ratio(data.n_positive, data.n_all)
    xr.testing.assert_identical(marker_ratio(shuffled.n_positive, shuffled.n_all), found)

    swap = {"7": "01", "01": "7"}
    renamed = data.assign_coords(donor=("tile", pd.Series(data.donor).replace(swap).to_numpy(str)))
    other = marker_ratio(renamed.n_positive, renamed.n_all)
    for donor in found.donor.values:
        expected = found.ratio.sel(donor=donor)
        np.testing.assert_array_equal(other.ratio.sel(donor=swap.get(donor, donor)), expected)


def test_stays_lazy(no_compute: None) -> None:
    data = counts(12, 0)
    lazy = in_memory_coordinates(data.chunk({"tile": 5}), data)
    found = marker_ratio(lazy.n_positive, lazy.n_all)
    bounds = ratio_bounds(found, lazy.n_all < 0)
    assert found.ratio.chunks is not None
    assert bounds.ratio_low.chunks is not None


def test_no_cells_is_missing_and_not_zero() -> None:
    data = counts(6, 1)
    data["n_all"][:] = 0
    data["n_positive"][:] = 0
    found = marker_ratio(data.n_positive, data.n_all)
    assert found.ratio.isnull().all()
    assert found.n_tiles.sum() == 12


def test_one_run_keeps_its_name() -> None:
    data = counts(6, 2)
    found = marker_ratio(data.n_positive.sel(run="b"), data.n_all.sel(run="b"))
    xr.testing.assert_identical(found, marker_ratio(data.n_positive, data.n_all).sel(run=["b"]))
    unnamed = data.sel(run="b").drop_vars("run")
    assert marker_ratio(unnamed.n_positive, unnamed.n_all).run.values.tolist() == ["unnamed"]


def test_bounds_by_hand() -> None:
    tiles = {"tile": list("abcd"), "donor": ("tile", list("1111")), "marker": ("tile", ["GFAP"] * 4)}
    n_all = xr.DataArray([10, 30, -1, -1], dims="tile", coords=tiles)
    n_positive = xr.DataArray([4, 4, -1, -1], dims="tile", coords=tiles)
    ratio = marker_ratio(n_positive, n_all)
    # 8 of 40 cells in two tiles; a lost tile of 20 cells makes 8 or 28 of 60; a pending tile counts for nothing.
    bounds = ratio_bounds(ratio, xr.DataArray([False, False, True, False], dims="tile", coords=tiles))
    assert bounds.ratio_low.item() == pytest.approx(8 / 60)
    assert bounds.ratio_high.item() == pytest.approx(28 / 60)


@given(st.integers(0, 1000))
def test_bounds_enclose_the_ratio(seed: int) -> None:
    data = counts(20, seed)
    found = marker_ratio(data.n_positive, data.n_all)
    bounds = ratio_bounds(found, data.n_all < 0)
    assert (bounds.ratio_low.isnull() == found.ratio.isnull()).all()
    assert ((bounds.ratio_low <= found.ratio + 1e-12) | found.ratio.isnull()).all()
    assert ((bounds.ratio_high >= found.ratio - 1e-12) | found.ratio.isnull()).all()


def test_counts_without_donors_are_refused() -> None:
    data = counts(6, 0).drop_vars("marker")
    with pytest.raises(FintuneValueError, match=r"'donor' and 'marker' along 'tile', found \['donor', 'run', 'tile'\]"):
        marker_ratio(data.n_positive, data.n_all)
