"""The label budget on a tiny cohort: nested fits, stored one by one, the same as by train, infer and evaluate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from budgets import DYNAMICS, QUICK, SMALL

from fintune_xr import names as n
from fintune_xr.analysis import learning_curve as curves
from fintune_xr.analysis.report.studies.budget import budget_study, budget_table, curve_page
from fintune_xr.errors import FintuneValueError, RunMismatchError
from fintune_xr.metrics.counts import AP50
from fintune_xr.models.checkpoints import RECORD_FILE, Checkpoint
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.pipelines.report.stored_studies import stored_studies
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import budget as module
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.simulation.if_cohort import simulate_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.text import texts


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    path = folder / "cohort.zarr"
    ingest(made.source, path)
    annotate(made.annotations, path)
    split(path, fractions=(0.6, 0.2, 0.2), seed=1)
    return path


@pytest.fixture(scope="module")
def done(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with fits of 2 and 4 tiles of one seed, beside its models."""
    folder = tmp_path_factory.mktemp("done")
    shutil.copytree(plain, folder / "cohort.zarr")
    budget(folder / "cohort.zarr", budgets=(4, 2), seeds=1, out=folder / "models", overrides=QUICK)
    return folder


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 4)


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy"


def run(folder: Path, **said: Any) -> xr.Dataset:
    said = {"budgets": (2, 4), "seeds": 1, "overrides": QUICK} | said
    return budget(folder / "cohort.zarr", out=folder / "models", **said)


def stand_in(folder: Path, calls: list[int]) -> Callable[..., Checkpoint]:
    """A training that returns the checkpoint of another one and notes how many tiles it was given."""
    shutil.copytree(folder / "models" / "budget-flow_unet-002-seed0", folder / "ready")
    ready = resolve_checkpoint(folder / "ready")

    def train(tiles: Any, *_: object, **__: object) -> Checkpoint:
        calls.append(len(tiles))
        if len(tiles) == 3:
            raise KeyboardInterrupt
        return ready

    return train


def test_subsets_are_nested_and_hold_the_markers_in_turn(done: Path) -> None:
    records = [
        json.loads((done / "models" / f"budget-flow_unet-00{size}-seed0" / RECORD_FILE).read_text()) for size in (2, 4)
    ]
    small, large = (record["tiles"] for record in records)
    assert large[:2] == small
    assert len(set(large)) == 4
    stored = open_cohort(done / "cohort.zarr").metrics(n.BUDGET)
    assert stored[n.N_TRAIN].sel({n.GROUP: ["all", "GFAP", "IBA1"]}).values.tolist() == [[[2, 1, 1]], [[4, 2, 2]]]


@pytest.mark.slow
def test_scores_are_those_of_infer_and_evaluate(copy: Path) -> None:
    store = copy / "cohort.zarr"
    stored = open_cohort(store).metrics(n.BUDGET).sel({n.BUDGET: 4, n.SEED: 0})
    checkpoint = str(copy / "models" / "budget-flow_unet-004-seed0")
    infer(store, run="four", model=checkpoint, overrides=[f"model.{one}" for one in DYNAMICS])
    slow = evaluate(store, runs=("four",), resamples=5).sel({n.RUN: "four"})
    assert stored[n.FP].sum() + stored[n.TP].sum() > 0
    order = {n.TILE: texts(slow[n.TILE])}
    for name in (n.TP, n.FP, n.FN):
        np.testing.assert_array_equal(stored[name].sel(order), slow[name])
    for group in texts(stored[n.GROUP]):
        np.testing.assert_allclose(stored[AP50].sel({n.GROUP: group}), slow[AP50].sel({n.GROUP: group}))


def test_stored_fits_are_not_made_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module, "fit", stand_in(copy, calls))
    before = open_cohort(copy / "cohort.zarr").metrics(n.BUDGET).load()
    after = run(copy)
    assert calls == []
    xr.testing.assert_equal(before, after)


def test_more_budgets_and_seeds_extend_what_is_stored(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module, "fit", stand_in(copy, calls))
    before = open_cohort(copy / "cohort.zarr").metrics(n.BUDGET).load()
    after = run(copy, budgets=(1, 2), seeds=2)
    assert calls == [1, 1, 2]
    assert after[n.BUDGET].values.tolist() == [1, 2, 4]
    assert after[n.SEED].values.tolist() == [0, 1]
    kept = after.sel({n.BUDGET: [2, 4], n.SEED: [0]})
    for name in (AP50, n.TP, n.N_TRAIN, n.SECONDS, n.CHECKPOINT_SHA256):
        np.testing.assert_array_equal(kept[name].values, before[name].values)
    assert after[n.N_TRAIN].sel({n.BUDGET: 4, n.SEED: 1}).values.tolist() == [-1, -1, -1]
    assert len(budget_table(after)) == 5


