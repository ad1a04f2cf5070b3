"""One index over all labels of the tiles, held against boolean masks."""

from __future__ import annotations

import pickle
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.store.labels import group_index
from fintune_xr.store.labels.group_index import GroupIndex, with_labels
from fintune_xr.store.labels.named_labels import with_named_labels

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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "donor: .*times|marker: .*times|tile: .*times")
        found = dataset.sel({**query, "channel": "DAPI"})
    assert found.image.dims == ("tile",)
    assert np.array_equal(found.image, dataset.image.values[mask, 0])
    assert np.array_equal(found.tile, dataset.tile.values[mask])
    assert isinstance(found.xindexes["donor"], GroupIndex)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.booleans())
def test_ids_along_another_dim_give_the_entry_of_each_as_of_a_plain_index(asked: list[int], is_named: bool) -> None:
    dataset = labelled([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1])
    plain = dataset.drop_indexes(NAMES).drop_vars(["donor", "marker"]).set_xindex("tile")
    coords = {"best": [f"b{at}" for at in range(len(asked))]} if is_named else {}
    ids = xr.DataArray([f"t{at}" for at in asked], coords, ["best"])
    found = dataset.sel(tile=ids)
    assert found.image.identical(plain.sel(tile=ids).image.assign_coords(found.image.coords))
    assert found.image.dims == ("best", "channel")
    assert found.donor.values.tolist() == [DONORS[at // 2] for at in asked]
    table = ids.values.reshape(1, -1)
    assert dataset.sel(tile=xr.Variable(("a", "b"), table)).image.dims == ("a", "b", "channel")


def test_ids_along_another_dim_that_are_not_there_or_asked_for_with_others_are_refused() -> None:
    dataset = labelled([0, 1, 2], [0, 0, 1])
    with pytest.raises(KeyError, match="no tile 't7'; known: t0, t1, t2"):
        dataset.sel(tile=xr.DataArray(["t1", "t7"], dims="k"))
    with pytest.raises(FintuneValueError, match="tile: ids along k stand for the entry of each"):
        dataset.sel(tile=xr.DataArray(["t1"], dims="k"), donor="7")
    with pytest.raises(FintuneValueError, match="several times"):
        xr.concat([dataset, dataset], "tile", data_vars="all").sel(tile=xr.DataArray(["t1"], dims="k"))


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


def test_of_what_was_drawn_twice_it_is_said_that_a_selection_holds_it_once() -> None:
    dataset = labelled([0, 1, 2, 0], [0, 0, 1, 1])
    for query in ({"donor": ["7", "007", "7"]}, {"tile": ["t1", "t1"]}):
        with pytest.warns(UserWarning, match=r"asked for 2 times.*\.isel"):
            found = dataset.sel(query)
        [(label, wanted)] = query.items()
        np.testing.assert_array_equal(found.tile, dataset.tile[np.isin(dataset[label], wanted)])
    assert dataset.isel(tile=[1, 1]).donor.values.tolist() == ["7", "7"]


def test_entries_are_chosen_by_booleans_and_taken_out_by_name() -> None:
    dataset = labelled([0, 1, 2, 0], [0, 0, 1, 1])
    chosen = dataset.image.sel(channel="DAPI") > 2
    assert dataset.sel(tile=chosen).tile.values.tolist() == ["t2", "t3"]
    assert dataset.sel(tile=chosen.values, donor="007").tile.values.tolist() == ["t3"]
    assert dataset.drop_sel(tile=["t1", "t3"]).tile.values.tolist() == ["t0", "t2"]
    assert dataset.drop_isel(tile=[0]).sel(donor="007").tile.values.tolist() == ["t3"]
    with pytest.raises(FintuneValueError, match="expected 4 booleans along tile"):
        dataset.sel(tile=[True, False])
    with pytest.raises(FintuneValueError, match="none is near another"):
        dataset.sel(donor="7", method="nearest")


def test_where_xarray_will_not_part_labels_it_says_what_does() -> None:
    dataset = labelled([0, 1], [0, 1])
    twice = 2 * dataset.image
    with pytest.raises(ValueError, match=r"\.assign\(name=array\.variable\)"):
        dataset.assign(twice=twice)
    made = dataset.assign(twice=twice.variable)
    assert made.sel(donor="7").twice.values.tolist() == [[4, 6]]
    assert "tile" in made.drop_indexes(NAMES).drop_vars("marker").coords
    assert "assign" not in repr(dataset)


def test_of_a_query_it_is_said_that_sel_takes_its_place_and_it_does() -> None:
    tiles = labelled([0, 1, 2], [0, 0, 1])
    with pytest.raises(ValueError, match=r"in place of \.query\(\) choose by \.sel\(\)"):
        tiles.query(tile="donor == '7'")
    chosen = tiles.sel(tile=tiles.image.sel(channel="DAPI") > 1)
    assert list(chosen.tile.values) == ["t1", "t2"]


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


@given(st.lists(st.sampled_from(DONORS), max_size=30), st.booleans())
def test_codes_are_those_of_pandas(labels: list[str], as_objects: bool) -> None:
    column = np.array(labels, object if as_objects else "U5")
    codes, entries = group_index._factorized(column)
    expected, expected_entries = pd.factorize(column)
    np.testing.assert_array_equal(codes, expected)
    assert entries.tolist() == expected_entries.tolist()


def test_pandas_is_shown_each_run_of_labels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million labels of ten thousand donors would be made a million objects."""
    seen: list[int] = []
    factorize = pd.factorize
    monkeypatch.setattr(pd, "factorize", lambda labels: seen.append(labels.size) or factorize(labels))
    codes, _ = group_index._factorized(np.repeat(np.array(["b", "a", "b"]), 50))
    assert seen == [3]
    np.testing.assert_array_equal(codes, np.repeat([0, 1, 0], 50))


def test_labels_of_tiles_and_of_dims_answer_for_any_dataset() -> None:
    plain = xr.Dataset(
        {"tp": (("run", "tile"), [[1, 2, 3]])},
        {"run": ["a"], "tile": ["t0", "t1", "t2"], "donor": ("tile", ["d0", "d1", "d1"]), "size": ("tile", [1, 2, 3])},
    )
    found = with_named_labels(plain)
    assert found.sel(donor="d1", run="a")["tp"].values.tolist() == [2, 3]
    for label, wrong in ((n.DONOR, "d2"), (n.TILE, "t3"), (n.RUN, "b")):
        with pytest.raises(UnknownNameError, match=f"no {label} '{wrong}'; known: "):
            found.sel({label: wrong})
    xr.testing.assert_identical(with_named_labels(found), found)
    assert found.size.values.tolist() == [1, 2, 3]
    numbers = xr.Dataset({"a": ("seed", [1.0])}, {"seed": [0]})
    assert with_named_labels(numbers) is numbers
