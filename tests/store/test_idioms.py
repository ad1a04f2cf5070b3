"""What people do with a dataset in a session works on every dataset that a cohort gives, without a warning."""

from __future__ import annotations

import pickle
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.datasets import ANALYSIS
from fintune_xr.errors import UnknownNameError
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import ROWS_PER_CHUNK, in_blocks
from fintune_xr.store.zarr_io.portable import Record, plain_text

mpl.use("Agg")
DATA = Path(__file__).parents[1] / "data"

GIVEN: dict[str, Callable[[Cohort], xr.Dataset]] = {
    "images": Cohort.images,
    "annotations": Cohort.annotations,
    "quarantine": Cohort.quarantine,
    "run": lambda cohort: cohort.run("a"),
    "cells": lambda cohort: cohort.cells("a"),
    "positivity": lambda cohort: cohort.positivity("a"),
    "analysis": Cohort.analysis,
    "bootstrap": lambda cohort: cohort.bootstrap("tiles_80"),
    "metrics": lambda cohort: cohort.metrics(n.TEST),
}


# Each gives the names of the variables, or dims, that it was right for; a test compares them with those there are.
Names = set[Hashable]


def to_netcdf(dataset: xr.Dataset, place: Path) -> Names:
    dataset.to_netcdf(place / "a.nc", engine="scipy")
    return same_values(xr.open_dataset(place / "a.nc", engine="scipy", mask_and_scale=False), dataset)


def to_zarr(dataset: xr.Dataset, place: Path) -> Names:
    shutil.rmtree(place / "a.zarr", ignore_errors=True)
    dataset.to_zarr(place / "a.zarr", zarr_format=3, consolidated=False)
    return same_values(xr.open_zarr(place / "a.zarr", consolidated=False, mask_and_scale=False), dataset)


def as_text(dataset: xr.Dataset, _: Path) -> Names:
    plain = {name: dataset[name] for name in texts_of(dataset) if dataset[name].dtype.kind in "OU"}
    return {name for name, array in plain.items() if (array.astype(str).values == array.values).all()}


def plot(dataset: xr.Dataset, _: Path) -> Names:
    drawn = set()
    for name in lines_of(dataset):
        along = longest(dataset[name])
        dataset[name].isel({dim: 0 for dim in dataset[name].dims if dim != along}).plot()
        drawn |= {name} if mpl.pyplot.gca().has_data() else set()
        mpl.pyplot.close("all")
    return drawn


def to_dataframe(dataset: xr.Dataset, _: Path) -> Names:
    small = small_of(dataset)
    table = dataset[sorted(small)].to_dataframe() if small else pd.DataFrame()
    return {name for name in small if len(table) >= dataset[name].size}


def first_and_last(dataset: xr.Dataset, _: Path) -> Names:
    filled = {dim for dim, size in dataset.sizes.items() if size}
    return {
        dim
        for dim in filled
        if dataset.isel({dim: slice(0, 1)}).load().sizes[dim] == 1 and dim not in dataset.isel({dim: -1}).sizes
    }


def join(dataset: xr.Dataset, _: Path) -> Names:
    dim = next(iter(dataset.dims))
    joined = xr.concat([dataset, dataset], dim, data_vars="minimal", coords="minimal", compat="override")
    again = joined.isel({dim: slice(dataset.sizes[dim], None)})
    return same_values(again, dataset)


def travel(dataset: xr.Dataset, _: Path) -> Names:
    there = pickle.loads(pickle.dumps(dataset))
    xr.testing.assert_identical(there.load(), dataset.load())
    return same_values(there, dataset)


def look(dataset: xr.Dataset, _: Path) -> Names:
    assert repr(dataset)
    return set(re.findall(r"<div class='xr-var-name'><span[^>]*>(.*?)</span></div>", dataset._repr_html_()))


def choose_by_booleans(dataset: xr.Dataset, _: Path) -> Names:
    """`.sel(tile=ds.donor == "x")`, and the same by `where` and by `isel`."""
    found = set()
    for name in shared_labels(dataset):
        (dim,) = dataset[name].dims
        is_first = dataset[name] == dataset[name].values[0]
        chosen = dataset.isel({dim: is_first.values})
        xr.testing.assert_equal(dataset.sel({dim: is_first}), chosen)
        numbers = [str(one) for one in lines_of(dataset) if dim in dataset[one].dims]
        cut = dataset[numbers].where(is_first, drop=True).load()
        found |= {name} if all(np.array_equal(cut[one], chosen[one], equal_nan=True) for one in numbers) else set()
    return found


