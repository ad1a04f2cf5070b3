"""What people do with a dataset in a session works on every dataset that a cohort gives, without a warning."""

from __future__ import annotations

import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort, open_cohort
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


def to_netcdf(dataset: xr.Dataset, place: Path) -> None:
    dataset.to_netcdf(place / "a.nc", engine="scipy")
    assert set(xr.open_dataset(place / "a.nc", engine="scipy").variables) == set(dataset.variables)


def to_zarr(dataset: xr.Dataset, place: Path) -> None:
    shutil.rmtree(place / "a.zarr", ignore_errors=True)
    dataset.to_zarr(place / "a.zarr", zarr_format=3, consolidated=False)
    xr.open_zarr(place / "a.zarr", consolidated=False).load()


def as_text(dataset: xr.Dataset, _: Path) -> None:
    for name, array in dataset.variables.items():
        if array.dtype.kind in "OU":
            assert dataset[name].astype(str).dtype.kind == "U"


def plot(dataset: xr.Dataset, _: Path) -> None:
    for array in dataset.data_vars.values():
        if array.dtype.kind in "fiu" and array.ndim and array.sizes[array.dims[0]] > 1:
            array.isel(dict.fromkeys(array.dims[1:], 0)).plot()
    mpl.pyplot.close("all")


def to_dataframe(dataset: xr.Dataset, _: Path) -> None:
    small = [name for name, array in dataset.data_vars.items() if 0 < array.size < 100_000]
    if small:
        assert len(dataset[small].to_dataframe())


def first_and_last(dataset: xr.Dataset, _: Path) -> None:
    dim = next(iter(dataset.dims))
    assert dataset.isel({dim: slice(0, 1)}).load().sizes[dim] == min(1, dataset.sizes[dim])
    if dataset.sizes[dim]:
        assert dim not in dataset.isel({dim: -1}).sizes


def join(dataset: xr.Dataset, _: Path) -> None:
    dim = next(iter(dataset.dims))
    joined = xr.concat([dataset, dataset], dim, data_vars="minimal", coords="minimal", compat="override")
    assert joined.sizes[dim] == 2 * dataset.sizes[dim]


def travel(dataset: xr.Dataset, _: Path) -> None:
    xr.testing.assert_identical(pickle.loads(pickle.dumps(dataset)).load(), dataset.load())


def look(dataset: xr.Dataset, _: Path) -> None:
    assert "<div" in dataset._repr_html_()
    assert repr(dataset)


def copy(dataset: xr.Dataset, _: Path) -> None:
    assert dataset.copy(deep=True).equals(dataset)


IDIOMS = (to_netcdf, to_zarr, as_text, plot, to_dataframe, first_and_last, join, travel, look, copy)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cells")
    with tarfile.open(DATA / "cells.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return open_cohort(folder / "a.zarr")


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("idiom", IDIOMS, ids=lambda idiom: idiom.__name__)
def test_idiom(cohort: Cohort, tmp_path: Path, name: str, idiom: Callable[[xr.Dataset, Path], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idiom(GIVEN[name](cohort), tmp_path)


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
