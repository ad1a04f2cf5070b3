"""From a cohort of volumes to a leaderboard: embed, probe, fine-tune, score, write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from labelled_volumes import CLASSES, make_volumes, participants, write_labels
from sklearn.metrics import balanced_accuracy_score
from volume_weights import learned_state

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError, SplitError
from fintune_xr.metrics.classification.units import softmax
from fintune_xr.pipelines.classification.evaluate import MAJORITY
from fintune_xr.pipelines.classification.leaderboard import leaderboard
from fintune_xr.pipelines.classification.pretraining import pretraining_lines
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate, score_lines, score_table
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.probe import probe
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.split import split_column

PEOPLE = participants()
HEADS = ["model.heads=3"]
QUICK = ["c=0.01,1", "inner_folds=2"]
TUNED = ["encoder.heads=3", "epochs=2", "unfreeze_at_epoch=1", "batch_size=8", "warmup_epochs=0", "learning_rate=1e-2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, the weights of an encoder, and a classifier made of it; all runs in the store."""
    where = tmp_path_factory.mktemp("oct")
    store = where / "oct.zarr"
    make_volumes(store, PEOPLE)
    torch.save({"model_state_dict": {f"context_encoder.{k}": v for k, v in learned_state().items()}}, where / "w.pt")
    infer(store, run="enc", model=str(where / "w.pt"), overrides=HEADS)
    infer(store, run="profile", model="volume_profile")
    probe(store, runs=["enc", "profile"], overrides=QUICK, out=where / "models")
    train(store, run_name="tuned", model=str(where / "w.pt"), out=where / "models", overrides=TUNED)
    infer(store, run="tuned", model=str(where / "models" / "tuned"))
    return where


