"""The gating study on a small cohort: every stored number against a slow version that gates the pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.kernels.thresholds import nuclei_in_instances
from fintune_xr.analysis.positivity.counting import apply_rules
from fintune_xr.analysis.positivity.rules import OtsuRule
from fintune_xr.analysis.report.contents import Note, Stale
from fintune_xr.analysis.report.studies.gate import AP50, gate_study
from fintune_xr.errors import UnknownNameError
from fintune_xr.metrics.instance import match_masks
from fintune_xr.pipelines.report.stored_studies import stored_studies
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.associate import associate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import gate as gate_module
from fintune_xr.pipelines.studies.gate import gate
from fintune_xr.pixels.cell_gates import Gate, GateSettings
from fintune_xr.pixels.cell_measurement import renumber
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.text import texts

SMALL = CohortSettings(
    n_donors=5,
    markers=("GFAP", "IBA1"),
    tiles_per_donor=(1, 2),
    tile_px=160,
    n_annotated=10,
    n_clinical_only=0,
    damaged=False,
    seed=11,
)
GRID = ("q_ranges=[[0,100],[5,95]]", "min_areas=[0,60]")
GATES = GateSettings(q_ranges=((0.0, 100.0), (5.0, 95.0)), min_areas=(0, 60)).gates


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    path = folder / "cohort.zarr"
    ingest(made.source, path)
    annotate(made.annotations, path)
    split(path, fractions=(0.4, 0.2, 0.4), seed=1)
    infer(path, run="cells", model="threshold")
    infer(path, run="marker", model="threshold", overrides=("model.channel=marker",))
    associate(path, clinical=made.clinical, outcomes=("nft",), runs=("cells",))
    return path


@pytest.fixture(scope="module")
def gated(store: Path) -> xr.Dataset:
    gate(store, run="cells", overrides=GRID, resamples=50, seed=3)
    return open_cohort(store).metrics(f"{n.GATE_PREFIX}cells")


def slow_kept(cohort: Cohort, run: str, tile: int, one: Gate) -> np.ndarray:
    """Labels that stay in a tile, one instance at a time."""
    cells = cohort.cells(run, lazy=False)
    here = cells.isel({n.CELL: cells[n.TILE_INDEX].values == tile})
    intensity = here[n.MEAN_INTENSITY].sel({n.CHANNEL: n.MARKER_CHANNEL}).values.astype(np.float64)
    low, high = (np.percentile(intensity, q) for q in (one.q_lo, one.q_hi))
    rows = zip(here[n.LABEL].values, intensity, here[n.AREA_PX].values, strict=True)
    return np.array([label for label, mean, area in rows if low <= mean <= high and area >= one.min_area], int)


def slow_mask(cohort: Cohort, run: str, tile: int, one: Gate) -> np.ndarray:
    mask = cohort.run(run)[n.MASK].isel({n.TILE: tile}).values
    return renumber(np.where(np.isin(mask, slow_kept(cohort, run, tile, one)), mask, 0)).mask


def test_counts_are_those_of_matching_gated_masks(store: Path, gated: xr.Dataset) -> None:
    cohort = open_cohort(store)
    places = texts(cohort.images()[n.TILE])
    truth = cohort.annotations()[n.MASK]
    for one in GATES:
        for tile in texts(gated[n.TILE]):
            slow = match_masks(truth.sel({n.TILE: tile}).values, slow_mask(cohort, "cells", places.index(tile), one))
            found = gated.sel({n.SETTING: one.name, n.TILE: tile})
            for name in (n.TP, n.FP, n.FN):
                assert np.array_equal(found[name], getattr(slow, name))


def test_an_annotated_tile_in_quarantine_is_not_scored_and_named(
    store: Path, gated: xr.Dataset, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "c.zarr")
    cohort = open_cohort(tmp_path / "c.zarr")
    lost, *others = texts(gated[n.TILE])
    state = open_column(cohort.location, f"{n.RUNS}/cells/{n.STATE}")
    state[texts(cohort.images()[n.TILE]).index(lost)] = n.QUARANTINED
    positivity(cohort.url, run="cells")
    found = gate(cohort.url, run="cells", overrides=GRID, resamples=5)
    assert found.attrs[n.LEFT_OUT] == {"cells": [lost]}
    assert texts(found[n.TILE]) == others
    np.testing.assert_array_equal(found[n.TP], gated[n.TP].sel({n.TILE: others}))
    told = [part.text for part in gate_study(found).more if isinstance(part, Note)]
    assert f"run cells has 1 annotated tile(s) in quarantine: {lost}" in told


def test_settings_carry_their_numbers(gated: xr.Dataset) -> None:
    stored = zip(gated[n.Q_LO].values, gated[n.Q_HI].values, gated[n.MIN_AREA].values, strict=True)
    assert [Gate(float(low), float(high), int(area)) for low, high, area in stored] == list(GATES)
    assert texts(gated[n.SETTING]) == [one.name for one in GATES]


def test_what_is_stored_says_over_which_tests_q_was_adjusted_and_what_everything_means(gated: xr.Dataset) -> None:
    assert list(gated[n.Q].attrs["family"]) == [n.RUN, n.MARKER, n.OUTCOME]
    assert "adjusted over all gates" in gate_study(gated).text
    assert [
        name for name in (n.RATIO, n.Q, n.N_KEPT, n.TP, n.RANK_AGREEMENT) if not gated[name].attrs["long_name"]
    ] == []


def test_without_a_gate_everything_is_what_was_stored_before(store: Path, gated: xr.Dataset) -> None:
    cohort = open_cohort(store)
    ungated = gated.isel({n.SETTING: 0})
    analysis = cohort.analysis().sel({n.RUN: "cells"})
    for name in (n.RATIO, n.N_POSITIVE, n.N_ALL, n.N_TILES, n.RHO, n.P, n.Q, n.N):
        np.testing.assert_allclose(ungated[name], analysis[name], err_msg=name)
    assert int(ungated[n.N_KEPT]) == int(cohort.run("cells")[n.N_CELLS].sum())
    defined = np.isfinite(ungated[n.RANK_AGREEMENT])
    assert defined.any()
    np.testing.assert_allclose(ungated[n.RANK_AGREEMENT].values[defined.values], 1)


def test_ratios_come_from_the_rule_on_cells_that_stay(store: Path, gated: xr.Dataset) -> None:
    cohort = open_cohort(store)
    cells, tiles = cohort.cells("cells", lazy=False), cohort.run("cells", lazy=False).load()
    for one in GATES:
        kept = [slow_kept(cohort, "cells", tile, one) for tile in range(tiles.sizes[n.TILE])]
        pairs = zip(cells[n.TILE_INDEX].values, cells[n.LABEL].values, strict=True)
        rows = [i for i, (tile, label) in enumerate(pairs) if label in kept[tile]]
        fewer = tiles.assign({n.N_CELLS: (n.TILE, np.array([len(labels) for labels in kept], np.int32))})
        staying = cells.isel({n.CELL: rows}).load()
        counts = apply_rules(lambda kept=staying: [kept], fewer, rules=[OtsuRule()]).isel({n.RULE: 0})
        found = gated.sel({n.SETTING: one.name})
        assert int(found[n.N_KEPT]) == len(rows)
        for donor in texts(gated[n.DONOR]):
            for marker in texts(gated[n.MARKER]):
                here = (tiles[n.DONOR].values == donor) & (tiles[n.MARKER].values == marker)
                at = found.sel({n.DONOR: donor, n.MARKER: marker})
                assert int(at[n.N_POSITIVE]) == counts[n.N_POSITIVE].values[here].sum()
                assert int(at[n.N_ALL]) == counts[n.N_ALL].values[here].sum()


def test_detected_instances_that_stay_are_counted_with_their_nuclei(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cohort.zarr"
    shutil.copytree(store, copy)
    positivity(copy, run="marker", rule="detected", nuclei_run="cells")
    found = gate(copy, run="marker", overrides=GRID, resamples=10)
    cohort = open_cohort(copy)
    tiles, nuclei = cohort.run("marker").load(), cohort.run("cells")[n.MASK].load()
    for one in GATES:
        masks = np.stack([slow_mask(cohort, "marker", i, one) for i in range(tiles.sizes[n.TILE])])
        n_all, n_positive, _ = nuclei_in_instances(masks, nuclei.values).T
        at = found.sel({n.SETTING: one.name})
        assert int(at[n.N_ALL].sum()) == n_all.sum()
        assert int(at[n.N_POSITIVE].sum()) == n_positive.sum()
    assert found.attrs[n.RULE] == "detected"


def test_scores_have_differences_to_no_gate_and_no_intervals_of_two_donors(gated: xr.Dataset) -> None:
    name = f"{n.AVERAGE_PRECISION}_{n.IMAGE_MEAN}"
    at = gated.sel({n.GROUP: "all"})
    change = at[name].sel({n.THRESHOLD: 0.5}) - at[name].sel({n.THRESHOLD: 0.5}).isel({n.SETTING: 0})
    np.testing.assert_allclose(at[f"{name}_{n.DIFFERENCE}"], change, atol=1e-12)
    low, high = at[f"{name}_{n.INTERVAL}"].sel({n.THRESHOLD: 0.5}).transpose(n.QUANTILE, ...).values
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_blocks_of_tiles_do_not_change_anything(
    store: Path, gated: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "CELLS_AT_ONCE", 7)
    again = gate(store, run="cells", overrides=GRID, resamples=50, seed=3)
    for name in (n.N_KEPT, n.RATIO, n.TP):
        np.testing.assert_array_equal(again[name], gated[name])


def test_runs_that_are_not_there_and_parts_without_tiles_are_named(store: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no run 'cell'.*Did you mean 'cells'"):
        gate(store, run="cell")
    with pytest.raises(UnknownNameError, match=r"no part of the split 'tset'; .* Did you mean 'test'"):
        gate(store, run="cells", split="tset")


def test_the_report_shows_stored_numbers_and_says_when_they_are_old(
    store: Path, gated: xr.Dataset, tmp_path: Path
) -> None:
    (study,) = stored_studies(open_cohort(store))["gate"]
    assert (study.key, study.name) == ("gate", "cells")
    at = gated.sel({n.GROUP: "all", n.THRESHOLD: 0.5})
    np.testing.assert_array_equal(study.table["f1_pooled"], at["f1_pooled"])
    np.testing.assert_array_equal(study.table["difference_low"], at[f"{AP50}_{n.DIFFERENCE}_{n.INTERVAL}"][..., 0])
    ratios = study.more[0].data
    assert ratios["ratio"].notna().sum() == int(gated[n.RATIO].notnull().sum())
    copy = tmp_path / "cohort.zarr"
    shutil.copytree(store, copy)
    infer(copy, run="cells", model="threshold", overrides=("model.sigma_px=2",), restart=True)
    (old,) = stored_studies(open_cohort(copy))["gate"]
    assert isinstance(old, Stale)
    assert old.reason == "run cells has been made anew"
