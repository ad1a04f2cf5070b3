"""Kill -9 in `infer` and `train` of stained tissue, and damage on disk: nothing is lost, nothing differs."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import killing
import numpy as np
import pytest
import torch
from child_deaths import kill_at_random, started, to_the_end
from class_networks import KINDS, SemanticUnet, SemanticUnetArchitecture
from class_runs import tissue_store

from fintune_xr import names as n
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.split import split
from fintune_xr.simulation.he_cohort import HeCohortSettings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 8
TILES = HeCohortSettings(n_donors=8, tiles_per_donor=(3, 3), tile_px=64, damaged=False, seed=3)
EPOCHS = 3
# 4 steps and 4 validated tiles an epoch; a file is moved to its place after the first and later epochs.
DEATHS = [("step", 2), ("step", 7), ("tile", 7), ("state", 1), ("state", 5)]
TRAINING = (
    f"epochs={EPOCHS}", "patches_per_epoch=8", "batch_size=2", "patch_px=32", "filters=[4,8,8]", "threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tissue_store(tmp_path_factory.mktemp("tissue"), settings=TILES)
    split(made, fractions=(0.5, 0.25, 0.25), seed=1)
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "unet.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        KINDS["semantic_unet"].save(
            SemanticUnet(SemanticUnetArchitecture(class_map=ClassMap(), filters=(4, 8, 8))), {}, path
        )
    return path


@pytest.fixture(scope="module")
def whole(tissue: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A store with the run as it is without interruption, and how long it takes once everything is imported."""
    place = Path(shutil.copytree(tissue, tmp_path_factory.mktemp("whole") / "he.zarr"))
    to_the_end(killing.run_infer_classes, str(place), str(model))
    shutil.rmtree(place)
    shutil.copytree(tissue, place)
    status, seconds = to_the_end(killing.run_infer_classes, str(place), str(model))
    assert status == 0
    return place, seconds


def bytes_of_run(store: Path) -> dict[str, str]:
    """Digest of every file of the run `r`, but for what is measured and what tells one making from another."""
    folder = store / n.RUNS / "r"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.relative_to(folder).parts[0] not in (n.SECONDS, "zarr.json")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def assert_as_uninterrupted(store: Path, whole: Path) -> None:
    found, expected = bytes_of_run(store), bytes_of_run(whole)
    assert any(name.startswith(f"{n.CLASSES}/c") for name in expected)
    assert found == expected
    run = open_cohort(store).run("r", lazy=False)
    assert (run[n.STATE] == n.DONE).all()
    assert check(store) == []
    assert not list(store.rglob(f"*{PARTIAL_SUFFIX}"))


def test_killing_infer(tissue: Path, model: Path, whole: tuple[Path, float], tmp_path: Path) -> None:
    store = Path(shutil.copytree(tissue, tmp_path / "he.zarr"))
    expected, seconds = whole

    def again() -> None:
        shutil.rmtree(store)
        shutil.copytree(tissue, store)

    asked = (str(store), str(model))
    kill_at_random(killing.run_infer_classes, *asked, seconds=seconds, kills=KILLS, again=again)
    status, _ = to_the_end(killing.run_infer_classes, *asked)
    assert status == 0
    assert_as_uninterrupted(store, expected)


def test_damage_is_found_set_back_and_made_again(
    whole: tuple[Path, float], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(whole[0], tmp_path / "he.zarr"))
    shards = sorted((store / n.RUNS / "r" / n.CLASSES).glob("c.*"))
    damaged = bytearray(shards[0].read_bytes())
    damaged[10] ^= 0xFF
    shards[0].write_bytes(damaged)
    shards[1].unlink()
    problems = check(store)
    hit = {tile for problem in problems for tile in problem.tiles}
    assert all(problem.where.startswith(f"{n.RUNS}/r/{n.CLASSES}") for problem in problems)
    assert 0 < len(hit) < 24
    assert {problem.where.rpartition("/")[2] for problem in problems} == {shards[0].name, shards[1].name}
    check(store, repair=True)
    states = open_cohort(store).run("r", lazy=False)[n.STATE].values
    assert set(np.flatnonzero(states == n.PENDING).tolist()) == hit
    assert infer(store, run="r", model=str(model), cluster="threads", overrides=["device=cpu"]).n_new == len(hit)
    assert_as_uninterrupted(store, whole[0])


def tokens(store: Path, out: Path) -> list[str]:
    return ["train", str(store), "--model", "semantic_unet", "--run-name", "t", "--out", str(out), *TRAINING]


def trained_to_the_end(store: Path, out: Path) -> Path:
    status, _ = to_the_end(killing.run_train_classes, tokens(store, out), ("", 0))
    assert status == 0
    return out / "t"


def test_killing_train(tissue: Path, tmp_path: Path) -> None:
    whole = trained_to_the_end(tissue, tmp_path / "whole")
    for what, which in DEATHS:
        out = tmp_path / f"{what}{which}"
        with started(killing.run_train_classes, tokens(tissue, out), (what, which)) as process:
            process.join()
        assert process.exitcode == -9, (what, which)
        again = trained_to_the_end(tissue, out)
        assert not list(again.rglob(f"*{PARTIAL_SUFFIX}")), (what, which)
        first, second = (torch.load(folder / "model.pt", weights_only=True)["state"] for folder in (whole, again))
        assert first.keys() == second.keys()
        assert [name for name, value in first.items() if not torch.equal(value, second[name])] == [], (what, which)
        assert learnt(whole) == learnt(again), (what, which)


def learnt(folder: Path) -> tuple[list[dict[str, str]], str]:
    """The log but for what is measured on the way, and the state of the training."""
    measured = ("seconds", "peak_memory", "images_per_second")
    with (folder / "log.csv").open() as file:
        rows = [{k: v for k, v in row.items() if not k.startswith(measured)} for row in csv.DictReader(file)]
    assert len(rows) == EPOCHS
    return rows, json.loads((folder / "training.json").read_text())["state"]