def group(dataset: xr.Dataset, _: Path) -> Names:
    """Means of groups are those of pandas."""
    found = set()
    for name in grouped_labels(dataset):
        numbers = columns_along(dataset, name)
        made = dataset[numbers].groupby(name).mean().load()
        expected = pd.DataFrame({one: dataset[one].values for one in numbers}).groupby(dataset[name].values).mean()
        same = [np.allclose(made[one], expected[one], equal_nan=True) for one in numbers]
        found |= {name} if all(same) and made[name].values.tolist() == expected.index.tolist() else set()
    return found


def sort(dataset: xr.Dataset, _: Path) -> Names:
    labels = shared_labels(dataset)
    return {
        name for name in labels if dataset.sortby(name)[name].values.tolist() == sorted(dataset[name].values.tolist())
    }


def by_blocks(dataset: xr.Dataset, _: Path) -> Names:
    """Functions over blocks, and ufuncs that Dask runs, give what they do in memory."""
    found = set()
    for name in lines_of(dataset):
        array = dataset[name].astype("f8")
        rooted = xr.apply_ufunc(np.negative, array, dask="parallelized", output_dtypes=[np.float64])
        mapped = array.map_blocks(np.negative, template=array)
        same = [np.array_equal(one, -array.values, equal_nan=True) for one in (rooted, mapped)]
        found |= {name} if all(same) else set()
    return found


def whole_by_blocks(dataset: xr.Dataset, _: Path) -> Names:
    """A function over blocks of the whole dataset, whose variables are therefore cut alike."""
    assert dataset.unify_chunks().chunksizes == dataset.chunksizes
    return same_values(dataset.map_blocks(lambda block: block, template=dataset), dataset)


def copy(dataset: xr.Dataset, _: Path) -> Names:
    return same_values(dataset.copy(deep=True), dataset)


def same_values(found: xr.Dataset, dataset: xr.Dataset) -> Names:
    """Variables of `found` that hold what those of `dataset` do."""
    return {name for name, array in found.load().variables.items() if same(array.values, dataset[name].values)}


def same(found: np.ndarray, stored: np.ndarray) -> bool:
    if stored.dtype.kind == "f":
        return np.array_equal(found, stored, equal_nan=True)
    return np.array_equal(found, stored)


def lines_of(dataset: xr.Dataset) -> Names:
    """Numbers that a line can be drawn of."""
    numbers = {name: array for name, array in dataset.data_vars.items() if array.dtype.kind in "fiu" and array.ndim}
    return {name for name, array in numbers.items() if array.sizes[longest(array)] > 1}


def shared_labels(dataset: xr.Dataset) -> Names:
    """Labels that entries along a dim with an index share."""
    texts = {name for name, array in dataset.coords.items() if array.dtype.kind in "OU" and array.ndim == 1}
    return {name for name in texts if name not in dataset.dims and name in dataset.xindexes}


def grouped_labels(dataset: xr.Dataset) -> Names:
    """Those of them along which there are columns of numbers."""
    return {name for name in shared_labels(dataset) if columns_along(dataset, name)}


def columns_along(dataset: xr.Dataset, name: Hashable) -> list[str]:
    columns = {str(one): array for one, array in dataset.data_vars.items() if array.dims == dataset[name].dims}
    return [one for one, array in columns.items() if array.dtype.kind in "fiu"]


def longest(array: xr.DataArray) -> Hashable:
    return max(array.dims, key=lambda dim: array.sizes[dim])


def texts_of(dataset: xr.Dataset) -> Names:
    """Text, also of the kind that few tools know."""
    return {name for name, array in dataset.variables.items() if array.dtype.kind in "OUT"}


def small_of(dataset: xr.Dataset) -> Names:
    return {name for name, array in dataset.data_vars.items() if 0 < array.size < 100_000}


