"""The study of ways to train, with Cellpose's network at reduced size: nothing but the published weights is missing."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sam_weights import save_random_cpsam
from stores import annotate as store_masks
from stores import make_store

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Stale, Study
from fintune_xr.analysis.report.studies.benchmark import benchmark_study
from fintune_xr.cluster.profile import Profile
from fintune_xr.errors import DeviceError, RunMismatchError, SettingsError, UnknownNameError
from fintune_xr.models.checkpoints import RECORD_FILE
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.pipelines.report import stored_studies as studies
from fintune_xr.pipelines.report.report import report
from fintune_xr.pipelines.report.stored_studies import stored_studies
from fintune_xr.pipelines.steps import train as training
from fintune_xr.pipelines.steps.annotate import annotate
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import benchmark as module
from fintune_xr.pipelines.studies import model_training
from fintune_xr.pipelines.studies.benchmark import BenchmarkSettings, benchmark, closing_lines, hybrid_line
from fintune_xr.pipelines.workers.remote_calls import results_from_workers
from fintune_xr.simulation.if_cohort import CohortSettings, simulate_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.text import text_array, texts

SMALL = CohortSettings(
    n_donors=6, markers=("GFAP", "IBA1"), tiles_per_donor=(1, 2), tile_px=96, n_annotated=14, damaged=False, seed=3
)
TRAINED = ("generic", "GFAP-specific", "IBA1-specific", "marker-only")
LENIENT = {"cellprob_threshold": -1.0, "flow_threshold": 0.0, "min_size_px": 1}
SETTINGS: dict[str, Any] = {
    "train": {
        "epochs": 2, "patches_per_epoch": 2, "warmup_epochs": 0, "learning_rate": 3e-4, "validate_every": 1,
        "threads": 1, "dynamics": LENIENT,
    },
    "infer": {"device": "cpu", "model": {"dynamics": LENIENT}},
    "baseline_infer": {"device": "cpu", "model": {"dynamics": LENIENT}},
    "resamples": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reduced Cellpose-SAM, whose random encoder decides which of many small discs are cells."""
    return save_random_cpsam(tmp_path_factory.mktemp("cpsam") / "tiny")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    made = simulate_cohort(folder / "raw", settings=SMALL)
    ingest(made.source, folder / "c.zarr")
    annotate(made.annotations, folder / "c.zarr")
    split(folder / "c.zarr", fractions=(0.5, 0.25, 0.25))
    return folder / "c.zarr"


@pytest.fixture(scope="module")
def whole(plain: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study without interruption: a store beside its models."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(plain, folder / "c.zarr")
    benchmark(folder / "c.zarr", model=str(weights), out=folder / "models", config=SETTINGS)
    return folder


@pytest.fixture(scope="module")
def found(whole: Path) -> xr.Dataset:
    return open_cohort(whole / "c.zarr").metrics("benchmark").load()


def record(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "models" / f"e1-{name}" / RECORD_FILE).read_text())


def test_every_model_learned_from_its_tiles_and_none_from_the_test_tiles(whole: Path, weights: Path) -> None:
    images = open_cohort(whole / "c.zarr").images()
    part, marker = (dict(zip(texts(images[n.TILE]), texts(images[name]), strict=True)) for name in (n.SPLIT, n.MARKER))
    start = resolve_checkpoint(weights)
    for name in TRAINED:
        facts = record(whole, name)
        assert {part[tile] for tile in facts["tiles"]} == {n.TRAIN}
        assert {part[tile] for tile in facts["validation_tiles"]} == {n.VAL}
        wanted = {name.removesuffix("-specific")} if "specific" in name else {"GFAP", "IBA1"}
        assert {marker[tile] for tile in facts["tiles"]} == wanted
        assert facts["start"]["sha256"] == start.sha256
        assert facts["zero_channels"] == (["DAPI"] if name == "marker-only" else [])
        assert resolve_checkpoint(whole / "models" / f"e1-{name}").sha256 != start.sha256


def test_runs_cover_val_and_test_and_say_what_they_are(whole: Path, weights: Path) -> None:
    cohort = open_cohort(whole / "c.zarr")
    wanted = np.isin(text_array(cohort.images()[n.SPLIT]), (n.VAL, n.TEST))
    for name in ("baseline", *TRAINED):
        np.testing.assert_array_equal(cohort.run(f"e1-{name}")[n.STATE].values == n.DONE, wanted)
    assert cohort.run_attrs("e1-baseline")["identity"]["checkpoint_sha256"] == resolve_checkpoint(weights).sha256
    assert check(whole / "c.zarr") == []


def test_scores_are_those_of_evaluate(whole: Path, found: xr.Dataset, tmp_path: Path) -> None:
    copy = shutil.copytree(whole / "c.zarr", tmp_path / "c.zarr")
    names = ["baseline", *TRAINED]
    slow = evaluate(copy, runs=[f"e1-{name}" for name in names], resamples=30)
    assert int(slow[n.TP].sum()) > 0
    for name in (n.TP, n.FP, n.FN, "average_precision_image_mean", "f1_pooled", "f1_pooled_interval"):
        ours = found[name].sel({n.RUN: names})
        np.testing.assert_allclose(ours.transpose(*slow[name].dims), slow[name], err_msg=name)


