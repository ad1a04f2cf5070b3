"""What the shell offers is what the command line takes: runs of the named store, models, layouts, rules, settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from stores import make_store

from fintune_xr import names as n
from fintune_xr.models.registry import kinds, published_weights
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.steps.positivity import RULE_NAMES
from fintune_xr.store.raw.layouts import LAYOUTS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    cohort = make_store(tmp_path_factory.mktemp("completion") / "c.zarr", donors=1, tiles=1, px=32)
    for run in ("base", "tuned"):
        zarr.open_group(cohort.url, path=f"{n.RUNS}/{run}", mode="a", attributes={"complete": 1})
    return cohort.url


def offered(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert cli.run(["__complete", *words]) == 0
    lines = capsys.readouterr().out.partition("\x1fbegin\n")[2].splitlines()
    return [line.partition("\t")[0] for line in lines]


def test_runs_are_those_of_the_store_that_was_named(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert offered(capsys, "infer", store, "--run", "") == ["base", "tuned"]
    assert offered(capsys, "evaluate", store, "--run", "base", "--run", "") == ["tuned"]
    assert offered(capsys, "report", store, "--baseline", "") == ["base", "tuned"]
    assert offered(capsys, "annotate", "masks", store, "--corrects", "") == ["base", "tuned"]
    before = sorted(Path(store).rglob("*"))
    assert offered(capsys, "infer", "/no/such.zarr", "--run", "") == []
    assert sorted(Path(store).rglob("*")) == before


def test_names_are_those_that_are_taken(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {*kinds(), *published_weights()} <= {*offered(capsys, "train", store, "--model", "")}
    assert offered(capsys, "ingest", "raw", store, "--layout", "") == list(LAYOUTS)
    assert offered(capsys, "positivity", store, "--rule", "") == list(RULE_NAMES)
    assert offered(capsys, "evaluate", store, "--split", "") == [*n.SPLITS, "all"]
    assert f"{store}/" in offered(capsys, "check", store[:-3])


def test_settings_are_those_of_the_verb_and_the_model(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("infer", store, "--run", "x", "--model", "threshold")
    found = offered(capsys, *line, "")
    assert {"batch_tiles=1", "model.sigma_px=1.0"} <= {*found}
    assert "batch_tiles=1" not in offered(capsys, *line, "batch_tiles=4", "")
    assert not any(word.startswith("model.sigma") for word in offered(capsys, "infer", store, "--run", "x", ""))


def test_bash_itself_offers_them(store: str, tmp_path: Path) -> None:
    command = tmp_path / "fintune-xr"
    call = "from fintune_xr.pipelines.cli.app import main; main()"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{call}' \"$@\"\n")
    command.chmod(0o755)
    (tmp_path / "script").write_text(cli.build_app().generate_completion(shell="bash"))
    words = f"fintune-xr infer {store} --run t"
    program = f"""
        source {tmp_path}/script; COMP_WORDS=({words}); COMP_CWORD=4; COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
        _fintune_xr; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["tuned"]
