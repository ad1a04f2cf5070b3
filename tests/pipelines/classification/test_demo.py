"""The demo of volumes: everything it leaves, and that its numbers are those of the files beside."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from fintune_xr.errors import FintuneValueError, UnknownNameError
from fintune_xr.pipelines.classification import demo_encoders
from fintune_xr.pipelines.demos import volumes as study
from fintune_xr.pipelines.demos.demo import demo
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.split import split
from fintune_xr.simulation.oct_cohort import StudySettings, simulate_study
from fintune_xr.store.cohort import open_cohort


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of fewer participants and steps than one runs by hand."""
    where = tmp_path_factory.mktemp("demo") / "d"
    with pytest.MonkeyPatch.context() as patch:
        small = StudySettings(n_train=24, n_val=12, n_test=12)
        patch.setattr(study, "simulate_study", lambda to, settings: simulate_study(to, settings=small))
        patch.setattr(study, "TRAINING", {**study.TRAINING, "epochs": 3})
        patch.setattr(demo_encoders, "N_VOLUMES", 24)
        patch.setattr(
            study, "demo_encoder", lambda name, to, seed: demo_encoders.demo_encoder(name, to, seed=seed, n_steps=6)
        )
        demo(where, cohort="oct")
    return where


@pytest.mark.slow
def test_everything_is_left_and_agrees(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "data_errors.csv").open()))
    assert {row["participant_id"] for row in rows} == {"2001", "2002", "2003"}
    leaderboard = pd.read_csv(folder / "leaderboard" / "leaderboard.csv").set_index("run")
    assert {
        "multi-logistic",
        "single-logistic",
        "profile-logistic",
        "random-logistic",
        "multi-ft",
        "majority_class",
    } == set(leaderboard.index)
    for run in ("multi-logistic", "multi-ft"):
        for part in ("val", "test"):
            found = pd.read_parquet(folder / "artefacts" / run / f"{part}_preds.parquet")
            told = leaderboard.loc[run, f"{part} balanced_accuracy"]
            assert balanced_accuracy_score(found["y_true"], found["y_pred"]) == pytest.approx(told)
            assert (np.array(found["logits"].tolist()).argmax(1) == found["y_pred"]).all()
    # Nobody of the last class is in val: no score of it there, and no score that counts it as missed.
    assert set(pd.read_parquet(folder / "artefacts" / "multi-ft" / "val_preds.parquet")["y_true"]) == {0, 1, 2}
    assert leaderboard["val mean_auroc"].notna().all()
    assert {"val_preds.parquet", "class_to_idx.json", "best.ckpt"} <= {
        file.name for file in (folder / "models" / "multi-ft").iterdir()
    }
    classes = json.loads((folder / "artefacts" / "multi-ft" / "class_to_idx.json").read_text())
    assert list(classes) == ["healthy", "pre_diabetes", "oral_medication", "insulin_dependent"]


@pytest.mark.slow
def test_the_report_says_what_must_be_known(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for said in (
        "Nothing here is about diabetes",
        "The first volume of each device",
        "no volume found",
        "retinal_oct FALSE",
    ):
        assert said in page
    assert "not the recommended split" not in page.lower()
    scores = pd.read_csv(folder / "report_tables" / "leaderboard_test.tsv", sep="\t")
    assert (scores["balanced_accuracy_low"] <= scores["balanced_accuracy"]).all(), "numbers, not rounded texts"
    tables = {file.stem for file in (folder / "report_tables").glob("*.tsv")}
    assert {"devices", "study_groups", "leaderboard_test", "leaderboard_val", "f1_test", "by_group"} <= tables


@pytest.mark.slow
def test_the_store_is_sound_until_somebody_edits_it(folder: Path) -> None:
    store = folder / "oct.zarr"
    assert check(store) == []
    cohort = open_cohort(store)
    labels = cohort.annotations(lazy=False).load()
    wrong = labels.copy(deep=True)
    wrong["label"].values[0] = (wrong["label"].values[0] + 1) % 4
    cohort.write("annotations", wrong, cohort.task.annotations)
    assert any("differ from the table of participants" in str(problem) for problem in check(store))
    wrong["label"].values[0] = 9
    cohort.write("annotations", wrong, cohort.task.annotations)
    assert any("a label without a meaning" in str(problem) for problem in check(store))
    cohort.write("annotations", labels, cohort.task.annotations)
    split(store, fractions=(0.4, 0.3, 0.3), force=True)
    from fintune_xr.pipelines.report.report import report

    page = report(store, out=folder / "other.html").read_text()
    assert "This is not the recommended split" in page
    split(store, keep=True)
    assert check(store) == []


def test_a_folder_of_another_demo_and_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / ".fintune-xr-demo").write_text("0")
    with pytest.raises(FintuneValueError, match="holds a demo"):
        demo(tmp_path, cohort="oct")
    with pytest.raises(UnknownNameError, match="cohort for a demo"):
        demo(tmp_path / "x", cohort="em")