IDIOMS = (
    to_netcdf, to_zarr, as_text, plot, to_dataframe, first_and_last, join, travel, look, copy, choose_by_booleans,
    group, sort, by_blocks, whole_by_blocks,
)  # fmt: skip
# What an idiom is for, where that is not all variables.
MEANT: dict[Callable[[xr.Dataset, Path], Names], Callable[[xr.Dataset], Names]] = {
    as_text: texts_of,
    plot: lines_of,
    to_dataframe: small_of,
    choose_by_booleans: shared_labels,
    group: grouped_labels,
    sort: shared_labels,
    by_blocks: lines_of,
    first_and_last: lambda of: {dim for dim, size in of.sizes.items() if size},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cells")
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return open_cohort(folder / "a.zarr")


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_idiom(cohort: Cohort, tmp_path: Path, name: str, idiom: Callable[[xr.Dataset, Path], Names]) -> None:
    dataset = GIVEN[name](cohort)
    meant_of = MEANT.get(idiom, lambda of: set(of.variables))
    meant = meant_of(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = idiom(dataset, tmp_path)
    assert found == meant
    # Of the archive no file was left out: its table of them has no line to draw and no row.
    assert found or name == "quarantine" or meant_of in (shared_labels, grouped_labels)


# Labels that xarray selects by: those of each dim, and those that the entries along it share.
NAMED = [
    *[(name, label) for name in ("images", "annotations", "run", "cells", "positivity", "metrics") for label in (
        "tile", "donor", "marker", "split")],
    *[(name, "channel") for name in ("images", "run", "cells")],
    *[(name, "rule") for name in ("cells", "positivity", "analysis")],
    *[(name, label) for name in ("analysis", "bootstrap") for label in ("run", "donor", "marker", "outcome")],
    *[("metrics", "run"), ("metrics", "group")],
]  # fmt: skip


@pytest.mark.parametrize(("name", "label"), NAMED)
def test_a_label_that_is_not_there_says_which_are_and_which_is_near(cohort: Cohort, name: str, label: str) -> None:
    dataset = GIVEN[name](cohort)
    known = sorted(set(dataset[label].values.tolist()))
    in_order = label == "tile"
    unlike = [*known[0].swapcase(), "x"] if known[0].swapcase() == known[0] else known[0].swapcase()
    wrong, near = "".join(unlike), f"Did you mean {known[0]!r}?"
    for asked in (wrong, [known[0], wrong], np.array([wrong])):
        with pytest.raises(KeyError) as told:
            dataset.sel({label: asked})
        assert isinstance(told.value, UnknownNameError)
        assert str(told.value).startswith(f"no {label} {wrong!r}; known: {', '.join(known)}.")
        assert near in str(told.value)
    with pytest.raises(KeyError, match=f"no {label} 'nonsense'; known: "):
        dataset.sel({label: slice(known[0], "nonsense")} if in_order else {label: "nonsense"})


def test_all_labels_of_all_datasets_are_tried(cohort: Cohort) -> None:
    for name, given in GIVEN.items():
        dataset = given(cohort)
        texts = {label for label in dataset.xindexes if dataset[label].dtype.kind in "OU"}
        assert texts == {label for of, label in NAMED if of == name}, name


def test_a_table_of_ones_own_meets_named_labels_in_any_order(cohort: Cohort) -> None:
    found = cohort.analysis()
    donors = found.donor.values.tolist()
    table = pd.DataFrame({"age": [70.0, 80.0]}, index=pd.Index([donors[3], donors[0]], name="donor"))
    joined = found.merge(table.to_xarray(), join="left")
    assert joined.age.to_series().equals(table.age.reindex(pd.Index(donors, name="donor")))
    assert (found.ratio * table.age.to_xarray()).sel(donor=donors[0], run="a", marker="GFAP") == (
        found.ratio.sel(donor=donors[0], run="a", marker="GFAP") * 80
    )
    with pytest.raises(KeyError, match=f"no donor 'nobody'; known: {donors[0]}"):
        joined.isel(donor=[0, 1]).sel(donor="nobody")
    images = cohort.images()
    gain = xr.DataArray([10, 1], {"channel": images.channel.values[::-1]}, "channel")
    assert (images.image * gain).sel(channel="DAPI").equals(images.image.sel(channel="DAPI") * 1)


def test_what_xarray_refuses_on_labels_of_one_index_says_what_to_do(cohort: Cohort) -> None:
    images = cohort.images()
    with pytest.raises(ValueError, match=r"take \.drop_attrs\(deep=False\)"):
        images.drop_attrs()
    assert not images.drop_attrs(deep=False).attrs
    own = pd.Series(np.arange(7.0), pd.Index(images.tile.values[::-1], name="tile"), name="score").to_xarray()
    with pytest.raises(ValueError, match=r"\.reindex\(tile=dataset\.tile\.values\)"):
        images.assign(score=own)
    there = images.assign(score=own.reindex(tile=images.tile.values))
    assert there.score.values.tolist() == list(range(6, -1, -1))
    assert there.sel(donor="02517043").score.values.tolist() == [6, 5]


def test_what_is_stored_does_not_change_when_it_is_read_and_written_again(cohort: Cohort) -> None:
    was = cohort.analysis()
    cohort.write("again", was)
    now = cohort.read("again")
    own = {"complete", "schema", "schema_version", "coordinates"}
    assert {k: v for k, v in now.attrs.items() if k not in own} == {k: v for k, v in was.attrs.items() if k not in own}
    assert isinstance(now.attrs["rules"], Record)
    assert now.attrs["rules"]["a"] == was.attrs["rules"]["a"]
    xr.testing.assert_equal(now, was)


def test_text_of_many_entries_is_not_padded() -> None:
    assert plain_text(np.array(["GFAP", "x"], np.dtypes.StringDType())).dtype == np.dtype("U4")
    long = np.array(["a" * 40_000, *["b"] * 1000], np.dtypes.StringDType())
    assert plain_text(long).dtype == np.dtype(object)


def test_annotations_have_the_labels_of_their_tiles_and_meet_a_run(cohort: Cohort) -> None:
    some = [1, 2, 5]
    truth, run = cohort.annotations().isel(tile=some), cohort.run("a")
    ids, donors = truth.tile.values.tolist(), truth.donor.values.tolist()
    assert 0 < len(ids) < run.sizes["tile"]
    assert [str(run.donor.sel(tile=one).values) for one in ids] == donors
    assert truth.sel(donor=donors[0]).tile.values.tolist() == [
        t for t, d in zip(ids, donors, strict=True) if d == donors[0]
    ]
    both = xr.align(run.mask, truth.mask, join="inner")
    assert [one.tile.values.tolist() for one in both] == [ids, ids]
    shared = ((run.mask > 0) & (truth.mask > 0)).sum(["y", "x"]).values.tolist()
    stored = cohort.run("a", lazy=False).mask.values, cohort.annotations(lazy=False).mask.values[some]
    at = [run.tile.values.tolist().index(one) for one in ids]
    assert shared == ((stored[0][at] > 0) & (stored[1] > 0)).sum((1, 2)).tolist()


def test_columns_alone_come_in_the_rows_that_are_stored_together_and_beside_pixels_uncut() -> None:
    rows = ROWS_PER_CHUNK + 1
    columns = xr.Dataset({"a": ("tile", np.arange(rows)), "b": (("tile", "feature"), np.zeros((rows, 2)))})
    assert in_blocks(columns).chunksizes == {"tile": (ROWS_PER_CHUNK, 1), "feature": (2,)}
    beside = in_blocks(columns.assign(mask=(("tile", "y", "x"), np.zeros((rows, 1, 1), "u4"))))
    assert beside.mask.chunks == ((1,) * rows, (1,), (1,))
    assert beside.a.chunks is None
    assert beside.b.chunks is None


def test_variables_come_in_the_order_of_the_schema_whatever_that_of_the_folder(cohort: Cohort) -> None:
    assert list(cohort.images().sizes) == ["tile", "channel", "y", "x"]
    for found, schema in ((cohort.run("a"), cohort.run_product("a").run), (cohort.analysis(), ANALYSIS)):
        declared = [name for name in (*schema.coords, *schema.variables) if name in found.data_vars]
        assert list(found.data_vars) == [*declared, *sorted(set(found.data_vars) - set(declared))]