def test_a_killed_study_has_stored_what_ended_before(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module, "fit", stand_in(copy, calls))
    with pytest.raises(KeyboardInterrupt):
        run(copy, budgets=(1, 3))
    cohort = open_cohort(copy / "cohort.zarr")
    assert cohort.metrics(n.BUDGET)[n.N_TRAIN].sel({n.GROUP: "all", n.SEED: 0}).values.tolist() == [1, 2, -1, 4]
    (study,) = stored_studies(cohort)["budget"]
    assert "The study is not finished" in study.text
    assert len(study.page) == 3
    assert cohort.metrics(n.BUDGET).attrs[n.UNFINISHED]
    assert n.UNFINISHED not in run(copy, budgets=(1, 2)).attrs
    assert n.UNFINISHED not in cohort.metrics(n.BUDGET).attrs
    assert calls == [1, 3]


def test_fits_of_other_settings_are_not_mixed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunMismatchError, match=r"(?s)settings\.weight_decay: stored 0\.\d+, now 0\.1.*--restart"):
        run(copy, overrides=(*QUICK, "weight_decay=0.1"))
    calls: list[int] = []
    monkeypatch.setattr(module, "fit", stand_in(copy, calls))
    found = run(copy, budgets=(2,), overrides=(*QUICK, "weight_decay=0.1", "seed=0"), skip_existing=False)
    assert calls == [2]
    assert found[n.BUDGET].values.tolist() == [2]


def test_budgets_beyond_the_train_part_are_refused_and_defaults_fit(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(FintuneValueError, match=r"budgets \[2, 99\]: expected 1 to \d+, the annotated tiles"):
        budget(plain, budgets=(2, 99), out=tmp_path)
    with pytest.raises(FintuneValueError, match="seeds: expected 1 or more, got 0"):
        budget(plain, budgets=(2,), seeds=0, out=tmp_path)
    plan = module._plan(open_cohort(plain), model="flow_unet", out=tmp_path, config=None, overrides=())
    sizes = module._sizes(plan, ())
    assert sizes == sorted({min(size, len(plan.learning.train)) for size in (2, 5, 10, 20, 30)})
    assert sizes[-1] == len(plan.learning.train)


def study_of(laws: dict[str, curves.PowerLaw]) -> xr.Dataset:
    """A stored study whose scores follow a curve for each group of tiles."""
    sizes, groups = np.array([2, 6, 12, 24]), list(laws)
    n_train = xr.DataArray(
        np.array([[[size if group == "all" else size // 2 for group in groups]] * 2 for size in sizes]),
        dims=(n.BUDGET, n.SEED, n.GROUP), coords={n.BUDGET: sizes, n.SEED: [0, 1], n.GROUP: groups},
    )  # fmt: skip
    points = [laws[group].at(n_train.sel({n.GROUP: group}, drop=True)) for group in groups]
    score = n_train.astype(float).copy(data=np.stack(points, axis=-1))
    names = budget_table_names()
    made = xr.Dataset({name: score.expand_dims({n.THRESHOLD: [0.5]}, axis=-1) for name in names})
    made = made.assign({n.N_TRAIN: n_train, n.SECONDS: xr.zeros_like(n_train.isel(group=0, drop=True), float)})
    made = made.assign_attrs(provenance={"model": "flow_unet", "val_tiles": ["v"]})
    return made.merge(module._curves(made), combine_attrs="drop_conflicts")


def budget_table_names() -> list[str]:
    return [f"{score}_{way}" for score in ("average_precision", "precision", "recall", "f1")
            for way in (n.IMAGE_MEAN, n.POOLED)]  # fmt: skip


def test_the_report_says_how_many_more_tiles_of_which_marker() -> None:
    slow, fast = curves.PowerLaw(0.9, 0.9, 0.9), curves.PowerLaw(0.7, 0.5, 2.0)
    found = study_of({"all": curves.PowerLaw(0.8, 0.7, 1.2), "GFAP": slow, "IBA1": fast})
    enough = curves.saturation(slow, tolerance=0.01)
    study = budget_study(found)
    assert "AP50 comes within 0.01 of the fitted asymptote with 35 [35, 35] tiles" in study.text
    assert "beyond the 24 tried and so an extrapolation" in study.text
    gain = slow.at(22.0) - slow.at(12.0)
    assert f"More annotations pay most for GFAP: 10 tiles more than the 12 tried would add {gain:.3f}" in study.text
    page = curve_page(found).set_index("tiles of")
    assert page.loc["IBA1", "more tiles"].startswith("0")
    assert page.loc["GFAP", "remark"] == (curves.NOT_LEVELLING if enough > 120 else "")
    assert study.figure is not None
    assert [table.key for table in study.more] == ["budget_spread", "budget_curves"]


def test_gains_too_small_to_matter_are_said_to_be() -> None:
    steep = curves.PowerLaw(0.8, 0.7, 2.5)
    text = budget_study(study_of({"all": steep, "GFAP": steep, "IBA1": steep})).text
    assert "For no marker would 10 tiles more add as much as 0.01 to its AP50." in text


def test_groups_that_do_not_rise_are_not_recommended() -> None:
    flat = curves.PowerLaw(0.5, 0.0, 1.0)
    text = budget_study(study_of({"all": flat, "GFAP": flat, "IBA1": flat})).text
    assert f"No curve could be fitted: {curves.NOT_RISING}." in text
    assert "More annotations" not in text
