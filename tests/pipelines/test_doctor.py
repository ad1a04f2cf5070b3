"""The doctor looks at what other verbs need, says what to do, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from stores import make_store

from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps import doctor as module
from fintune_xr.pipelines.steps.doctor import BAD, COLUMNS, GOOD, MIND, STATES, doctor


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm and without a GPU, whatever this one has."""
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(module, "cuda_names", list)


def found(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
    return {row.subject: (str(row.state), str(row.finding)) for row in table.itertuples()}


def test_everything_is_looked_at_and_nothing_is_left(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr")
    before = sorted(tmp_path.rglob("*"))
    table = doctor(cohort.url)
    assert list(table.columns) == COLUMNS
    assert set(table["state"]) <= set(STATES)
    rows = found(table)
    assert {"python", "packages", "memory", "disk", "locks", "gpu", "weights", "slurm", "store"} <= set(rows)
    assert rows["locks"][0] == GOOD
    assert f"{cohort.images().sizes['tile']} tiles" in rows["store"][1]
    assert all(row.remedy for row in table.itertuples() if row.state != GOOD)
    assert sorted(tmp_path.rglob("*")) == before


def test_locks_that_keep_nobody_out_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.fcntl, "flock", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert found(doctor())["locks"] == (BAD, f"locks in {tmp_path} keep nobody out")


def test_a_gpu_that_torch_does_not_see_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(doctor())["gpu"][0] == MIND
    monkeypatch.setattr(module, "_said", lambda *command: "H100, 80 GB" if command[0] == "nvidia-smi" else "")
    assert found(doctor())["gpu"] == (BAD, "nvidia-smi sees H100, 80 GB, torch none")
    monkeypatch.setattr(module, "cuda_names", lambda: ["H100"])
    assert found(doctor())["gpu"] == (GOOD, "H100")


def test_a_scheduler_that_does_not_answer_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module, "_said", lambda *_: "")
    assert found(doctor())["slurm"][0] == BAD


def test_no_store_is_told_and_sets_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", str(tmp_path / "none.zarr"), "--json"]) == 1
    rows = {row["subject"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    assert rows["store"]["state"] == BAD
    assert "no cohort store at" in rows["store"]["finding"]
    assert cli.run(["doctor"]) == 0
    assert "mind  gpu: none" in capsys.readouterr().out
