"""Trainings on the workers of a profile: the same checkpoints as here, their words heard here, faults told."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from budgets import QUICK, SMALL

from fintune_xr import names as n
from fintune_xr.cluster.profile import load_profile
from fintune_xr.errors import (
    DeviceError,
    RunBusyError,
    SettingsError,
    StoreNotFoundError,
    UnknownNameError,
    WorkerLostError,
)
from fintune_xr.models.checkpoints import WEIGHTS_FILE
from fintune_xr.pipelines.console import heard_by, say
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import cluster_training, train
from fintune_xr.pipelines.studies.budget import budget
from fintune_xr.pipelines.workers import remote_calls as remote
from fintune_xr.pipelines.workers.remote_calls import results_from_workers, settings_there, shared_path
from fintune_xr.simulation.if_cohort import simulate_cohort
from fintune_xr.store.cohort import open_cohort


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    path = folder / "cohort.zarr"
    ingest(made.source, path)
    annotate(made.annotations, path)
    split(path, fractions=(0.6, 0.2, 0.2), seed=1)
    return path


def weights(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / WEIGHTS_FILE, weights_only=True)["state"]
    return state


@pytest.mark.slow
def test_a_training_on_a_worker_is_the_training_here(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = train(store, run_name="a", out=tmp_path / "here", overrides=QUICK)
    capfd.readouterr()
    # Relative paths are those of the person, wherever the worker stands.
    monkeypatch.chdir(tmp_path)
    there = train(store, run_name="a", out="there", overrides=QUICK, cluster="threads")
    assert there == tmp_path / "there" / "a"
    first, second = weights(here), weights(there)
    assert all(torch.equal(first[name], second[name]) for name in first)
    said = capfd.readouterr().err
    assert "validation" in said
    assert "epoch 1: loss" in said


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_fit_of_a_budget_on_a_worker_is_that_made_here(store: Path, tmp_path: Path) -> None:
    found = {}
    for where, more in {"": [], "processes": ["cluster.workers=1"]}.items():
        folder = tmp_path / f"on-{where}"
        shutil.copytree(store, folder / "cohort.zarr")
        said: dict[str, Any] = {"budgets": (1,), "seeds": 1, "out": folder / "models"}
        found[where] = budget(folder / "cohort.zarr", overrides=[*QUICK, *more], cluster=where, **said).load()
    same = [name for name in found[""] if name not in (n.SECONDS, n.CHECKPOINT_SHA256)]
    xr.testing.assert_equal(found[""][same], found["processes"][same])
    assert np.isfinite(found["processes"][n.SECONDS]).all()
    # The device is another name for the same: what was made there is continued here.
    again = budget(folder / "cohort.zarr", overrides=QUICK, **said)
    np.testing.assert_array_equal(again[n.SECONDS], found["processes"][n.SECONDS])


def test_what_is_wrong_is_said_before_there_is_a_worker(store: Path, tmp_path: Path) -> None:
    for wrong, error, said in (
        ({"cluster": "slurm-cqu"}, UnknownNameError, "Did you mean 'slurm-cpu'"),
        ({"overrides": ["cluster.slurm.partiton=x"]}, SettingsError, "Did you mean 'partition'"),
        ({"overrides": ["epoch=3"]}, SettingsError, "Did you mean 'epochs'"),
        ({"overrides": ["device=cuda"]}, DeviceError, "jobs of this profile get no GPU"),
        ({"store": tmp_path / "none.zarr"}, StoreNotFoundError, "none.zarr"),
    ):
        said_here: dict[str, Any] = {"store": store, "cluster": "slurm-cpu", **wrong}
        with pytest.raises(error, match=said):
            train(run_name="a", out=tmp_path, **said_here)


def test_workers_with_gpus_never_train_on_the_cpu_by_chance() -> None:
    gpus, cpus = load_profile("slurm-cuda"), load_profile("slurm-cpu")
    assert settings_there(None, ["epochs=1"], device="auto", profile=gpus) == (None, ["epochs=1", "device=cuda:0"])
    assert settings_there(None, [], device="cpu", profile=gpus) == (None, [])
    assert settings_there(None, [], device="auto", profile=cpus) == (None, ["device=cpu"])
    assert settings_there(None, [], device="auto", profile=load_profile("processes")) == (None, [])


def test_paths_are_made_absolute_and_names_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert shared_path("mine") == shared_path(Path("mine")) == str(tmp_path / "mine")
    assert shared_path("models/later") == str(tmp_path / "models" / "later")
    assert [shared_path(name) for name in ("flow_unet", "s3://bucket/a", "", None)] == [
        "flow_unet", "s3://bucket/a", "", "",
    ]  # fmt: skip


def test_a_folder_named_like_a_model_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow_unet").mkdir()
    _, there = cluster_training("threads", model="flow_unet", config=None, overrides=())
    assert there["model"] == "flow_unet"


def _speak(number: int) -> int:
    say(f"number {number}")
    if number == 3:
        raise ValueError("three")
    return 2 * number


def test_words_of_workers_are_heard_here_and_their_errors_raised(capfd: pytest.CaptureFixture[str]) -> None:
    threads = load_profile("threads")
    assert sorted(results_from_workers(threads, _speak, [{"number": i} for i in (1, 2)])) == [(0, 2), (1, 4)]
    assert {"number 1", "number 2"} <= set(capfd.readouterr().err.splitlines())
    with pytest.raises(ValueError, match="three"):
        list(results_from_workers(threads, _speak, [{"number": 3}]))


def test_one_thread_hears_what_it_says() -> None:
    heard: list[str] = []
    with heard_by(heard.append):
        say("a")
    assert heard == ["a"]


def test_work_that_another_process_is_at_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "_LOOK_EVERY_S", 0.01)
    tries: list[int] = []

    def busy_at_first(times: int) -> int:
        tries.append(times)
        if len(tries) <= times:
            raise RunBusyError("another process is training in models/a.")
        return len(tries)

    threads = load_profile("threads")
    assert list(results_from_workers(threads, busy_at_first, [{"times": 3}])) == [(0, 4)]
    assert capfd.readouterr().err.count("training in models/a. Waiting up to 10 minutes for it") == 1
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.05)
    with pytest.raises(RunBusyError, match="training in models/a"):
        list(results_from_workers(threads, busy_at_first, [{"times": 10**9}]))


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_work_whose_worker_dies_begins_again_and_is_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_TRIES", 1)
    one = load_profile("processes", ("workers=1", "dashboard=false"))
    marks = str(tmp_path)

    def dies(times: int) -> int:
        begun = len(list(Path(marks).iterdir()))
        Path(marks, str(begun)).touch()
        if begun < times:
            os.kill(os.getpid(), signal.SIGKILL)
        return begun

    assert list(results_from_workers(one, dies, [{"times": 1}])) == [(0, 1)]
    with pytest.raises(WorkerLostError, match="1 workers ended one after another over the same piece of work"):
        list(results_from_workers(one, dies, [{"times": 99}]))


def test_the_store_is_as_it_was(store: Path) -> None:
    assert not open_cohort(store).has(f"{n.METRICS}/{n.BUDGET}")
