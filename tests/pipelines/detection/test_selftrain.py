"""Self-training: its stages, what they leave, what they are measured against, and going on after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import FORKS
from micrographs import DIAMETER_PX, make_micrographs, micrograph, particles
from PIL import Image
from sklearn.metrics import roc_auc_score

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import UNFINISHED_STUDY, Note
from fintune_xr.errors import FintuneValueError, RunBusyError, RunMismatchError, SettingsError, UnknownNameError
from fintune_xr.finetune.steps import NetworkTraining
from fintune_xr.models.particle_unet.adapter import UnetDetector, probability
from fintune_xr.models.particle_unet.settings import ParticleUnetSettings
from fintune_xr.models.registry import load_model, resolve_checkpoint
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.detection.selftrain.plan import plan_study
from fintune_xr.pipelines.detection.selftrain.settings import SelfTrainSettings
from fintune_xr.pipelines.report.report import report_sections
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.studies import selftrain as module
from fintune_xr.pipelines.studies.selftrain import selftrain
from fintune_xr.pixels.discs import disc_target
from fintune_xr.pixels.pseudo_labels import pseudo_target
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.runs import pseudo_labels as pseudo_store
from fintune_xr.store.runs.pseudo_labels import read_pseudo
from fintune_xr.store.split import require_split
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.store.zarr_io.locks import hold_lock
from fintune_xr.tasks.detection import POINTS, PROBABILITY_STEPS

SETTINGS = {
    "labelled": 1,
    "positive": [0.9, 0.8],
    "negative": [0.1, 0.2],
    "train": {
        "patch_px": 64, "batch_size": 4, "patches_per_epoch": 12, "filters": [4, 8, 8], "learning_rate": 1e-2,
        "threads": 1, "epochs": 4, "validate_every": 2,
    },
    "rounds": {"epochs": 2, "learning_rate": 2e-3},
}  # fmt: skip
STAGES = ("iteration_0_supervised", "iteration_1_selftrain", "iteration_2_selftrain")
LEFT = [".lock", "log.csv", "metrics.json", "model.pt", "panels.png", "training.json"]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path]:
    """A store of noisy micrographs, and a finished self-training in a folder."""
    folder = tmp_path_factory.mktemp("em")
    cohort = make_micrographs(folder / "c.zarr", contrast=20)
    selftrain(cohort.url, run_name="s", out=folder, config=SETTINGS)
    return cohort, folder / "s"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all weights."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.pt")}


def record(folder: Path, stage: str) -> dict:
    return json.loads((folder / stage / "metrics.json").read_text())


def detector(folder: Path) -> UnetDetector:
    model = load_model(
        resolve_checkpoint(folder), channels=("micrograph",), settings=ParticleUnetSettings(), device="cpu"
    )
    assert isinstance(model, UnetDetector)
    return model


def seen(model: UnetDetector, name: str) -> np.ndarray:
    return probability(model.predict([model.normalise(micrograph(name, 96, contrast=20))])[0])


@given(st.floats(0.5, 1), st.floats(0, 0.49), st.integers(0, 99))
def test_only_what_is_sure_becomes_a_label(positive: float, negative: float, seed: int) -> None:
    found = stream(seed).random((9, 9))
    labels = pseudo_target(found, positive=positive, negative=negative)
    expected = [[1 if p >= positive else 0 if p <= negative else -1 for p in row] for row in found]
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.5), (0.2, 0.4), (1.1, 0.1), (0.9, -0.1)])
def test_thresholds_that_cannot_be(positive: float, negative: float) -> None:
    with pytest.raises(FintuneValueError, match="expected 0 <= negative < positive <= 1"):
        pseudo_target(np.zeros((2, 2)), positive=positive, negative=negative)


FINAL = ("final_model.pt", "final_model.training.json")


def test_every_stage_leaves_a_folder(done: tuple[Cohort, Path]) -> None:
    _, folder = done
    assert sorted(p.name for p in folder.iterdir()) == [*FINAL, *STAGES, "selftrain.json"]
    for stage in STAGES:
        assert sorted(p.name for p in (folder / stage).iterdir()) == LEFT
        with Image.open(folder / stage / "panels.png") as picture:
            assert min(picture.info["dpi"]) >= 149.9
            assert picture.width > 3 * picture.height


def test_pseudo_labels_are_what_the_teacher_is_sure_of(done: tuple[Cohort, Path]) -> None:
    cohort, folder = done
    labelled = json.loads((folder / STAGES[0] / "training.json").read_text())["tiles"]
    for number, (positive, negative) in enumerate(zip(SETTINGS["positive"], SETTINGS["negative"], strict=True), 1):
        stored = read_pseudo(cohort, f"s_{number}").load()
        tiles = [str(tile) for tile in stored[n.TILE].values]
        taught = json.loads((folder / STAGES[number] / "training.json").read_text())
        assert (taught["tiles"], taught["unlabelled"]) == ([*labelled, *tiles], tiles)
        assert not set(tiles) & {*labelled, "grid/m3", "grid/m4"}, "labelled, val and test must stay out"
        assert set(tiles) | set(labelled) == {"grid/m0", "grid/m1", "grid/m2", "grid/m5"}
        assert (stored.attrs["positive"], stored.attrs["negative"]) == (positive, negative)
        teacher = detector(folder / STAGES[number - 1])
        assert stored.attrs["teacher_sha256"] == resolve_checkpoint(folder / STAGES[number - 1]).sha256
        for index, tile in enumerate(tiles):
            expected = pseudo_target(seen(teacher, tile), positive=positive, negative=negative)
            differ = stored[n.TARGET].values[index] != expected
            assert differ.mean() < 1e-3
    assert not [problem for problem in check(cohort.url) if "pseudo" in problem.where]


def test_metrics_are_those_of_the_annotation(done: tuple[Cohort, Path]) -> None:
    cohort, folder = done
    for number, stage in enumerate(STAGES):
        found = record(folder, stage)
        assert found["n_samples"] == {"labelled": 1, "pseudo_labelled": 3 if number else 0}
        model = detector(folder / stage)
        points = particles("grid/m4", 96)
        truth = disc_target(points.yx, 0.6 * points.diameter_px, (96, 96))
        calls = seen(model, "grid/m4") >= found["pixel"]["threshold"]
        tp, fp, fn = (calls & (truth == 1)).sum(), (calls & (truth == 0)).sum(), (~calls & (truth == 1)).sum()
        ours = found["pixel"]["test"]
        assert ours["precision"] == pytest.approx(tp / (tp + fp), abs=0.02)
        assert ours["recall"] == pytest.approx(tp / (tp + fn), abs=0.02)
        assert ours["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=0.02)
        assert ours["iou"] == pytest.approx(tp / (tp + fp + fn), abs=0.02)
        assert ours["n_pixels"] == 96 * 96
        stored, known = np.rint(seen(model, "grid/m4") * PROBABILITY_STEPS), truth >= 0
        assert ours["auc"] == pytest.approx(roc_auc_score(truth[known], stored[known]), abs=1e-12)
        assert found["pixel"]["auc_bins"] == PROBABILITY_STEPS + 1
        for part, name in ((n.VAL, "grid/m3"), (n.TEST, "grid/m4")):
            scores = found["particle"][part]
            assert scores["tp"] + scores["fn"] == len(particles(name, 96))
        assert found["particle"]["match_distance_px"] == DIAMETER_PX / 2
    taught = record(folder, STAGES[1])
    assert taught["pseudo_labels"]["n_samples"] == 2, "the micrograph without annotation cannot be held against one"
    target = read_pseudo(cohort, "s_1")[n.TARGET].values
    assert taught["n_pixels"]["pseudo_labelled"]["n_positive"] == (target == 1).sum()
    assert taught["n_pixels"]["pseudo_labelled"]["n_unknown"] == (target == -1).sum()


def test_scores_are_stored_as_labelled_arrays(done: tuple[Cohort, Path]) -> None:
    cohort, folder = done
    stored = cohort.read(f"{n.SELFTRAIN}/s")
    assert stored["particle_f1"].dims == (n.STAGE, n.PART)
    for stage in STAGES:
        for part in (n.VAL, n.TEST):
            one = stored.sel({n.STAGE: stage, n.PART: part})
            assert float(one["particle_f1"]) == record(folder, stage)["particle"][part]["f1"]
            assert float(one["pixel_auc"]) == record(folder, stage)["pixel"][part]["auc"]
    assert (stored["pixel_auc_bins"] == PROBABILITY_STEPS + 1).all()
    np.testing.assert_array_equal(stored["pseudo_positive"].values[1:], SETTINGS["positive"])
    assert stored.attrs["provenance"]["settings"]["labelled"] == 1


def test_the_final_model_is_the_best_on_val_and_infers(done: tuple[Cohort, Path]) -> None:
    cohort, folder = done
    scores = [record(folder, stage)["particle"][n.VAL]["f1"] for stage in STAGES]
    best = STAGES[int(np.argmax(scores))]
    assert json.loads((folder / "selftrain.json").read_text())["best_stage"] == best
    assert (folder / "final_model.pt").read_bytes() == (folder / best / "model.pt").read_bytes()
    summary = infer(cohort.url, run="final", model=str(folder / "final_model.pt"), overrides=["device=cpu"])
    assert summary.n_done == 6
    assert cohort.run("final")[n.PROBABILITY].dims == (n.TILE, n.Y, n.X)


def test_run_again_it_repeats_nothing(done: tuple[Cohort, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, folder = done
    before = {p: p.stat().st_mtime_ns for p in folder.glob("iteration_*/*")}
    monkeypatch.setattr(module, "write_pseudo", _never)
    monkeypatch.setattr(module, "_measured", _never)
    assert selftrain(cohort.url, run_name="s", out=folder.parent, config=SETTINGS) == folder / "final_model.pt"
    assert {p: p.stat().st_mtime_ns for p in folder.glob("iteration_*/*")} == before
    with pytest.raises(RunMismatchError, match=r"another training \(different: settings\.epochs\)"):
        other = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 5}}
        selftrain(cohort.url, run_name="s", out=folder.parent, config=other)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("done again")


class KilledError(Exception):
    pass


def test_two_at_once_are_refused(done: tuple[Cohort, Path]) -> None:
    cohort, folder = done
    with hold_lock(cohort.location, "selftrain-s", what="a test"), pytest.raises(RunBusyError):
        selftrain(cohort.url, run_name="s", out=folder.parent, config=SETTINGS)


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_weights(done: tuple[Cohort, Path], tmp_path: Path) -> None:
    _, whole = done
    cohort = make_micrographs(tmp_path / "c.zarr", contrast=20)

    def again() -> Path:
        return selftrain(cohort.url, run_name="s", out=tmp_path, config=SETTINGS)

    for kill in (_kill_in_epoch, _kill_while_labels_are_written, _kill_before_scores):
        with pytest.MonkeyPatch.context() as patch:
            kill(patch)
            with pytest.raises(KilledError):
                again()
    assert not (tmp_path / "s" / "final_model.pt").exists()
    assert again() == tmp_path / "s" / "final_model.pt"
    assert digests(tmp_path / "s") == digests(whole)


def kill_in_the_first_round(url: str, out: str) -> None:
    """Self-trains until this process is killed, between two steps of the first round."""
    step = NetworkTraining.training_step
    n_steps = 4 * 3 + 2

    def fatal(network: NetworkTraining, batch: object, index: int) -> object:
        nonlocal n_steps
        n_steps -= 1
        if n_steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(network, batch, index)

    NetworkTraining.training_step = fatal
    selftrain(url, run_name="s", out=out, config=SETTINGS)


def told_unfinished(cohort: Cohort) -> list[str]:
    (parts,) = (one.parts for one in report_sections(cohort) if one.key == "selftrain")
    return [part.text for part in parts if isinstance(part, Note)]


@pytest.mark.slow
def test_sigkill_in_a_round(done: tuple[Cohort, Path], tmp_path: Path) -> None:
    _, whole = done
    cohort = make_micrographs(tmp_path / "c.zarr", contrast=20)
    killed = FORKS.Process(target=kill_in_the_first_round, args=(cohort.url, str(tmp_path)))
    killed.start()
    killed.join(timeout=200)
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / "s" / STAGES[0] / "metrics.json").is_file()
    assert not (tmp_path / "s" / STAGES[1] / "model.pt").exists()
    assert told_unfinished(cohort) == [f"s: {UNFINISHED_STUDY}"]
    selftrain(cohort.url, run_name="s", out=tmp_path, config=SETTINGS)
    assert told_unfinished(cohort) == []
    assert digests(tmp_path / "s") == digests(whole)


def _kill_in_epoch(patch: pytest.MonkeyPatch) -> None:
    def fatal(epoch: object) -> None:
        if getattr(epoch, "epoch", 0) == 3:
            raise KilledError

    patch.setattr(module, "epoch_lines", lambda _: fatal)


def _kill_while_labels_are_written(patch: pytest.MonkeyPatch) -> None:
    encode, left = pseudo_store.shards.encode_tile, [2]

    def fatal(*args: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        return encode(*args)

    patch.setattr(pseudo_store.shards, "encode_tile", fatal)


def _kill_before_scores(patch: pytest.MonkeyPatch) -> None:
    def fatal(*_: object) -> None:
        raise KilledError

    patch.setattr(module, "_measured", fatal)


def test_other_annotations_are_another_training(done: tuple[Cohort, Path], tmp_path: Path) -> None:
    _, folder = done
    cohort = make_micrographs(tmp_path / "c.zarr", contrast=20)
    shutil.copytree(folder, tmp_path / "s")
    points = cohort.annotations(lazy=False).load()
    cohort.write(n.ANNOTATIONS, points.assign({n.X: points[n.X] + 3}), POINTS)
    with pytest.raises(RunMismatchError, match=r"another training \(different: annotations_digest\)"):
        selftrain(cohort.url, run_name="s", out=tmp_path, config=SETTINGS)


def test_data_sets_that_judge_teach_nothing(tmp_path: Path) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=(n.TRAIN, n.TRAIN, n.VAL, n.TEST, "", "", ""))
    column = open_column(cohort.location, f"{n.IMAGES}/{n.DONOR}")
    column[:] = np.array(["a", "b", "c", "d", "c", "d", "e"], np.dtypes.StringDType())
    settings = SelfTrainSettings(labelled=1)

    def unlabelled() -> set[str]:
        study = plan_study(cohort, "s", tmp_path, settings, require_split(cohort))
        return {str(name) for name in study.unlabelled.names} - {"grid/m0", "grid/m1"}

    assert unlabelled() == {"grid/m4", "grid/m5", "grid/m6"}, "split by tile"
    open_column(cohort.location, f"{n.IMAGES}/{n.SPLIT}").attrs["by"] = n.DONOR
    assert unlabelled() == {"grid/m6"}


@pytest.mark.parametrize("judge", [3, 4])
def test_copies_of_micrographs_that_judge_teach_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judge: int
) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=(n.TRAIN, n.TRAIN, n.TRAIN, n.VAL, n.TEST, "", "", ""))
    pixels = open_column(cohort.location, f"{n.IMAGES}/{n.IMAGE}")
    grain = stream(9).normal(0, 0.5, pixels.shape[1:])
    pixels[5] = (0.5 * pixels[judge] + 10 + grain).astype(pixels.dtype)
    column = open_column(cohort.location, f"{n.IMAGES}/{n.SHA256}")
    column[6] = column[judge]
    study = plan_study(cohort, "s", tmp_path, SelfTrainSettings(labelled=1), require_split(cohort))
    taught = {*study.unlabelled.names, *study.labelled.names}
    assert taught == {"grid/m0", "grid/m1", "grid/m2", "grid/m7"}
    told = capsys.readouterr().err
    part = {3: n.VAL, 4: n.TEST}[judge]
    assert f"grid/m{judge} ({part}) and grid/m5 (without a part): nearly the same image" in told
    assert f"grid/m{judge} ({part}) and grid/m6 (without a part): same file content" in told


def test_anew_begins_from_random_weights(done: tuple[Cohort, Path], tmp_path: Path) -> None:
    cohort, folder = done
    config = {**SETTINGS, "anew": True, "positive": [0.9], "negative": [0.1]}
    selftrain(cohort.url, run_name="anew", out=tmp_path, config=config)
    started = json.loads((tmp_path / "anew" / STAGES[1] / "training.json").read_text())["start"]
    assert started is None
    assert json.loads((folder / STAGES[1] / "training.json").read_text())["start"]["kind"] == "particle_unet"
    assert digests(tmp_path / "anew")[f"{STAGES[0]}/model.pt"] == digests(folder)[f"{STAGES[0]}/model.pt"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labelled": 4}, FintuneValueError, "expected 1 to 3 annotated train micrographs, or 0; got 4"),
        ({"labelled": ["grid/m3"]}, UnknownNameError, "no annotated micrograph of the train part 'grid/m3'"),
        ({"labelled": ["grid/m0", "grid/m1", "grid/m0"]}, SettingsError, "labelled names grid/m0 more than once"),
        ({"positive": [0.9]}, SettingsError, "one threshold per round each, got 1 and 2"),
        ({"positive": [0.9, 0.1]}, SettingsError, "expected 0 <= negative < positive <= 1, got 0.2 and 0.1"),
        ({"rounds": {"epoch": 3}}, SettingsError, "no such setting"),
    ],
)
def test_settings_that_cannot_be(
    done: tuple[Cohort, Path], tmp_path: Path, change: dict, error: type[Exception], message: str
) -> None:
    cohort, _ = done
    with pytest.raises(error, match=message):
        selftrain(cohort.url, run_name="x", out=tmp_path, config={**SETTINGS, **change})


def test_nothing_left_to_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = make_micrographs(tmp_path / "c.zarr", parts=(n.TRAIN, n.VAL))
    status = cli.run(["selftrain", cohort.url, "--run-name", "s", "--out", str(tmp_path), "labelled=1"])
    assert status == 2
    assert "none is left for pseudo-labels" in capsys.readouterr().err