def test_an_annotated_tile_in_quarantine_is_not_scored_and_named(
    whole: Path, weights: Path, found: xr.Dataset, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "whole")
    cohort = open_cohort(tmp_path / "whole" / "c.zarr")
    lost, *others = texts(found[n.TILE])
    state = open_column(cohort.location, f"{n.RUNS}/e1-generic/{n.STATE}")
    state[texts(cohort.images()[n.TILE]).index(lost)] = n.QUARANTINED
    again = benchmark(cohort.url, model=str(weights), out=tmp_path / "whole" / "models", config=SETTINGS)
    assert again.attrs[n.LEFT_OUT] == {"e1-generic": [lost]}
    assert texts(again[n.TILE]) == others
    np.testing.assert_array_equal(again[n.TP], found[n.TP].sel({n.TILE: others}))
    assert closing_lines(again)[0] == f"run e1-generic has 1 annotated tile(s) in quarantine: {lost}"
    notes = [
        part.text
        for part in benchmark_study(again, gallery=None, beside_published=False).parts
        if isinstance(part, Note)
    ]
    assert notes.count(closing_lines(again)[0]) == 1


def test_the_hybrid_has_the_counts_of_the_model_that_val_chose(whole: Path, found: xr.Dataset) -> None:
    val = open_cohort(whole / "c.zarr").metrics("benchmark_val").load()
    ap50 = val["average_precision_image_mean"].sel({n.THRESHOLD: 0.5})
    for i, marker in enumerate(texts(found[n.MARKER])):
        chosen = found.attrs["hybrid"][marker]
        scores = ap50.sel({n.GROUP: marker})
        assert float(scores.sel({n.RUN: chosen})) == float(scores.max())
        for name in (n.TP, n.FP, n.FN):
            both = found[name].isel({n.TILE: i})
            np.testing.assert_array_equal(both.sel({n.RUN: "hybrid"}), both.sel({n.RUN: chosen}))
    assert hybrid_line(found).startswith("hybrid, by AP50 on the val tiles: GFAP: ")


def test_tables_and_report_hold_the_stored_numbers(whole: Path, found: xr.Dataset, tmp_path: Path) -> None:
    written = pd.read_csv(whole / "models" / "e1-benchmark.tsv", sep="\t")
    row = written.query("group == 'all' and model == 'hybrid'").iloc[0]
    at = found.sel({n.GROUP: "all", n.RUN: "hybrid", n.THRESHOLD: 0.5})
    assert row["tp"] == int(at[n.TP].sum())
    assert row["f1_pooled"] == float(at["f1_pooled"])
    page = report(whole / "c.zarr", out=tmp_path / "r.html").read_text()
    assert "Ways to train" in page
    assert page.count("Did it help?") == 5
    assert page.count("Ways to train: of 5 models, ") == 1
    assert "AP50, image mean: study" in page
    assert "outlines of each model" in page
    differences = pd.read_csv(tmp_path / "r_tables" / "benchmark_differences.tsv", sep="\t")
    stored = found["average_precision_image_mean_difference"].sel({n.GROUP: "all", n.REFERENCE: "baseline"})
    one = differences.query("run == 'generic' and score == 'average_precision_image_mean'")["difference"].item()
    assert one == float(stored.sel({n.RUN: "generic", n.THRESHOLD: 0.5}))


def test_the_report_says_when_a_run_is_no_longer_the_one_that_was_scored(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "benchmark_study", lambda *_, **__: Study("benchmark", "Text.", pd.DataFrame()))
    copy = open_cohort(shutil.copytree(whole / "c.zarr", tmp_path / "c.zarr"))
    (study,) = stored_studies(copy)["benchmark"]
    assert isinstance(study, Study)
    shutil.rmtree(tmp_path / "c.zarr" / "runs" / "e1-generic")
    (stale,) = stored_studies(copy)["benchmark"]
    assert isinstance(stale, Stale)
    assert stale.reason == "run e1-generic is gone"


@pytest.mark.slow
def test_killed_in_a_training_it_ends_the_same(
    plain: Path, whole: Path, weights: Path, found: xr.Dataset, tmp_path: Path
) -> None:
    store, models = shutil.copytree(plain, tmp_path / "c.zarr"), tmp_path / "models"
    call = (str(store), str(weights), str(models), SETTINGS)
    process = killing.FORKS.Process(target=killing.run_benchmark, args=call)
    process.start()
    process.join(timeout=250)
    assert process.exitcode == -signal.SIGKILL
    assert [record(tmp_path, name)["state"] for name in TRAINED[:3]] == ["finished", "finished", "running"]
    assert not open_cohort(store).has("metrics/benchmark")
    resumed = benchmark(store, model=str(weights), out=models, config=SETTINGS)
    xr.testing.assert_equal(resumed.load(), found)
    for name in TRAINED:
        pair = [resolve_checkpoint(folder / "models" / f"e1-{name}").sha256 for folder in (tmp_path, whole)]
        assert pair[0] == pair[1]
    assert check(store) == []


