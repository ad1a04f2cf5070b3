"""README's tour: its trainings are those of the demo, and what needs no training prints what the page shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pages import ROOT, Command
from tour import TRAINED, differences, run, tour

from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.pipelines.demos import demo
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.studies.benchmark import BenchmarkSettings
from fintune_xr.settings import load_settings
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort

FEW = {"ingest", "annotate", "split", "infer", "evaluate", "associate", "check"}
"""Verbs of the tour that are run here; `tests/support/tour.py` runs all."""


def overrides_of(verb: str) -> list[str]:
    """Settings of the only command of this verb."""
    (command,) = [command for command in tour() if command.tokens[0] == verb]
    return [token for token in command.tokens if "=" in token]


def test_the_trainings_of_the_tour_are_those_of_the_demo() -> None:
    assert load_settings(TrainSettings, None, overrides_of("train")) == load_settings(TrainSettings, demo.TRAINING)
    assert load_settings(TrainSettings, None, overrides_of("budget")) == load_settings(TrainSettings, demo.QUICK)
    compared = {"train": demo.QUICK, "markers": ["GFAP"], "marker_only": []}
    found = load_settings(BenchmarkSettings, None, overrides_of("benchmark"))
    assert found == load_settings(BenchmarkSettings, compared)
    (split,) = [command for command in tour() if command.tokens[0] == "split"]
    assert tuple(map(float, split.tokens[split.tokens.index("--fractions") + 1 :][:3])) == demo.FRACTIONS


def test_every_command_is_shown_whole() -> None:
    assert [str(command) for command in tour() if not command.is_whole] == []


def without_training(command: Command) -> Command:
    """The command for the baseline alone, and the rows of the baseline."""
    text = command.text.replace(f" --run {TRAINED}", "")
    return replace(command, text=text, output=tuple(line for line in command.output if TRAINED not in line))


@pytest.mark.slow
def test_what_needs_no_training_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = simulate_cohort(tmp_path / "demo" / "raw", settings=CohortSettings(seed=0, n_annotated=36))
    ingest(made.source, tmp_path / "demo" / "cohort.zarr")
    monkeypatch.chdir(tmp_path)
    wrong = {}
    needless = [command for command in tour() if TRAINED not in command.text or "--run baseline" in command.text]
    for command in map(without_training, needless):
        if command.tokens[0] not in FEW:
            continue
        status, printed = run(command.tokens)
        assert status == (3 if command.tokens[0] == "ingest" else 0), command.text
        wrong[command.text] = differences(command, printed)
    assert {text: lines for text, lines in wrong.items() if lines} == {}
    assert {text.split()[1] for text in wrong} == FEW


def test_what_differs_is_found() -> None:
    page = ROOT / "README.md"
    shown = Command(page, 1, "fintune-xr x", ("run rho q", "baseline 0.5 0.1", f"{TRAINED} 0.7 0.2", "…"))
    assert differences(shown, ["run rho q", f"{TRAINED} 0.8 0.3", "baseline 0.5 0.9", "more"]) == []
    assert differences(shown, ["run rho q", f"{TRAINED} 0.8 0.3", "baseline 0.6 0.1"]) == [
        "not printed: baseline 0.5 0.1"
    ]
    whole = Command(page, 1, "fintune-xr x", ("no problems",))
    assert differences(whole, ["no problems", "one"]) == ["not shown: one"]
