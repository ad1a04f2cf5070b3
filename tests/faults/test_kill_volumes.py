"""Kill -9 in `infer`, `probe`, `train` and the leaderboard of volumes: the same command again gives the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import signal
from pathlib import Path

import killing
import numpy as np
import pytest
import torch
from child_deaths import started
from labelled_volumes import make_volumes, participants
from volume_weights import learned_state

from fintune_xr import names as n
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.check import check
from fintune_xr.store.cohort import open_cohort

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE = participants({n.TRAIN: 4, n.VAL: 2, n.TEST: 2})
TRAINING = ("encoder.heads=3", "epochs=3", "unfreeze_at_epoch=1", "batch_size=8", "warmup_epochs=0", "threads=1")
COMMANDS = {
    "infer": ["infer", "oct.zarr", "--run", "enc", "--model", "w.pt", "model.heads=3", "device=cpu"],
    "probe": ["probe", "oct.zarr", "--run", "enc", "head=logistic,mlp", "c=0.01,1", "inner_folds=2", "epochs=3"],
    "train": ["train", "oct.zarr", "--model", "w.pt", "--run-name", "tuned", *TRAINING],
    "leaderboard": ["export", "oct.zarr", "--to", "leaderboard", "--out", "board"],
}
# What is measured, or tells one making from another: times, and what torch and parquet know of the place.
DIFFERING = (n.SECONDS, "zarr.json", "training.json", "record.json", "log.csv", "log.tsv", ".lock")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each command the folder as it is before, and under `end` as it is after all of them."""
    where = tmp_path_factory.mktemp("oct") / "now"
    where.mkdir()
    make_volumes(where / "oct.zarr", PEOPLE, scans=1)
    torch.save({"model_state_dict": {f"context_encoder.{k}": v for k, v in learned_state().items()}}, where / "w.pt")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        for name, command in COMMANDS.items():
            found[name] = Path(shutil.copytree(where, where.parent / name))
            assert cli.run(command) == 0
    return {**found, "end": where}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_anywhere_costs_nothing(
    stages: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = [*COMMANDS, "end"]
    whole = stages[order[order.index(name) + 1]]
    seen = killing.FORKS.Value("i", 0)
    # What workers finish within a moment is stored together, so that another run of infer may make fewer changes.
    for part in (0.0, 0.2, 0.4) if name == "infer" else (0.0, 0.4, 0.7, 0.97):
        place = Path(shutil.copytree(stages[name], tmp_path / f"{part}"))
        at, seen.value = max(1, round(part * n_changes(stages, name, tmp_path))), 0
        with started(killing.run_until_killed, COMMANDS[name], str(place), at, seen) as process:
            process.join()
        assert process.exitcode == -signal.SIGKILL, part
        monkeypatch.chdir(place)
        assert cli.run(COMMANDS[name]) == 0
        assert_alike(place, whole, name)


_CHANGES: dict[str, int] = {}


def n_changes(stages: dict[str, Path], name: str, folder: Path) -> int:
    """How often the command changes a tree of files when nobody kills it."""
    if name not in _CHANGES:
        place, seen = Path(shutil.copytree(stages[name], folder / "counted")), killing.FORKS.Value("i", 0)
        with started(killing.run_until_killed, COMMANDS[name], str(place), 0, seen) as process:
            process.join()
        assert process.exitcode == 0
        _CHANGES[name] = seen.value
    return _CHANGES[name]


def assert_alike(place: Path, whole: Path, name: str) -> None:
    found, expected = digests(place), digests(whole)
    assert found.keys() == expected.keys()
    assert [file for file in found if found[file] != expected[file]] == []
    assert not list(place.rglob(f"*{PARTIAL_SUFFIX}"))
    assert check(place / "oct.zarr") == []
    if name == "infer":
        run = open_cohort(place / "oct.zarr").run("enc", lazy=False)
        assert (run[n.STATE].values == n.DONE).all()
        assert np.isfinite(run[n.EMBEDDING].values).all()


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file, but for those that tell times; of weights, that of their tensors."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    kept = [file for file in files if not set(file.relative_to(folder).parts) & set(DIFFERING)]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}
