"""One index over all labels of the tiles, held against boolean masks."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.store.labels.group_index import GroupIndex, with_labels

DONORS, MARKERS = ("007", "7", "d-3"), ("GFAP", "IBA1")
NAMES = ["tile", "donor", "marker"]


def labelled(donors: list[int], markers: list[int]) -> xr.Dataset:
    """Values 0, 1, … of tiles with these donors and markers."""
    n = len(donors)
    coords = {
        "tile": [f"t{i}" for i in range(n)],
        "donor": ("tile", [DONORS[i] for i in donors]),
        "marker": ("tile", [MARKERS[i] for i in markers]),
    }
    dataset = xr.Dataset({"image": (("tile", "channel"), np.arange(2 * n).reshape(n, 2))}, coords)
    return dataset.assign_coords(channel=["DAPI", "marker"]).drop_indexes("tile").set_xindex(NAMES, GroupIndex)


TILES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=12)


@given(TILES, st.data())
def test_any_combination_is_that_of_boolean_masks(tiles: list[tuple[int, int]], data: st.DataObject) -> None:
    dataset = labelled([d for d, _ in tiles], [m for _, m in tiles])
    query, mask = {}, np.ones(len(tiles), bool)
    for name in data.draw(st.sets(st.sampled_from(["donor", "marker", "tiles", "slice"]), min_size=1)):
        if name == "slice":
            if "tile" in query:
                continue
            first = data.draw(st.integers(0, len(tiles) - 1))
            last = data.draw(st.integers(first, len(tiles) - 1))
            query["tile"] = slice(f"t{first}", f"t{last}")
            mask &= (np.arange(len(tiles)) >= first) & (np.arange(len(tiles)) <= last)
            continue
        label = "tile" if name == "tiles" else name
        if label in query:
            continue
        values = dataset[label].values
        wanted = data.draw(st.lists(st.sampled_from(sorted(set(values))), min_size=1, max_size=3))
        single = label != "tile" and data.draw(st.booleans())
        query[label] = wanted[0] if single else wanted
        mask &= np.isin(values, wanted[:1] if single else wanted)
    found = dataset.sel({**query, "channel": "DAPI"})
    assert found.image.dims == ("tile",)
    assert np.array_equal(found.image, dataset.image.values[mask, 0])
    assert np.array_equal(found.tile, dataset.tile.values[mask])
    assert isinstance(found.xindexes["donor"], GroupIndex)


def test_one_id_gives_one_entry_and_names_are_no_numbers() -> None:
    dataset = labelled([0, 1, 2], [0, 0, 1])
    assert dataset.sel(tile="t1").image.dims == ("channel",)
    assert dataset.sel(donor="7").tile.values.tolist() == ["t1"]
    assert dataset.sel(donor="007").tile.values.tolist() == ["t0"]
    with pytest.raises(UnknownNameError, match="donor"):
        dataset.sel(donor="07")
    with pytest.raises(FintuneValueError, match="0 entries"):
        dataset.sel(tile="t0", donor="7")
    with pytest.raises(TypeError, match="slices are of ids"):
        dataset.sel(donor=slice("007", "7"))


def test_what_xarray_does_with_a_dataset_keeps_the_index() -> None:
    dataset = labelled([0, 1, 2, 0, 1], [0, 0, 1, 1, 0])
    first, second = dataset.isel(tile=slice(0, 3)), dataset.isel(tile=[3, 4])
    for made in (
        xr.concat([first, second], "tile"),
        pickle.loads(pickle.dumps(dataset)),
        dataset.copy(deep=True),
        xr.align(first, second, join="outer")[0],
        dataset.where(dataset.donor != "x"),
        dataset.sortby("marker"),
        dataset.rename(image="pixels"),
    ):
        assert isinstance(made.xindexes["tile"], GroupIndex)
        assert set(made.sel(donor="007", marker="GFAP").tile.values) <= {"t0"}
    assert xr.align(dataset, first, join="inner")[0].tile.values.tolist() == ["t0", "t1", "t2"]
    assert dataset.groupby("donor").sum().image.sel(channel="DAPI").values.tolist() == [6, 10, 4]
    assert (dataset.image * xr.DataArray(np.ones(5), coords={"tile": dataset.tile.values}, dims="tile")).sizes[
        "tile"
    ] == 5
    assert dataset.to_dataframe().groupby("donor").image.sum().to_dict() == {"007": 14, "7": 22, "d-3": 9}
    assert xr.concat([second, first], "tile").tile.values.tolist() == ["t3", "t4", "t0", "t1", "t2"]


def test_a_label_that_is_added_is_asked_for_with_the_others() -> None:
    dataset = with_labels(labelled([0, 1, 2], [0, 0, 1]), region=["cortex", "white", "white"])
    assert dataset.sel(region="white", marker="GFAP").tile.values.tolist() == ["t1"]
    assert with_labels(dataset, region=["a", "b", "c"]).sel(region="c", donor="d-3").sizes["tile"] == 1
    with pytest.raises(FintuneValueError, match="expected 3 labels"):
        with_labels(dataset, region=["a"])


def test_a_query_of_twenty_thousand_tiles_takes_milliseconds() -> None:
    rng = np.random.default_rng(0)
    dataset = labelled(rng.integers(0, 3, 20_000).tolist(), rng.integers(0, 2, 20_000).tolist())
    dataset.sel(donor="007", marker="GFAP", channel="DAPI")
    best = np.inf
    for _ in range(5):
        began = time.process_time()
        dataset.sel(donor="007", marker="GFAP", channel="DAPI")
        best = min(best, time.process_time() - began)
    assert best < 0.005
