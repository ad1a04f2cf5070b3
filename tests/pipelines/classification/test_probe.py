"""Probes on stored embeddings: no pixel is read, and no label outside of train reaches a head."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from labelled_volumes import CLASSES, make_volumes, participants, write_labels
from sklearn.metrics import balanced_accuracy_score

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunBusyError, RunMismatchError, SettingsError
from fintune_xr.metrics.classification.units import softmax
from fintune_xr.pipelines.classification.evaluate import (
    MAJORITY,
    class_lines,
    class_table,
    evaluate_classes,
    ranks_of,
)
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.export import export
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.studies.encoder_benchmark import benchmark_encoders
from fintune_xr.pipelines.studies.probe import overrides_as_lists, probe
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.zarr_io.tile_reader import TileReader

PEOPLE = participants()
CONSTANT = "r001/1"
RANDOM = ["model.width=24", "model.depth=1", "model.heads=3", "model.patch=[2,4,8]", "model.random=3"]
QUICK = ["c=0.01,1", "inner_folds=2", "epochs=3", "hidden=8"]


def request(*runs: str, split: str = n.TEST, resamples: int = 100) -> EvaluateRequest:
    return EvaluateRequest(runs=runs, split=split, resamples=resamples, seed=0)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs of embeddings, in which one scan is constant."""
    where = tmp_path_factory.mktemp("oct") / "oct.zarr"
    make_volumes(where, PEOPLE, constant=CONSTANT)
    infer(where, run="profile", model="volume_profile")
    infer(where, run="random", model="vit3d_random", overrides=RANDOM)
    return where


@pytest.fixture
def store(embedded: Path, tmp_path: Path) -> Path:
    shutil.copytree(embedded, tmp_path / "oct.zarr")
    return tmp_path / "oct.zarr"


def values(cohort: Cohort, run: str) -> tuple[np.ndarray, np.ndarray]:
    found = cohort.run(run, lazy=False)
    return found[n.STATE].values, found[n.LOGITS].values


def test_embeddings_are_stored_and_a_constant_volume_is_quarantined(embedded: Path) -> None:
    cohort = open_cohort(embedded)
    found = cohort.run("random", lazy=False).load()
    assert found[n.EMBEDDING].dims == (n.TILE, n.FEATURE)
    assert found.sizes[n.FEATURE] == 24
    bad = found[n.STATE].values == n.QUARANTINED
    assert found[n.TILE].values[bad].tolist() == [CONSTANT]
    assert found[n.REASON].values[bad].tolist() == ["constant volume"]
    assert np.isnan(found[n.EMBEDDING].values[bad]).all()
    assert np.isfinite(found[n.EMBEDDING].values[~bad]).all()


