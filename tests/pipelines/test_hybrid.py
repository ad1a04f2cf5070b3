"""A run made of others, tile by tile."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, UnknownNameError
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.positivity import positivity
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import hybrid as module
from fintune_xr.pipelines.studies.hybrid import AP50, choose_by_marker, hybrid, markers_without_scores
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.text import text_array


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid")
    settings = CohortSettings(
        n_donors=6, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 2), tile_px=96, n_annotated=12, damaged=False, seed=3
    )
    made = simulate_cohort(folder / "raw", settings=settings)
    path = folder / "cohort.zarr"
    ingest(made.source, path)
    annotate(made.annotations, path)
    split(path, fractions=(0.34, 0.33, 0.33))
    infer(path, run="fine", model="threshold", overrides=("positivity=mixture",))
    infer(path, run="coarse", model="threshold", overrides=("model.sigma_px=4", "positivity=mixture"))
    return path


def scores(table: dict[str, dict[str, float]]) -> xr.Dataset:
    """Scores (group, run, threshold) as `evaluate` stores them."""
    groups, runs = list(table), list(next(iter(table.values())))
    values = [[[table[g][r], 0.0] for r in runs] for g in groups]
    coords = {"group": groups, n.RUN: runs, n.THRESHOLD: [0.5, 0.75]}
    return xr.Dataset({AP50: (("group", n.RUN, n.THRESHOLD), values)}, coords=coords)


def test_each_marker_takes_its_best_run_and_a_marker_without_tiles_the_best_of_all() -> None:
    table = {"all": {"a": 0.5, "b": 0.6}, "GFAP": {"a": 0.9, "b": 0.1}, "IBA1": {"a": np.nan, "b": 0.2}}
    assert choose_by_marker(scores(table), ["GFAP", "OLIG2", "IBA1"]) == {"GFAP": "a", "IBA1": "b", "OLIG2": "b"}


def test_only_markers_without_a_scored_tile_are_undecided() -> None:
    """Also where all scored tiles are of one marker, and no group is made for it."""
    scored = scores({"all": {"a": 0.5, "b": 0.6}}).assign_coords({n.MARKER: (n.TILE, ["GFAP", "GFAP"])})
    assert markers_without_scores(scored, ["GFAP"]) == []
    assert markers_without_scores(scored, ["GFAP", "OLIG2"]) == ["OLIG2"]


def test_the_masks_and_cells_are_those_of_the_chosen_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"GFAP": "fine", "IBA1": "coarse"}
    monkeypatch.setattr(module, "choose_by_marker", lambda *_: wanted)
    assert hybrid(store, run_name="both", runs=["fine", "coarse"]) == wanted
    cohort = open_cohort(store)
    markers = text_array(cohort.images()[n.MARKER])
    made, made_cells = cohort.run("both").load(), cohort.cells("both", lazy=False).load()
    for marker, name in wanted.items():
        tiles = np.flatnonzero(markers == marker)
        source, cells = cohort.run(name).load(), cohort.cells(name, lazy=False).load()
        for variable in (n.MASK, n.N_CELLS, n.BACKGROUND):
            np.testing.assert_array_equal(made[variable][tiles], source[variable][tiles])
        here, there = (c.isel({n.CELL: np.isin(c[n.TILE_INDEX], tiles)}) for c in (made_cells, cells))
        assert here.equals(there)
    assert check(store) == []


def test_run_again_with_another_choice_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "choose_by_marker", lambda *_: {"GFAP": "fine", "IBA1": "fine"})
    hybrid(store, run_name="again", runs=["fine", "coarse"])
    monkeypatch.setattr(module, "choose_by_marker", lambda *_: {"GFAP": "coarse", "IBA1": "fine"})
    with pytest.raises(RunMismatchError, match=r"hybrid\.GFAP: stored .fine., now .coarse."):
        hybrid(store, run_name="again", runs=["fine", "coarse"])
    assert "again" in open_cohort(store).run_names()


def active(store: Path, run: str) -> str:
    return str(open_cohort(store).run(run)[n.N_POSITIVE].attrs[n.RULE])


def test_positive_cells_are_counted_as_in_the_chosen_runs(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"GFAP": "fine", "IBA1": "coarse"}
    monkeypatch.setattr(module, "choose_by_marker", lambda *_: wanted)
    hybrid(store, run_name="counted", runs=["fine", "coarse"])
    assert active(store, "counted") == "mixture"
    cohort = open_cohort(store)
    counts = {name: cohort.run(name)[n.N_POSITIVE].values for name in ("fine", "coarse", "counted")}
    source = np.where(text_array(cohort.images()[n.MARKER]) == "GFAP", counts["fine"], counts["coarse"])
    np.testing.assert_array_equal(counts["counted"], source)
    assert counts["counted"].sum() > 0


def test_a_rule_chosen_for_the_hybrid_stays_when_the_command_is_repeated(store: Path) -> None:
    hybrid(store, run_name="kept", runs=["fine", "coarse"])
    positivity(store, run="kept", rule="fixed", threshold=120)
    before = open_cohort(store).run("kept")[n.N_POSITIVE].values
    hybrid(store, run_name="kept", runs=["fine", "coarse"])
    assert active(store, "kept") == "fixed_120"
    np.testing.assert_array_equal(open_cohort(store).run("kept")[n.N_POSITIVE].values, before)


def test_runs_counted_by_different_rules_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(store, tmp_path / "c.zarr")
    monkeypatch.setattr(module, "choose_by_marker", lambda *_: {"GFAP": "fine", "IBA1": "coarse"})
    positivity(copy, run="coarse", rule="detected", nuclei_run="fine")
    said = r"no positivity rule in common \(coarse: detected fine, fine: mixture\).*positivity .*c\.zarr --run coarse"
    with pytest.raises(FintuneValueError, match=said):
        hybrid(copy, run_name="mixed", runs=["fine", "coarse"])
    assert "mixed" not in open_cohort(copy).run_names()
    positivity(copy, run="fine", rule="detected", nuclei_run="fine")
    hybrid(copy, run_name="mixed", runs=["fine", "coarse"])
    assert active(copy, "mixed") == "detected"


def test_a_run_that_is_not_there_is_named(store: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"no run 'fin'; known: .* Did you mean 'fine'"):
        hybrid(store, run_name="no", runs=["fin", "coarse"])


@pytest.mark.parametrize(
    ("runs", "part", "error", "said"),
    [
        (["fine"], "val", FintuneValueError, "two runs or more"),
        (["fine", "fine"], "val", FintuneValueError, "two runs or more"),
        (["fine", "coarse"], "test", UnknownNameError, "no part that chooses a hybrid 'test'; known: train, val"),
        (["fine", "coarse"], "vall", UnknownNameError, "Did you mean 'val'"),
    ],
)
def test_one_candidate_or_the_test_part_is_refused(
    store: Path, runs: list[str], part: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        hybrid(store, run_name="no", runs=runs, part=part)
    assert "no" not in open_cohort(store).run_names()