def test_what_is_there_is_not_made_again_and_other_settings_are_refused(
    whole: Path, weights: Path, found: xr.Dataset, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "w")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "models").rglob("model.pt")}
    said: dict[str, Any] = {"model": str(weights), "out": tmp_path / "w" / "models"}
    again = benchmark(tmp_path / "w" / "c.zarr", config=SETTINGS, **said)
    xr.testing.assert_equal(again.load(), found)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "models").rglob("model.pt")}
    with pytest.raises(RunMismatchError, match=r"another training \(different: settings\.seed\)"):
        benchmark(tmp_path / "w" / "c.zarr", config=SETTINGS, overrides=["train.seed=1"], **said)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"settings of train.*epoch: no such setting.*Did you mean 'epochs'"),
        ("infer.devise=cpu", r"settings of infer.*Did you mean 'device'"),
        ("train.zero_channels=[DAPI]", "set marker_only instead"),
        ("resample=3", "Did you mean 'resamples'"),
        ("cluster.wokers=2", "Did you mean 'workers'"),
    ],
)
def test_settings_are_judged_before_the_first_training(plain: Path, override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        benchmark(plain, overrides=[override])
    assert open_cohort(plain).run_names() == []


@pytest.mark.parametrize("override", ["train.device=cuda", "infer.device=cuda", "baseline_infer.device=cuda"])
def test_a_device_that_the_workers_lack_is_told_before_there_is_one(plain: Path, override: str) -> None:
    with pytest.raises(DeviceError, match="jobs of this profile get no GPU"):
        benchmark(plain, cluster="slurm-cpu", overrides=[override])
    assert open_cohort(plain).run_names() == []


@pytest.mark.slow
def test_on_workers_models_are_trained_there_and_are_the_same(
    plain: Path, whole: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, models = shutil.copytree(plain, tmp_path / "c.zarr"), tmp_path / "models"
    few = {**SETTINGS, "markers": ["GFAP"], "marker_only": []}
    sent: list[tuple[Profile, list[str]]] = []

    def seen(profile: Profile, function: Any, calls: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Path]]:
        sent.append((profile, [call["run_name"] for call in calls]))
        return results_from_workers(profile, function, calls)

    monkeypatch.setattr(training, "results_from_workers", seen)
    monkeypatch.setattr(model_training, "train", lambda **_: pytest.fail("a training in the process of the command"))
    said: dict[str, Any] = {"model": str(weights), "out": models, "config": few, "cluster": "threads"}
    for _ in range(2):
        benchmark(store, overrides=["cluster.workers=2", "cluster.dashboard=false"], **said)
    # Finished trainings need no worker the second time.
    ((profile, names),) = sent
    assert (profile.kind, profile.workers, profile.dashboard) == ("threads", 2, False)
    assert names == ["e1-generic", "e1-GFAP-specific"]
    for name in ("generic", "GFAP-specific"):
        pair = [resolve_checkpoint(folder / "models" / f"e1-{name}").sha256 for folder in (tmp_path, whole)]
        assert pair[0] == pair[1]
        runs = [open_cohort(folder / "c.zarr").run(f"e1-{name}") for folder in (tmp_path, whole)]
        np.testing.assert_array_equal(*[run[n.STATE].values for run in runs])
        done = np.flatnonzero(runs[0][n.STATE].values == n.DONE)
        np.testing.assert_array_equal(*[run[n.MASK].isel({n.TILE: done}).values for run in runs])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"markers": ["GFPA"]}, "no marker in the cohort 'GFPA'; known: .* Did you mean 'GFAP'"),
        ({"marker_only": ["DAPPI"]}, "no channel in the cohort 'DAPPI'; known: .* Did you mean 'DAPI'"),
    ],
)
def test_markers_and_planes_that_the_cohort_lacks_are_refused_before_a_training(
    plain: Path, tmp_path: Path, asked: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(UnknownNameError, match=said):
        benchmark(plain, out=tmp_path / "models", config=asked)
    assert not (tmp_path / "models").exists()


def test_models_that_the_tiles_do_not_allow_are_left_out_with_the_reason(plain: Path, tmp_path: Path) -> None:
    cohort = open_cohort(plain)
    members, left_out = module._members(cohort, BenchmarkSettings(markers=("OLIG2",), marker_only=("Parv",)))
    assert [one.name for one in members] == ["baseline", "generic"]
    assert left_out == {
        "OLIG2-specific": "no annotated tile of it in part train and val",
        "marker-only": "the tiles have no channel Parv",
    }
    single = make_store(tmp_path / "one.zarr", donors=3, tiles=1)
    mask = np.zeros((64, 64), np.uint32)
    mask[9:19, 9:19] = 1
    store_masks(single, dict.fromkeys(texts(single.images()[n.TILE]), mask))
    split(single.url, fractions=(0.34, 0.33, 0.33))
    _, left_out = module._members(single, BenchmarkSettings())
    assert left_out == {"GFAP-specific": "there is no other marker, so it would be the generic model"}