def test_a_second_infer_and_a_probe_read_no_pixels(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = zarr.Array.__getitem__

    def counting(self: Any, key: Any) -> Any:
        read.append(self.path)
        return original(self, key)

    def refused(self: TileReader, tile: int) -> Any:
        raise AssertionError(f"pixels of tile {tile} were read")

    monkeypatch.setattr(zarr.Array, "__getitem__", counting)
    monkeypatch.setattr(TileReader, "__getitem__", refused)
    infer(store, run="random", model="vit3d_random", overrides=RANDOM)
    probe(store, runs=["random"], overrides=QUICK)
    assert read
    assert f"{n.IMAGES}/{n.IMAGE}" not in {path.strip("/") for path in read}


def test_every_head_is_a_run_with_logits(store: Path) -> None:
    made = probe(store, runs=["profile", "random"], overrides=["head=logistic,linear,mlp,knn", *QUICK])
    cohort = open_cohort(store)
    assert [one.run for one in made][:4] == ["profile-logistic", "profile-linear", "profile-mlp", "profile-knn"]
    assert all(one.is_new for one in made)
    for one in made:
        states, logits = values(cohort, one.run)
        stored = cohort.run(one.source, lazy=False)
        np.testing.assert_array_equal(states, stored[n.STATE].values)
        np.testing.assert_array_equal(np.isfinite(logits).all(1), states == n.DONE)
        assert cohort.run(one.run, lazy=False)[n.CLASS].values.tolist() == list(CLASSES)
        assert list(cohort.run_attrs(one.run)["identity"]["sources"]) == [one.source]
    again = probe(store, runs=["profile", "random"], overrides=["head=logistic,linear,mlp,knn", *QUICK])
    assert not any(one.is_new for one in again)
    assert [one.val_balanced_accuracy for one in again] == [one.val_balanced_accuracy for one in made]


def test_scores_are_those_of_participants(store: Path) -> None:
    probe(store, runs=["profile", "random"], overrides=QUICK)
    cohort = open_cohort(store)
    scores = evaluate_classes(cohort, request())
    assert scores[n.RUN].values.tolist() == ["profile-logistic", "random-logistic", MAJORITY]
    states, _ = values(cohort, "profile-logistic")
    images = cohort.images(lazy=False)
    lost = (states == n.QUARANTINED) & (images[n.SPLIT].values == n.TEST)
    assert scores.attrs[n.LEFT_OUT].get("profile-logistic", []) == images[n.TILE].values[lost].tolist()
    _, logits = values(cohort, "profile-logistic")
    tiles = cohort.run("profile-logistic", lazy=False)[n.TILE].values
    part = cohort.images(lazy=False)[n.SPLIT].values
    of_people: dict[str, list[np.ndarray]] = {}
    for tile, row, where in zip(tiles, logits, part, strict=True):
        if where == n.TEST:
            of_people.setdefault(str(tile).partition("/")[0], []).append(softmax(row))
    predicted = {who: int(np.mean(rows, axis=0).argmax()) for who, rows in of_people.items()}
    truth = {who: int(who[1]) for who in predicted}
    expected = balanced_accuracy_score(list(truth.values()), list(predicted.values()))
    assert float(scores[n.BALANCED_ACCURACY].sel({n.RUN: "profile-logistic"})) == pytest.approx(expected)
    assert float(scores[n.BALANCED_ACCURACY].sel({n.RUN: MAJORITY})) == 0.25
    assert scores["by_group_n_units"].sel(group="eye R").item() == 20
    assert scores["by_unit_confusion"].sel(unit="scan", run="random-logistic").sum().item() == 40
    table = class_table(scores)
    assert table["rank"].tolist() == sorted(table["rank"])
    cohort.write("metrics/test", scores)
    assert cohort.metrics("test").sizes == scores.sizes


def test_equal_encoders_share_a_rank(store: Path) -> None:
    infer(store, run="same", model="vit3d_random", overrides=RANDOM)
    probe(store, runs=["same", "random"], overrides=QUICK)
    ranks = ranks_of(evaluate_classes(open_cohort(store), request("same-logistic", "random-logistic")))
    assert ranks["same-logistic"] == ranks["random-logistic"]


@pytest.mark.parametrize("head", ["logistic", "linear"])
def test_labels_of_val_and_test_do_not_reach_a_head(store: Path, head: str) -> None:
    told = [f"head={head}", *QUICK, "patience=50"]
    probe(store, runs=["random"], overrides=told)
    cohort = open_cohort(store)
    _, before = values(cohort, f"random-{head}")
    chosen = cohort.run_attrs(f"random-{head}")["provenance"]["chosen"]
    images = cohort.images(lazy=False)
    labels = {}
    for tile, part in zip(images[n.TILE].values, images[n.SPLIT].values, strict=True):
        own = int(str(tile)[1])
        labels[str(tile)] = own if part == n.TRAIN else (own + 1) % 4
    write_labels(cohort, labels)
    probe(store, runs=["random"], overrides=told, restart=True)
    _, after = values(cohort, f"random-{head}")
    now = cohort.run_attrs(f"random-{head}")["provenance"]["chosen"]
    if head == "logistic" or chosen["epoch"] == now["epoch"]:
        np.testing.assert_array_equal(before, after)
    assert {key: chosen[key] for key in chosen if key in ("c", "weight_decay", "tried")} == {
        key: now[key] for key in now if key in ("c", "weight_decay", "tried")
    }


def test_folds_are_stored_apart(store: Path) -> None:
    probe(store, runs=["profile", "random"], overrides=["head=logistic,knn", *QUICK, "folds=3"])
    found = open_cohort(store).read("metrics/probe")
    assert found[n.BALANCED_ACCURACY].dims == (n.ENCODER, n.HEAD, n.FOLD)
    assert found[n.BALANCED_ACCURACY].shape == (2, 2, 3)
    np.testing.assert_allclose(found["balanced_accuracy_mean"], found[n.BALANCED_ACCURACY].mean(n.FOLD))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["folds=50"], r"50 folds: class 0 \w+ has \d+ participant\(s\), and each fold needs one"),
        (["class_weights=[1,2]", "head=knn,logistic"], "class_weights: expected 4 numbers, of 0 .*, got 2"),
    ],
)
def test_what_cannot_be_is_told_before_a_head_is_fitted(store: Path, asked: list[str], told: str) -> None:
    with pytest.raises(FintuneValueError, match=told):
        probe(store, runs=["profile"], overrides=[*QUICK, *asked])
    assert open_cohort(store).run_names() == ["profile", "random"]


