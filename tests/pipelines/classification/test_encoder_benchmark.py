"""The whole comparison of encoders, which goes on where it was and makes nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from labelled_volumes import make_volumes, participants
from volume_weights import learned_state

from fintune_xr.errors import CheckpointNotFoundError, SettingsError
from fintune_xr.pipelines.cli import app
from fintune_xr.pipelines.studies import encoder_benchmark
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.store.cohort import open_cohort

COUNTS = {"train": 4, "val": 3, "test": 3}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_volumes(tmp_path / "oct.zarr", participants(COUNTS), scans=1)
    for name, seed in (("multi", 0), ("single", 1)):
        torch.save({"context_encoder": learned_state(seed)}, tmp_path / f"{name}.pt")
    return tmp_path / "oct.zarr"


def told(store: Path, **further: Any) -> dict[str, Any]:
    folder = store.parent
    return {
        "models": [str(folder / "multi.pt"), str(folder / "single.pt")],
        "infer": {"model": {"heads": 3}},
        "probe": {"c": [0.01, 1], "inner_folds": 2, "epochs": 2, "head": ["linear"]},
        "train": {"epochs": 2, "unfreeze_at_epoch": 1, "batch_size": 4},
        "random": {"width": 24, "depth": 1, "heads": 3, "patch": [2, 4, 8]},
        **further,
    }


@pytest.mark.slow
def test_from_weights_to_a_leaderboard(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    found = benchmark(store, out=out, config=told(store))
    runs = open_cohort(store).run_names()
    tuned = [run for run in runs if run.endswith("-ft")]
    assert len(tuned) == 1
    assert tuned[0] in ("multi-ft", "single-ft")
    table = pd.read_csv(out / "leaderboard.csv")
    logistic = table[table["mode"] == "logistic"].set_index("encoder")["val balanced_accuracy"]
    assert tuned[0] == f"{logistic[['multi', 'single']].idxmax()}-ft"
    assert set(table["encoder"]) == {"multi", "single", "vit3d_random", "volume_profile", tuned[0], "none"}
    assert sorted(found["run"].values.tolist()) == sorted(table["run"])

    made: list[str] = []
    summary = encoder_benchmark.infer

    def train(*_: Any, run_name: str, out: Path, **__: Any) -> Path:
        made.append(run_name)
        return out / run_name

    def infer(*given: Any, **settings: Any) -> Any:
        done = summary(*given, **settings)
        assert done.n_new == 0, settings["run"]
        return done

    monkeypatch.setattr(encoder_benchmark, "infer", infer)
    monkeypatch.setattr(encoder_benchmark, "train", train)
    before = (out / "leaderboard.csv").read_bytes()
    benchmark(store, out=out, config=told(store))
    assert made == tuned
    assert (out / "leaderboard.csv").read_bytes() == before


def test_nothing_starts_where_something_is_wrong(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"weight_decay"):
        benchmark(store, config=told(store, probe={"weight_decay": ["abc"]}))
    with pytest.raises(SettingsError, match=r"learning_rat: no such setting.*learning_rate"):
        benchmark(store, config=told(store, train={"learning_rat": 1}))
    multi = store.parent / "multi.pt"
    with pytest.raises(SettingsError, match=r"models: expected different values, got .*multi\.pt"):
        benchmark(store, config=told(store, models=[str(multi)] * 2))
    (tmp_path / "other").mkdir()
    shutil.copy(multi, tmp_path / "other")
    with pytest.raises(SettingsError, match="files of different names, got several multi"):
        benchmark(store, config=told(store, models=[str(multi), str(tmp_path / "other" / "multi.pt")]))
    with pytest.raises(SettingsError, match="no encoder of volumes"):
        benchmark(store, config=told(store, models=["threshold"]))
    with pytest.raises(CheckpointNotFoundError):
        benchmark(store, config=told(store, models=["gone.pt"]))
    assert open_cohort(store).run_names() == []


def test_the_command_says_how_ranks_are_meant(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store.parent
    line = [
        "benchmark", str(store), f"models=[{folder / 'multi.pt'}]", "finetune=none", "random=null",
        "infer.model.heads=3", "probe.c=[0.1]", "probe.head=[logistic]", "--out", str(folder / "out"),
    ]  # fmt: skip
    assert app.run(line) == 0
    said = capsys.readouterr().out
    assert "multi-logistic" in said
    assert "Runs share a rank" in said