def test_training_takes_stored_embeddings(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    read: list[str] = []
    original = zarr.Array.__getitem__

    def counting(self: Any, key: Any) -> Any:
        read.append(self.path.strip("/"))
        return original(self, key)

    monkeypatch.setattr(zarr.Array, "__getitem__", counting)
    told = ["encoder.heads=3", "epochs=2", "batch_size=8"]
    train(done / "oct.zarr", run_name="rest", model=str(done / "w.pt"), out=tmp_path, overrides=told)
    assert "are those of run enc" in capsys.readouterr().err
    assert f"{n.IMAGES}/{n.IMAGE}" not in read
    # With another normalisation or precision they are others, and volumes are read.
    for other in ("encoder.normalisation=percentile_gamma", "precision=bfloat16"):
        read.clear()
        name = other.partition("=")[2]
        train(done / "oct.zarr", run_name=name, model=str(done / "w.pt"), out=tmp_path, overrides=[*told, other])
        assert f"{n.IMAGES}/{n.IMAGE}" in read, other


def test_a_fine_tuned_classifier_stores_embeddings_and_logits(done: Path) -> None:
    found = open_cohort(done / "oct.zarr").run("tuned", lazy=False).load()
    assert found[n.LOGITS].shape == (len(PEOPLE) * 2, 4)
    assert found[n.EMBEDDING].shape == (len(PEOPLE) * 2, 24)
    assert found[n.CLASS].values.tolist() == list(CLASSES)
    record = json.loads((done / "models" / "tuned" / "training.json").read_text())
    scores = evaluate(done / "oct.zarr", runs=["tuned"], split="val", resamples=20)
    val = float(scores[n.BALANCED_ACCURACY].sel({n.RUN: "tuned"}))
    assert val == pytest.approx(record["best_val_balanced_accuracy"])


BESIDE = {
    "head.pt", "class_to_idx.json", "config.yaml", "val_preds.parquet", "confusion_val.png", "manifest.tsv",
    "environment.txt", "record.json",
}  # fmt: skip


@pytest.mark.parametrize(("run", "further"), [("tuned", {"best.ckpt", "log.tsv"}), ("enc-logistic", set())])
def test_what_is_needed_lies_beside_each_training_and_probe(done: Path, run: str, further: set[str]) -> None:
    folder, store = done / "models" / run, open_cohort(done / "oct.zarr")
    assert {file.name for file in folder.iterdir()} >= BESIDE | further
    assert json.loads((folder / "class_to_idx.json").read_text()) == {name: at for at, name in enumerate(CLASSES)}
    preds = pd.read_parquet(folder / "val_preds.parquet")
    assert list(preds.columns[:4]) == ["pid", "y_true", "y_pred", "logits"]
    assert dict(zip(preds["pid"], preds["y_true"], strict=True)) == {
        who: label for who, (label, part) in PEOPLE.items() if part == n.VAL
    }
    scores = evaluate(store.url, runs=[run], split=n.VAL, resamples=0)
    told = float(scores[n.BALANCED_ACCURACY].sel({n.RUN: run}))
    assert balanced_accuracy_score(preds["y_true"], preds["y_pred"]) == pytest.approx(told)
    manifest = pd.read_csv(folder / "manifest.tsv", sep="\t", dtype=str)
    assert {row.participant: row.split for row in manifest.itertuples()} == {
        who: part for who, (_, part) in PEOPLE.items()
    }
    record = json.loads((folder / "record.json").read_text())
    assert record[n.SPLIT_DIGEST] == split_column(store).attrs[n.DIGEST]
    assert {"git_revision", "created", "packages"} <= set(record)
    assert "seed" in (folder / "config.yaml").read_text()
    assert any(line.startswith("torch==") for line in (folder / "environment.txt").read_text().splitlines())
    head = torch.load(folder / "head.pt", weights_only=True)
    assert head["classes"] == list(CLASSES)
    if further:
        assert (folder / "best.ckpt").read_bytes() == (folder / "model.pt").read_bytes()


def test_what_a_kill_kept_from_being_written_beside_is_written_by_the_same_command(done: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(done / "models", models)
    before = {}
    for run in ("tuned", "enc-logistic"):
        before[run] = (models / run / "val_preds.parquet").read_bytes()
        for name in ("record.json", "val_preds.parquet", "head.pt"):
            (models / run / name).unlink()
    probe(done / "oct.zarr", runs=["enc"], overrides=QUICK, out=models)
    train(done / "oct.zarr", run_name="tuned", model=str(done / "w.pt"), out=models, overrides=TUNED)
    for run, content in before.items():
        assert (models / run / "val_preds.parquet").read_bytes() == content
        assert (models / run / "head.pt").is_file()
        assert (models / run / "record.json").is_file()


def test_scores_for_people(done: Path) -> None:
    scores = evaluate(done / "oct.zarr", resamples=50)
    table = score_table(scores)
    assert set(table[n.RUN]) == {"enc-logistic", "profile-logistic", "tuned", MAJORITY}
    assert score_lines(scores)[0].startswith("Participants: healthy 5, pre_diabetes 5")
    assert any("fewer than 24 participants such intervals are too narrow" in line for line in score_lines(scores))
    assert not any("too narrow" in line for line in score_lines(scores.assign({n.CONFUSION: scores[n.CONFUSION] * 5})))


def test_whom_pretraining_has_seen_is_named_where_it_is_told(done: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(done / "oct.zarr", tmp_path / "oct.zarr"))
    assert ["is not known" in line for line in pretraining_lines(open_cohort(store), n.TEST)] == [True]
    seen = tmp_path / "seen.tsv"
    seen.write_text("participant_id\tage\nt001\t60\nr001\t61\nt203\t\nsomebody\n")
    told = [*HEADS, f"model.seen={seen}"]
    infer(store, run="told", model=str(done / "w.pt"), overrides=told, parts=[n.VAL])
    lines = pretraining_lines(open_cohort(store), n.TEST)
    for run in ("told", "enc", "tuned"):
        said = f"The pretraining of {run} has seen images, though no labels, of 2 of the 20 participants of part test: "
        assert said + "t001, t203." in lines, "runs of the same weights, and what began with them, are told, too"
    assert any(
        "told has seen no image of the 16 participants of part val" in one
        for one in pretraining_lines(open_cohort(store), n.VAL)
    )
    # It makes no other run of it.
    infer(store, run="told", model=str(done / "w.pt"), overrides=HEADS, parts=[n.TEST])
    seen.write_text("participant_id\n")
    for wrong in (seen, tmp_path / "gone.tsv"):
        with pytest.raises(SettingsError, match="seen: "):
            infer(store, run="x", model=str(done / "w.pt"), overrides=[*HEADS, f"model.seen={wrong}"])
    assert "t001, t203" in export(store, to="leaderboard", out=tmp_path / "b")[1].read_text()


def test_the_leaderboard_is_written(done: Path, tmp_path: Path) -> None:
    made = export(done / "oct.zarr", to="leaderboard", out=tmp_path)
    assert {path.name for path in made} >= {
        "leaderboard.csv",
        "leaderboard.md",
        "leaderboard.png",
        "confusion_tuned.png",
    }
    assert all(path.stat().st_size > 500 for path in made)
    table = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False)
    assert table["rank"].is_monotonic_increasing
    assert dict(zip(table["run"], table["mode"], strict=True)) == {
        "enc-logistic": "logistic", "profile-logistic": "logistic", "tuned": "fine-tuned", MAJORITY: "majority class",
    }  # fmt: skip
    assert dict(zip(table["run"], table["encoder"], strict=True))["enc-logistic"] == "enc"
    scores = open_cohort(done / "oct.zarr").metrics("test")
    for row in table.itertuples():
        stored = float(scores[n.BALANCED_ACCURACY].sel({n.RUN: row.run}))
        assert float(table.loc[row.Index, "test balanced_accuracy"]) == pytest.approx(stored)
    # The best floor differs from itself by nothing.
    floors = table[table["run"].isin(["profile-logistic", MAJORITY])]
    assert float(floors["test difference to floor"].astype(float).max()) == 0
    assert (tmp_path / "leaderboard.md").read_text().count("\n| ") == len(table) + 1


def test_artefacts_can_be_judged_again(done: Path, tmp_path: Path) -> None:
    export(done / "oct.zarr", to="artefacts", out=tmp_path)
    scores = open_cohort(done / "oct.zarr").metrics("test")
    for run in ("enc-logistic", "tuned"):
        folder = tmp_path / run
        assert {path.name for path in folder.iterdir()} >= {
            "head.pt", "class_to_idx.json", "config.yaml", "val_preds.parquet", "test_preds.parquet",
            "confusion_val.png", "manifest.tsv", "environment.txt", "record.json",
        }  # fmt: skip
        found = pd.read_parquet(folder / "test_preds.parquet")
        assert len(found) == 20
        again = balanced_accuracy_score(found["y_true"], np.stack(found["logits"].to_list()).argmax(1))
        assert again == pytest.approx(float(scores[n.BALANCED_ACCURACY].sel({n.RUN: run})))
        np.testing.assert_array_equal(found["y_pred"], np.stack(found["logits"].to_list()).argmax(1))
        one = found.iloc[0]
        mean = np.mean([softmax(scan["logits"]) for scan in one["scans"]], axis=0)
        np.testing.assert_allclose(np.exp(one["logits"]), mean, rtol=1e-5)
    assert json.loads((tmp_path / "tuned" / "class_to_idx.json").read_text()) == {c: i for i, c in enumerate(CLASSES)}
    rows = pd.read_csv(tmp_path / "tuned" / "manifest.tsv", sep="\t", dtype=str)
    stored = split_column(open_cohort(done / "oct.zarr")).attrs[n.DIGEST]
    assert split_digest(dict(zip(rows["tile"], rows["split"], strict=True))) == stored
    assert "torch==" in (tmp_path / "tuned" / "environment.txt").read_text()
    assert (tmp_path / "tuned" / "best.ckpt").read_bytes() == (done / "models" / "tuned" / "model.pt").read_bytes()
    head = torch.load(tmp_path / "enc-logistic" / "head.pt", weights_only=True)
    assert head["state"]["weight"].shape == (4, 24)


def test_a_classifier_that_has_seen_the_test_part_is_refused(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "oct.zarr", tmp_path / "oct.zarr")
    cohort = open_cohort(tmp_path / "oct.zarr")
    column = split_column(cohort)
    parts = np.array(column[:])
    swapped = np.where(parts == n.TRAIN, n.TEST, np.where(parts == n.TEST, n.TRAIN, parts))
    column[:] = swapped.astype(np.dtypes.StringDType())
    tiles = cohort.images(lazy=False)[n.TILE].values
    column.attrs[n.DIGEST] = split_digest({str(t): str(p) for t, p in zip(tiles, swapped, strict=True)})
    for run in ("tuned", "enc-logistic"):
        with pytest.raises(SplitError, match="has seen in training"):
            evaluate(tmp_path / "oct.zarr", runs=[run])


def test_leaderboard_of_chosen_runs(done: Path) -> None:
    table = leaderboard(open_cohort(done / "oct.zarr"), ["tuned"])
    assert sorted(table["run"]) == sorted([MAJORITY, "tuned"])


def test_classes_that_are_asked_for_are_those_of_the_labels(done: Path, tmp_path: Path) -> None:
    told = {"run_name": "other", "model": str(done / "w.pt"), "out": tmp_path}
    with pytest.raises(SettingsError, match=r"those of the labels, 0 healthy, 1 pre_diabetes, .*, got 0 a, 1 b"):
        train(done / "oct.zarr", **told, overrides=["encoder.heads=3", "classes=[a,b]"])


@pytest.mark.parametrize("classes", [("healthy", "diabetes"), (CLASSES[1], CLASSES[0], *CLASSES[2:])])
def test_classes_of_a_head_are_held_against_the_labels(done: Path, tmp_path: Path, classes: tuple[str, ...]) -> None:
    store = Path(shutil.copytree(done / "oct.zarr", tmp_path / "oct.zarr"))
    label_of = {f"{who}/{scan}": label for who, (label, _) in PEOPLE.items() for scan in range(2)}
    write_labels(open_cohort(store), {tile: min(one, len(classes) - 1) for tile, one in label_of.items()}, classes)
    both = f"0 healthy, 1 pre_diabetes, .* apart, and participants of .* are 0 {classes[0]}, 1 {classes[1]}"
    told = {"run": "new", "model": str(done / "models" / "tuned")}
    for refuses in (
        lambda: infer(store, **told),
        lambda: plan_run(store, **told),
        lambda: evaluate(store, runs=["tuned"], split=n.TEST),
    ):
        with pytest.raises(FintuneValueError, match=both):
            refuses()
    assert "new" not in open_cohort(store).run_names()
    assert any(problem.where == f"{n.RUNS}/tuned" and "tells 0 healthy" in problem.what for problem in check(store))
    # An encoder tells no classes apart, and a cohort without labels says nothing against any.
    infer(store, run="encoder", model=str(done / "w.pt"), overrides=HEADS)
    shutil.rmtree(store / n.ANNOTATIONS)
    assert infer(store, **told).n_new
