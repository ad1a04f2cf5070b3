"""The cells of a run joined with what is known of their tiles, held against the stored counts and plain pandas."""

from __future__ import annotations

import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.export.tables import write_cells
from fintune_xr.store.labels import cell_table
from fintune_xr.store.labels.cell_table import CellIndex, positive_cells
from fintune_xr.store.labels.group_index import GroupIndex

RUN = "a"
LABELS = [n.TILE, n.DONOR, n.MARKER, n.SPLIT]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cells")
    with tarfile.open(Path(__file__).parents[1] / "data" / "cells.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return open_cohort(folder / "a.zarr")


def test_cells_have_the_labels_of_their_tiles(cohort: Cohort) -> None:
    cells, images = cohort.cells(RUN), cohort.images()
    for name in LABELS:
        assert cells[name].values.tolist() == images[name].values[cells.tile_index.values].tolist()


def test_cells_of_a_donor_are_a_slice_and_a_table(cohort: Cohort) -> None:
    cells = cohort.cells(RUN)
    stored = cohort.cells(RUN, lazy=False).load()
    donors = cohort.images().donor.values
    for donor in np.unique(donors):
        mine = cells.sel(donor=donor)
        rows = np.flatnonzero(donors[stored.tile_index.values] == donor)
        assert mine.label.values.tolist() == stored.label.values[rows].tolist()
        table = mine[[n.AREA_PX, n.LABEL]].to_dataframe()
        assert set(LABELS) <= set(table.index.names)
        assert (table.reset_index().donor == donor).all()
        assert len(table) == rows.size


def test_positivity_answers_for_labels_as_the_images_do(cohort: Cohort) -> None:
    rules, images = cohort.positivity(RUN), cohort.images()
    donor, marker = str(images.donor.values[0]), str(images.marker.values[0])
    chosen = rules.sel(donor=donor, marker=marker)
    expected = np.flatnonzero((images.donor.values == donor) & (images.marker.values == marker))
    assert chosen.tile.values.tolist() == images.tile.values[expected].tolist()
    assert chosen.n_all.values.tolist() == rules.n_all.values[:, expected].tolist()


def test_positive_cells_add_up_to_the_stored_counts(cohort: Cohort) -> None:
    cells, rules = cohort.cells(RUN), cohort.positivity(RUN)
    assert cells.positive.dtype == cells.decided.dtype == bool
    assert rules.sizes[n.RULE] > 0
    for rule in rules.rule.values:
        counts = np.bincount(cells.tile_index[cells.positive.sel(rule=rule).values], minlength=rules.sizes[n.TILE])
        known = rules.n_positive.sel(rule=rule).values >= 0
        assert counts[known].tolist() == rules.n_positive.sel(rule=rule).values[known].tolist()
    assert cells.positive.any()


def test_a_cell_that_no_threshold_decides_is_not_negative() -> None:
    tiles = xr.Dataset({"background": (("tile", "channel"), [[9.0, 10.0], [9.0, np.nan], [9.0, 10.0]])})
    rules = xr.Dataset({"threshold": (("rule", "tile"), [[5.0, 5.0], [np.nan, 5.0]])}, {"rule": ["x", "y"]})
    cells = xr.Dataset({
        "tile_index": ("cell", [0, 0, 1, 2]),
        "mean_intensity": (("cell", "channel"), np.array([[0, 15], [0, 15.5], [0, 99], [0, 99]], np.float32)),
    })  # fmt: skip
    cells, tiles = (one.assign_coords(channel=["DAPI", "marker"]) for one in (cells, tiles))
    found = positive_cells(cells, tiles, rules)
    assert found.positive.sel(rule="x").values.tolist() == [False, True, False, False]
    assert found.decided.sel(rule="x").values.tolist() == [True, True, False, False]
    assert not found.decided.sel(rule="y").any()


def test_the_exported_table_says_which_cells_are_positive(cohort: Cohort, tmp_path: Path) -> None:
    table = pd.read_parquet(write_cells(cohort, RUN, tmp_path / "cells.parquet"))
    cells = cohort.cells(RUN)
    for rule in cells.rule.values:
        column = table[f"positive_{rule}"]
        expected = cells.sel(rule=rule)
        assert column.isna().tolist() == (~expected.decided.values).tolist()
        assert column.fillna(False).tolist() == expected.positive.values.tolist()


def test_an_unknown_donor_is_named(cohort: Cohort) -> None:
    with pytest.raises(UnknownNameError, match="nobody"):
        cohort.cells(RUN).sel(donor="nobody")


def test_other_cells_of_the_same_tiles_are_not_taken_for_these(cohort: Cohort) -> None:
    """Two choices with as many cells of each tile: only their rows tell them apart."""
    cells = cohort.cells("a")
    tile = cells.tile.values
    _, first = np.unique(tile, return_index=True)
    last = [np.flatnonzero(tile == one)[-1] for one in tile[first]]
    assert (first != last).any()
    one, other = cells.isel(cell=first).area_px, cells.isel(cell=last).area_px
    with pytest.raises(xr.AlignmentError):
        xr.align(one, other, join="exact")
    xr.testing.assert_equal(*xr.align(one, cells.isel(cell=first.tolist()).area_px, join="exact"))


def test_images_and_a_run_merge_without_a_warning(cohort: Cohort) -> None:
    images, run = cohort.images(), cohort.run(RUN).isel(tile=slice(1, None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = xr.merge([images, run], join="inner", compat="no_conflicts")
    donor = str(run.donor.values[-1])
    for name, whole in (("image", images), ("n_cells", run)):
        expected = whole.isel(tile=np.isin(whole.tile, run.tile)).sel(donor=donor)[name]
        np.testing.assert_array_equal(both.sel(donor=donor)[name], expected)


def test_labels_travel(cohort: Cohort) -> None:
    cells = cohort.cells(RUN)
    donor = str(cohort.images().donor.values[-1])
    again = pickle.loads(pickle.dumps(cells))
    assert again.sel(donor=donor).sizes == cells.sel(donor=donor).sizes
    part = cells.isel(cell=slice(1, None))
    large = part.where(part.area_px.compute() > 20, drop=True)
    assert (large.sel(donor=donor).donor == donor).all()
    twice = xr.concat([cells, cells], n.CELL, data_vars="minimal", coords="minimal", compat="override")
    assert twice.sel(donor=donor).sizes[n.CELL] == 2 * cells.sel(donor=donor).sizes[n.CELL]


def test_cells_are_chosen_by_a_boolean_for_each(cohort: Cohort) -> None:
    cells = cohort.cells(RUN)
    donor = str(cells.donor.values[-1])
    mine, large = cells.donor == donor, cells.area_px > cells.area_px.mean()
    expected = np.flatnonzero(large.values & mine.values)
    assert 0 < expected.size < mine.values.sum()
    for query in ({"tile": large, "donor": donor}, {"tile": large.values, "donor": mine}, {"donor": mine & large}):
        assert cells.sel(query).cell.values.tolist() == expected.tolist()
    tiles = cohort.images().donor == donor
    assert cells.sel(tile=tiles.variable).cell.values.tolist() == np.flatnonzero(mine).tolist()


def test_booleans_of_another_number_are_refused_by_what_they_must_be_of(cohort: Cohort) -> None:
    cells, images = cohort.cells(RUN), cohort.images()
    n_cells, n_tiles = cells.sizes[n.CELL], images.sizes[n.TILE]
    for many in (n_tiles, n_cells + 1):
        with pytest.raises(FintuneValueError, match=f"donor: expected {n_cells} booleans along cell, .* got {many}\\."):
            cells.sel(donor=np.ones(many, bool))
    with pytest.raises(FintuneValueError, match=f"expected {n_tiles} booleans along tile, .* got {n_cells} along cell"):
        images.sel(donor=(cells.donor == "x").variable)
    other = xr.Variable(("spot",), np.ones(n_tiles, bool))
    with pytest.raises(FintuneValueError, match=f"expected {n_tiles} booleans along tile, .* got {n_tiles} along spot"):
        images.sel(donor=other)


def test_only_the_blocks_of_the_donor_are_read(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_table, "CELLS_PER_BLOCK", 7)
    cells = cohort.cells(RUN)
    few = cells.isel(cell=slice(7, 14))
    assert cells.area_px.chunks[0][0] == 7
    assert few.donor.values.tolist() == cells.donor.values[7:14].tolist()
    assert few.positive.data.npartitions == few.positive.sizes[n.RULE]
    assert np.unique(cells.sel(tile=str(few.tile.values[0])).tile_index).size == 1


@given(st.lists(st.integers(0, 3), max_size=30), st.sets(st.sampled_from(["p", "q"]), min_size=1), st.data())
def test_any_order_of_cells_answers_as_a_mask(rows: list[int], donors: set[str], data: st.DataObject) -> None:
    of_tile = np.array(["p", "q", "p", "q"])
    tiles = GroupIndex("tile", {"tile": np.array(["t0", "t1", "t2", "t3"]), "donor": of_tile})
    index = CellIndex(tiles, xr.Variable(("cell",), np.array(rows, np.int32)))
    coords = xr.Coordinates(index.create_variables(), dict.fromkeys(("cell", "tile", "donor"), index))
    dataset = xr.Dataset({"value": ("cell", np.arange(len(rows)))}, coords)
    part = dataset.isel(cell=slice(data.draw(st.integers(0, 5)), data.draw(st.integers(5, 40))))
    expected = part.value.values[np.isin(part.donor.values.astype(str), list(donors))]
    assert part.sel(donor=sorted(donors)).value.values.tolist() == expected.tolist()
    said = np.array(data.draw(st.lists(st.booleans(), min_size=part.sizes["cell"], max_size=part.sizes["cell"])), bool)
    both = part.value.values[said & np.isin(part.donor.values.astype(str), list(donors))]
    assert part.sel(tile=said, donor=sorted(donors)).value.values.tolist() == both.tolist()
