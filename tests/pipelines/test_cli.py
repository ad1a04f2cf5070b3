"""The command line: every verb explains itself, and every mistake ends with one plain error."""

from __future__ import annotations

import inspect
import io
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest

from fintune_xr import names as n
from fintune_xr.execution.termination import end_on_sigterm
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.cli import verbs
from fintune_xr.pipelines.cli.old_words import NEW_WORDS
from fintune_xr.pipelines.cli.settings_page import SETTINGS
from fintune_xr.pipelines.inference.request import InferSettings
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.settings import load_settings
from fintune_xr.simulation.if_cohort import CohortSettings, SimulatedCohort, simulate_cohort
from fintune_xr.store.cohort import open_cohort


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCohort:
    settings = CohortSettings(n_donors=4, markers=("GFAP",), tiles_per_donor=(1, 1), tile_px=96, n_annotated=4, seed=1)
    return simulate_cohort(tmp_path_factory.mktemp("cli") / "raw", settings=settings)


@pytest.fixture(scope="module")
def store(made: SimulatedCohort) -> Path:
    path = made.folder.with_name("cohort.zarr")
    ingest(made.source, path)
    annotate(made.annotations, path)
    infer(path, run="baseline", model="threshold")
    return path


@pytest.mark.parametrize("verb", sorted(verbs.VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed = verb.replace("_", "-")
    assert cli.run([typed, "--help"]) == 0
    assert f"Example: fintune-xr {typed}" in " ".join(capsys.readouterr().out.split())


def test_the_verbs_of_the_contract_are_there() -> None:
    contract = {
        "demo", "ingest", "annotate", "split", "train", "infer", "evaluate", "gate", "sweep", "budget", "associate",
        "bootstrap", "report", "check", "export", "weights",
    }  # fmt: skip
    assert contract <= set(verbs.VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_verb_with_one_line(
    number: int, status: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    let_go = []

    def signalled(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            let_go.append(True)

    monkeypatch.setattr("fintune_xr.pipelines.steps.check.check", signalled)
    before = signal.getsignal(signal.SIGTERM)
    # A worker of the tests lets SIGINT be.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end_on_sigterm()
        assert cli.run(["check", "a.zarr"]) == status
        # The next one is not waited for.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL or number == signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)
    assert let_go
    told = capsys.readouterr()
    assert (told.out, told.err.splitlines()[0].partition(";")[0]) == ("", word)
    assert "Run the same command again" in told.err


def test_python_runs_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fintune_xr", "infr"])
    monkeypatch.setattr(cli, "end_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fintune_xr", run_name="__main__")
    assert ended.value.code == 2
    assert 'Did you mean "infer"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("infr", 2, 'Did you mean "infer"'),
        ("infer {store}", 2, "--run"),
        ("infer {store} --run x --model treshold", 2, "Did you mean 'threshold'?"),
        ("infer {store} --run x --model cpsam", 2, "fintune-xr weights fetch cpsam"),
        ("infer {store} --run x --model threshold batch_tile=2", 2, "Did you mean 'batch_tiles'?"),
        ("infer {store} --run x --model threshold model.sigma=2", 2, "Did you mean 'sigma_px'?"),
        ("infer {store} --run x --model threshold sigma_px=2", 2, "Did you mean 'model.sigma_px'?"),
        ("infer {store} --run baseline model.sigma_px=3", 2, "settings.sigma_px: stored 1.0, now 3"),
        ("infer {store} --run basline", 2, "no run 'basline' to continue (stored: baseline). Did you mean 'baseline'?"),
        (
            "infer {store} --run basline --dry-run",
            2,
            "a model has to be named: --model threshold, vit3d_random, volume_profile, cpsam",
        ),
        ("infer {store} --run baseline --restart", 2, "run 'baseline' is to be made anew, so a model has to be named"),
        ("infer {store} --run x --model threshold batch_tiles=2", 2, "batch_tiles: expected 1 for threshold"),
        ("infer {store} --run x --cluster slurmm", 2, "no cluster profile 'slurmm'"),
        ("infer {store} --run ../x", 2, "use letters, digits"),
        ("infer {store}x --run x", 2, "no cohort store at"),
        ("evaluate {store} --run basline --split all", 2, "Did you mean 'baseline'?"),
        ("evaluate {store} --split test", 1, "has no split yet"),
        (
            "evaluate {store} --split tset",
            2,
            "no part of the split 'tset'; known: all, test, train, val. Did you mean 't",
        ),
        ("gate {store} --run baseline --split tset", 2, "Did you mean 'test'?"),
        ("infer {store} --run y --model threshold --split tset", 2, "Did you mean 'test'?"),
        ("hybrid {store} --name y --run baseline --run x --split vall", 2, "Did you mean 'val'?"),
        ("qc {store} --run basline", 2, "Did you mean 'baseline'?"),
        ("train {store} --run-name m", 1, "has no split yet"),
        ("split {store} --fractions 0.5 0.5 0.5", 1, "add up to 1"),
        ("positivity {store} --run baseline --rule otso", 2, "Did you mean 'otsu'?"),
        ("positivity {store} --run baseline --rule fixed", 2, "needs --threshold"),
        ("positivity {store} --run baseline --rule detected --nuclei-run x", 2, "no run 'x'"),
        ("associate {store} --clinical {clinical} --outcome nff", 2, "Did you mean 'nft'?"),
        ("associate {store} --clinical {clinical} --donor-column id", 2, "projid"),
        ("associate {store} --clinical {out}.csv", 2, "no clinical table"),
        ("bootstrap {store}", 2, "holds no analysis yet"),
        ("bootstrap {store} --scheme tile", 2, "tiles_80"),
        ("ingest {raw} {store} --layout rosmapp", 2, "Did you mean 'rosmap'?"),
        ("ingest {raw} {store} --z meen", 2, "Did you mean 'mean'?"),
        ("ingest {raw}x {store}", 2, "expected a folder of images"),
        ("ingest {raw} {store} --pattern (?P<donor>", 2, "is not a regular expression"),
        ("ingest {raw} {store} --channels b0c0", 2, "expected token=name"),
        ("weights fetch cpsamm", 2, "no published weights 'cpsamm'"),
        ("weights fetch", 2, "needs a name"),
        ("export {store} --to masks --out {out} --run none", 2, "no run 'none'"),
        ("export {store} --to zip --out {out}", 2, "masks"),
        ("report {store} --out /proc/none/report.html", 1, "there is no folder /proc/none"),
        ("report {store} --baseline none", 2, "no run 'none'"),
    ],
)
def test_mistakes(
    line: str, status: int, message: str, store: Path, made: SimulatedCohort, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {"store": store, "raw": made.source, "clinical": made.clinical, "out": tmp_path / "out"}
    tokens = [token.format(**places) if "{" in token else token for token in line.split()]
    assert cli.run(tokens) == status
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "Traceback" not in told
    cohort = open_cohort(store)
    assert cohort.run_names() == ["baseline"], "nothing is begun by a mistake"
    assert not cohort.has(n.QC)


def test_quarantine_is_told_by_the_exit_status(
    made: SimulatedCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["ingest", str(made.source), str(tmp_path / "c.zarr"), "--dry-run"]) == 0
    assert not (tmp_path / "c.zarr").exists()
    assert "would be left out" in capsys.readouterr().out
    assert cli.run(["ingest", str(made.source), str(tmp_path / "c.zarr")]) == 3
    assert "truncated: expected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "status", "columns"),
    [
        ("positivity {store} --run baseline", 0, {"rules": {"rule", "n_positive", "n_all"}}),
        ("check {store}", 0, {"problems": set()}),
        ("weights list", 0, {"weights": {"name", "state", "path", "sha256"}}),
        (
            "ingest {raw} {store} --dry-run", 0,
            {
                "tiles": {"donor", "marker", "tiles", "left_out", "height_min", "height_max", "width_min", "width_max"},
                "left_out": {"path", "donor", "marker", "tile", "reason"}, "ignored": {"what", "count"},
            },
        ),
        (
            "ingest {raw} {store}", 3,
            {"ingest": {"n_added", "n_present", "n_left_out"}, "left_out": {"path", "reason"}},
        ),
    ],
)  # fmt: skip
def test_tables_as_json(
    line: str, status: int, columns: dict[str, set[str]], store: Path, made: SimulatedCohort,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tokens = line.format(store=store, raw=made.source).split()
    assert cli.run([*tokens, "--json"]) == status
    tables = json.loads(capsys.readouterr().out)
    lines = tables.pop("said", [])
    assert {name: {key for row in rows for key in row} for name, rows in tables.items()} == columns
    assert cli.run(tokens) == status
    printed = capsys.readouterr().out
    facts = [value for rows in tables.values() for row in rows for value in row.values() if type(value) in (int, str)]
    assert [fact for fact in [*map(str, facts), *lines] if fact not in printed] == []


def test_every_verb_that_prints_a_table_prints_it_as_json() -> None:
    source = {name: inspect.getsource(verb.call) for name, verb in verbs.VERBS.items()}
    with_table = {name for name, text in source.items() if "show_tables(" in text}
    assert with_table == {name for name, text in source.items() if "as_json: Json" in text}
    assert {"associate", "evaluate", "split", "check", "doctor", "gate", "sweep", "budget", "benchmark"} <= with_table
    assert not {name for name, text in source.items() if "show(table(" in text} - {"ingest"}


def test_old_words_are_taken_with_a_note(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["infer", str(store), "--run", "old", "--model", "threshold", "--dry-run"]
    assert cli.run([*line, "--part", "test"]) == cli.run([*line, "--split=test"]) == 1
    told = capsys.readouterr().err
    assert told.count("note: --part is now --split; the old word is taken until the next version") == 1
    assert told.count("has no split yet") == 2, "both words are understood"


@pytest.mark.parametrize("verb", sorted(SETTINGS))
def test_settings_of_a_verb_are_listed_with_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([verb, "--settings", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    assert rows
    assert all(set(row) == {"setting", "default", "meaning"} for row in rows)


def test_settings_listed_are_those_that_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["infer", "--settings", "--model", "threshold"]) == 0
    told = capsys.readouterr().out.splitlines()
    listed = [line for line in told if not line.startswith(" ")]
    assert "model.sigma_px=1.0" in listed
    assert "batch_tiles=1" in listed
    assert load_settings(InferSettings, None, [line for line in listed if not line.endswith("=")]).batch_tiles == 1
    assert cli.run(["split", "--settings"]) == 2
    assert "split has no settings as key=value; these have: train" in capsys.readouterr().err


def test_every_verb_with_overrides_lists_its_settings() -> None:
    with_overrides = {name for name, verb in verbs.VERBS.items() if "*overrides" in inspect.getsource(verb.call)}
    assert with_overrides == set(SETTINGS)


@pytest.mark.parametrize("verb", sorted(NEW_WORDS))
def test_old_and_new_words_are_one_option(verb: str) -> None:
    taken = inspect.getsource(verbs.VERBS[verb].call)
    for old, new in NEW_WORDS[verb].items():
        assert f'["{new}", "{old}"]' in taken or (verb, old) == ("budget", "--no-skip-existing")


def test_a_plan_writes_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(str(path) for path in store.rglob("*"))
    assert cli.run(["infer", str(store), "--run", "planned", "--model", "threshold", "--dry-run"]) == 0
    assert "pending: 4" in capsys.readouterr().out
    assert sorted(str(path) for path in store.rglob("*")) == before


def test_damage_is_told_by_the_exit_status(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", str(store)]) == 0
    assert "no problems" in capsys.readouterr().out


def test_a_terminal_of_ascii_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    out = io.TextIOWrapper(held, encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    cli.print_what_a_terminal_can()
    print("lr … 0.5 µm × 2 – Müller", file=out)
    out.flush()
    assert held.getvalue() == b"lr ... 0.5 um x 2 - M\\xfcller\n"
