"""Models of classes compared on the same patches: killed and continued, scored as `evaluate` scores, shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from class_runs import SMALL as PATCHES
from class_runs import shaken_maps, store_class_run, tissue_store
from sam2_weights import SMALL, random_state, write_published

from fintune_xr import names as n
from fintune_xr.analysis.report.contents import Note, Stale
from fintune_xr.errors import FintuneValueError, RunBusyError, SettingsError, UnknownNameError
from fintune_xr.models.checkpoints import RECORD_FILE
from fintune_xr.models.clip.random_folder import write_random_clip
from fintune_xr.pipelines.cli import app as cli
from fintune_xr.pipelines.report.report import report, report_sections
from fintune_xr.pipelines.steps.check import check
from fintune_xr.pipelines.steps.evaluate import evaluate
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.studies import model_training
from fintune_xr.pipelines.studies.benchmark import benchmark
from fintune_xr.settings import load_settings
from fintune_xr.store.cohort import open_cohort
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.text import texts

HEADS = ("sam2_semantic-prompts", "sam2_semantic-dense", "sam2_semantic-both")
FINE = ("zero-shot", "semantic_unet", "swin_unetr", "mask2former", *HEADS, "by-hand")
ALONE = "semantic_unet-tumor"
PROMPTS = {name: [f"a patch of {name}"] for name in ClassMap().names}
LOOSE = {"points_per_side": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "max_area_fraction": 1}
SETTINGS: dict[str, Any] = {
    "train": {"epochs": 1, "patches_per_epoch": 2, "batch_size": 2, "patch_px": 64, "window_px": 128, "threads": 1},
    "train_of": {
        "semantic_unet": {"filters": [4, 8, 8]},
        "swin_unetr": {"features": 8, "heads": [1, 1, 2, 2]},
        "mask2former": {
            "width": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4, "features": 32, "queries": 6,
            "pixel_layers": 1, "decoder_layers": 3, "decoder_heads": 4, "points": 256,
        },
        "sam2_semantic": {"warmup_steps": 1},
    },
    "infer": {"device": "cpu"},
    "runs": ["by-hand", "tumor-by-hand"],
    "coarser": {"tumor": [1, 19, 20], "rest": [2, 3, 4, 18]},
    "coarser_models": ["semantic_unet"],
    "resamples": 20,
}  # fmt: skip


def called(folder: Path, **said: Any) -> xr.Dataset:
    settings = SETTINGS | {
        "zero_shot": {
            "model": str(folder / "sam2.pt"), "clip": str(folder / "clip"), "prompts": str(folder / "prompts.json"),
            "infer": {"device": "cpu", "model": LOOSE}, "classify": {"min_region_px": 64, "resamples": 20},
        }
    }  # fmt: skip
    return benchmark(folder / "he.zarr", out=folder / "models", config=settings | said)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split store with runs of five classes and of tumour alone that were drawn by hand; SAM 2 and CLIP of chance."""
    folder = tmp_path_factory.mktemp("he")
    split(tissue_store(folder, settings=PATCHES.model_copy(update={"n_donors": 10})), fractions=(0.3, 0.1, 0.6), seed=1)
    cohort, tumor = open_cohort(folder / "he.zarr"), load_settings(ClassMap, {"classes": {"tumor": [1, 19, 20]}})
    store_class_run(cohort, "by-hand", shaken_maps(cohort, ClassMap(), wrong=0.1), ClassMap())
    store_class_run(cohort, "tumor-by-hand", shaken_maps(cohort, tumor, wrong=0.1), tumor)
    write_published(folder / "sam2.pt", random_state(SMALL))
    write_random_clip(folder / "clip", [text for several in PROMPTS.values() for text in several])
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def done(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, killed before the training of Mask2Former and called again."""
    folder = tmp_path_factory.mktemp("done") / "w"
    shutil.copytree(bare, folder)
    train = model_training.train

    def killed(**said: Any) -> Path:
        if "mask2former" in said["run_name"]:
            raise KeyboardInterrupt
        return train(**said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
        patch.setattr(model_training, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            called(folder)
        assert sorted(one.name for one in (folder / "models").iterdir()) == ["e1-semantic_unet", "e1-swin_unetr"]
        assert not open_cohort(folder / "he.zarr").has(n.BENCHMARK_PATH)
        before = (folder / "models" / "e1-swin_unetr" / RECORD_FILE).read_bytes()
        patch.setattr(model_training, "train", train)
        called(folder)
        assert (folder / "models" / "e1-swin_unetr" / RECORD_FILE).read_bytes() == before
    return folder


@pytest.mark.slow
def test_all_models_are_scored_on_the_test_patches_and_learnt_from_the_train_patches(done: Path) -> None:
    cohort = open_cohort(done / "he.zarr")
    found = cohort.metrics(n.BENCHMARK).load()
    assert tuple(texts(found[n.RUN])) == FINE
    images = cohort.images(lazy=False)
    part = dict(zip(texts(images[n.TILE]), texts(images[n.SPLIT]), strict=True))
    assert {part[tile] for tile in texts(found[n.TILE])} == {n.TEST}
    seen = []
    for name in (*FINE[1:-1], ALONE):
        record = json.loads((done / "models" / f"e1-{name}" / RECORD_FILE).read_text())
        seen.append((sorted(record["tiles"]), sorted(record["validation_tiles"])))
    assert all(one == seen[0] for one in seen)
    assert {part[tile] for tile in seen[0][0]} == {n.TRAIN}
    assert {part[tile] for tile in seen[0][1]} == {n.VAL}
    for head in ("prompts", "dense", "both"):
        assert found.attrs["trainings"][f"sam2_semantic-{head}"]["settings"]["head"] == head


@pytest.mark.slow
def test_scores_and_differences_are_those_of_evaluate(done: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(done / "he.zarr", tmp_path / "he.zarr")
    found = open_cohort(copy).metrics(n.BENCHMARK).load()
    runs = found.attrs["runs"]
    slow = evaluate(copy, runs=list(runs.values()), split=n.TEST, resamples=20)
    primary = "perclass_dice_image_mean"
    for name in (n.CONFUSION, "dice_image_mean", primary, f"{primary}_interval", f"{primary}_difference_interval"):
        np.testing.assert_array_equal(found[name], slow[name].transpose(*found[name].dims), err_msg=name)
    assert texts(found[n.REFERENCE]) == list(runs)
    by_hand = found.sel({n.RUN: "by-hand", n.REFERENCE: "zero-shot"})
    assert float(by_hand[f"{primary}_difference_interval"][0]) > 0
    coarse = evaluate(copy, runs=[*runs.values(), "tumor-by-hand"], split=n.TEST, resamples=20, coarser=coarser())
    stored = open_cohort(copy).metrics("benchmark_coarser").load()
    for name in ("by-hand", "tumor-by-hand"):
        np.testing.assert_array_equal(
            stored[primary].sel({n.RUN: name}), coarse[primary].sel({n.RUN: name}), err_msg=name
        )


def coarser() -> dict[str, Any]:
    return dict(SETTINGS["coarser"])


@pytest.mark.slow
def test_the_binary_task_stands_in_a_table_of_its_own_with_models_that_learnt_nothing_else(done: Path) -> None:
    cohort = open_cohort(done / "he.zarr")
    fine, coarse = (cohort.metrics(name).load() for name in (n.BENCHMARK, "benchmark_coarser"))
    assert texts(coarse[n.RUN]) == [*FINE, ALONE, "tumor-by-hand"]
    assert texts(coarse[n.CLASS]) == ["tumor"]
    assert coarse.attrs[n.COARSER] == coarser()
    assert texts(coarse[n.TILE]) == texts(fine[n.TILE])
    assert n.COARSER not in fine.attrs
    record = json.loads((done / "models" / f"e1-{ALONE}" / RECORD_FILE).read_text())
    assert record["settings"]["classes"]["classes"] == [["tumor", [1, 19, 20]]]


@pytest.mark.slow
def test_what_is_there_is_not_made_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    before = open_cohort(done / "he.zarr").metrics(n.BENCHMARK).load()
    weights = {path: path.stat().st_mtime_ns for path in (done / "models").rglob("model.pt")}
    again = called(done)
    xr.testing.assert_equal(again, before)
    assert weights == {path: path.stat().st_mtime_ns for path in (done / "models").rglob("model.pt")}
    assert check(done / "he.zarr") == []
    written = pd.read_csv(done / "models" / "e1-benchmark.tsv", sep="\t").set_index("model")
    assert list(written.index) == list(FINE)
    one = written.loc["by-hand", "perclass_dice_image_mean"]
    assert one == float(before["perclass_dice_image_mean"].sel({n.RUN: "by-hand"}))
    assert len(pd.read_csv(done / "models" / "e1-coarser.tsv", sep="\t")) == len(FINE) + 2
    with open_cohort(done / "he.zarr").hold(n.BENCHMARK, what="comparing"), pytest.raises(RunBusyError):
        called(done)


@pytest.mark.slow
def test_the_report_shows_it_and_says_when_a_run_is_another(done: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(done / "he.zarr", tmp_path / "he.zarr")
    page = report(copy, out=tmp_path / "page.html").read_text()
    assert "Ways to train" in page
    assert "it was shown no label" in page
    assert "an easier question than which class a pixel has" in page
    tables = sorted(path.name for path in (tmp_path / "page_tables").glob("benchmark*"))
    assert "benchmark_coarser_tumor_test.tsv" in tables
    rows = pd.read_csv(tmp_path / "page_tables" / "benchmark_scores.tsv", sep="\t")
    assert rows["run"].tolist() == list(FINE)
    section = study(copy)
    said = [part.text for part in section.parts if isinstance(part, Note)]
    assert sum(text.startswith("Did it help?") for text in said) == len(FINE) - 1 + len(FINE) + 1
    assert section.findings[0].text.startswith("Ways to train: of 8 models, highest by-hand, per-class Dice ")
    shutil.rmtree(copy / "runs" / "e1-semantic_unet-tumor")
    (stale,) = study(copy).stale
    assert isinstance(stale, Stale)
    assert stale.reason == f"run e1-{ALONE} is gone"


def study(store: Path) -> Any:
    (section,) = [one for one in report_sections(open_cohort(store)) if one.key == n.BENCHMARK]
    return section


@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (
            {"models": ["flow_unet"], "train_of": {}, "coarser_models": []},
            SettingsError,
            "flow_unet, which learns no classes of pixels",
        ),
        ({"models": ["semantic_unet", "semantic_unet"], "train_of": {}}, SettingsError, "got several semantic_unet"),
        ({"train": {"features": 8}}, SettingsError, r"training of semantic_unet .*\n  features: no such setting"),
        ({"train": {"head": "dense"}}, SettingsError, r"heads=\[…\]"),
        ({"train_of": {"semantic_unit": {}}}, UnknownNameError, "Did you mean 'semantic_unet'"),
        ({"baseline": "nobody"}, UnknownNameError, "no model to compare with 'nobody'; known: .*semantic_unet"),
        ({"coarser": {}}, SettingsError, "run tumor-by-hand has other classes"),
        ({"coarser": {"tumor": [1, 19, 20]}}, SettingsError, "stroma of the trainings: code 2 is in none"),
        ({"runs": ["nobody"]}, UnknownNameError, "nobody"),
        ({"prefix": "../"}, FintuneValueError, r"\.\./semantic_unet"),
        ({"infer": {"devices": "cpu"}}, SettingsError, "settings of infer"),
        ({"zero_shot": {"model": "threshold", "clip": "x", "prompts": "x"}}, SettingsError, "which finds no regions"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    bare: Path, said: dict[str, Any], error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_training, "train", lambda **_: pytest.fail("a training began"))
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL})
    with pytest.raises(error, match=told):
        called(bare, **said)


def test_the_command_line_names_models_in_the_settings(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", str(bare / "he.zarr"), "--model", "swin_unetr"]) == 2
    assert "Write models=[swin_unetr, …]" in capsys.readouterr().err
    assert cli.run(["benchmark", "--settings", "--model", "semantic_unet"]) == 0
    said = capsys.readouterr().out
    assert "coarser_models=[]" in said
    assert "train.class_weights=sqrt" in said