def test_one_process_fits_a_head_and_one_compares(store: Path, tmp_path: Path) -> None:
    cohort = open_cohort(store)
    with cohort.hold("part-profile-logistic", what="fitting"), pytest.raises(RunBusyError, match="profile-logistic"):
        probe(store, runs=["profile"], overrides=QUICK)
    assert "profile-logistic" not in cohort.run_names()
    with cohort.hold(n.BENCHMARK, what="comparing"), pytest.raises(RunBusyError, match="comparing encoders"):
        benchmark_encoders(store, out=tmp_path, overrides=["models=[vit3d_random]", "random=null"])
    assert cohort.run_names() == ["profile", "random"]


def test_a_class_that_a_part_lacks(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = open_cohort(store)
    images = cohort.images(lazy=False)
    rows = list(zip(map(str, images[n.TILE].values), map(str, images[n.SPLIT].values), strict=True))

    def without(part: str) -> dict[str, int]:
        return {tile: -1 if (own := int(tile[1])) == 3 and where == part else own for tile, where in rows}

    write_labels(cohort, without(n.VAL))
    probe(store, runs=["profile"], overrides=QUICK)
    assert "val has no participant of class 3 insulin_dependent" in capsys.readouterr().err
    write_labels(cohort, without(n.TEST))
    probe(store, runs=["profile"], overrides=QUICK, restart=True)
    scores = evaluate_classes(cohort, request())
    assert np.isnan(scores[n.AUROC].sel({n.CLASS: "insulin_dependent"})).all()
    assert scores[n.BALANCED_ACCURACY].notnull().all()
    write_labels(cohort, without(n.TRAIN))
    with pytest.raises(FintuneValueError, match="no scan of class 3 insulin_dependent"):
        probe(store, runs=["profile"], overrides=QUICK, restart=True)


def quarantine(cohort: Cohort, run: str, tiles: list[str]) -> None:
    """Takes these tiles out of a run as `infer` would have done."""
    group = zarr.open_group(str(cohort.location.path), path=f"runs/{run}", mode="r+")
    rows = [at for at, tile in enumerate(group["tile"][:].tolist()) if str(tile) in tiles]
    for name, value in (("state", n.QUARANTINED), ("reason", "constant volume"), ("embedding", np.nan)):
        column = group[name][:]
        column[rows] = value
        group[name][:] = column


def test_scans_without_an_embedding_are_said_to_be_left_out(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = open_cohort(store)
    images = cohort.images(lazy=False)
    part = dict(zip(map(str, images[n.TILE].values), map(str, images[n.SPLIT].values), strict=True))
    train = [tile for tile, where in part.items() if where == n.TRAIN]
    quarantine(cohort, "random", [*train[::3], *(tile for tile, where in part.items() if where == n.VAL)])
    probe(store, runs=["random"], overrides=["head=linear", *QUICK])
    said = capsys.readouterr().err
    lost, n_val = len({*train[::3], CONSTANT} & set(train)), sum(where == n.VAL for where in part.values())
    assert f"{lost} of {len(train)} scans of train are in quarantine of run random" in said
    assert f"{n_val} of {n_val} scans of val are in quarantine" in said
    assert cohort.run_attrs("random-linear")["provenance"]["n_scans"] == {n.TRAIN: len(train) - lost, n.VAL: 0}
    quarantine(cohort, "random", [tile for tile in train if tile[1] == "2"])
    with pytest.raises(
        FintuneValueError, match="no train scan of 2 oral_medication: those there are, are in quarantine"
    ):
        probe(store, runs=["random"], overrides=["head=knn", "k=3"])


def test_an_encoder_that_tells_nothing_apart_is_said_to(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = open_cohort(store)
    probe(store, runs=["random"], overrides=QUICK)
    assert "same embedding" not in capsys.readouterr().err
    column = zarr.open_array(str(cohort.location.path), path="runs/random/embedding", mode="r+")
    rounding = np.random.default_rng(0).normal(scale=1e-8, size=column.shape)
    column[:] = np.float32(0.1) + rounding.astype(np.float32)
    probe(store, runs=["random"], overrides=["head=knn", "k=3"])
    assert "run random has the same embedding for all scans" in capsys.readouterr().err


def test_ranks_of_a_leaderboard_have_intervals_whatever_was_evaluated_before(store: Path, tmp_path: Path) -> None:
    """Scores without resamples rank runs by the score alone; a leaderboard that took them would say otherwise."""
    quarantine(open_cohort(store), "random", ["t000/0", "t000/1"])
    probe(store, runs=["random", "profile"], overrides=QUICK)
    for part in (n.VAL, n.TEST):
        assert "no intervals" in class_lines(evaluate(store, split=part, resamples=0))[0]
    export(store, to="leaderboard", out=tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/leaderboard.csv").set_index("run")
    assert table[[f"{part} {n.BALANCED_ACCURACY} low" for part in (n.VAL, n.TEST)]].notna().all(axis=None)
    told = (tmp_path / "out/leaderboard.md").read_text()
    assert "Part test: run random-logistic has 2 annotated tile(s) in quarantine: t000/0, t000/1" in told


def test_what_is_refused(store: Path) -> None:
    assert overrides_as_lists(["head=logistic,knn", "c=1", "weight_decay=[0,1]", "epochs=3"]) == [
        "head=[logistic,knn]", "c=[1]", "weight_decay=[0,1]", "epochs=3",
    ]  # fmt: skip
    with pytest.raises(SettingsError, match="weight_decay"):
        probe(store, runs=["profile"], overrides=["weight_decay=1e-4,abc"])
    for twice in ("head=logistic,logistic", "weight_decay=1e-4,1e-4", "k=[3,3]", "c=[1,1]"):
        with pytest.raises(SettingsError, match="expected different values"):
            probe(store, runs=["profile"], overrides=[twice])
    assert open_cohort(store).run_names() == ["profile", "random"]
    with pytest.raises(FintuneValueError, match="stores no logits"):
        evaluate_classes(open_cohort(store), request("profile"))
    probe(store, runs=["profile"], overrides=QUICK)
    with pytest.raises(RunMismatchError, match="different: probe"):
        probe(store, runs=["profile"], overrides=["c=5"])
    with pytest.raises(FintuneValueError, match="stores no embedding"):
        probe(store, runs=["profile-logistic"])
