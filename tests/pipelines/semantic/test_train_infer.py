"""Stained tissue from the command line: trained, applied, scored; weights of other classes are refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from class_runs import tissue_store

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, RunMismatchError, SplitError
from fintune_xr.finetune.semantic.settings import Sam2TrainSettings
from fintune_xr.models.semantic_unet.adapter import SemanticUnet, save_semantic_unet
from fintune_xr.models.semantic_unet.settings import SemanticUnetArchitecture
from fintune_xr.pipelines.cli.app import run
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.infer_plan import plan_run
from fintune_xr.pipelines.steps.ingest import ingest
from fintune_xr.pipelines.steps.split import split
from fintune_xr.pipelines.steps.train import train
from fintune_xr.settings import load_settings
from fintune_xr.simulation.he_cohort import HeCohortSettings, simulate_he_cohort
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.lineage.learnt_scale import mixed_sides
from fintune_xr.tasks.class_map import ClassMap

QUICK = ("epochs=1", "patches_per_epoch=4", "batch_size=2", "patch_px=64", "filters=[4,8,8]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tissue_store(tmp_path_factory.mktemp("tissue"))
    split(made, fractions=(0.5, 0.25, 0.25), seed=1)
    return made


def do(*words: str | Path) -> None:
    assert run([str(word) for word in words]) == 0


def test_train_infer_and_evaluate_from_the_command_line(store: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    do("train", store, "--model", "semantic_unet", "--run-name", "small", "--out", models, *QUICK)
    record = json.loads((models / "small" / "training.json").read_text())
    assert record["state"] == "finished"
    assert [name for name, _ in record["settings"]["classes"]["classes"]] == list(ClassMap().names)
    assert len(record["settings"]["class_pixels"]) == 5
    do("infer", store, "--run", "small", "--model", models / "small", "--cluster", "threads")
    found = open_cohort(store).run("small", lazy=False)
    assert found[n.CLASS].values.tolist() == list(ClassMap().names)
    assert found[n.CLASSES].attrs[n.CLASS_MAP] == ClassMap().as_dict()
    assert (found[n.STATE].values == n.DONE).all()
    maps, counts = found[n.CLASSES].values, found[n.CLASS_PX].values
    for label in range(1, 6):
        np.testing.assert_array_equal((maps == label).sum((1, 2)), counts[:, label - 1])
    do("evaluate", store, "--run", "small", "--split", "val")
    scores = open_cohort(store).metrics(n.VAL)
    log = list(csv.DictReader((models / "small" / "log.csv").open()))
    best = max(float(row["perclass_dice_image_mean"]) for row in log)
    assert float(scores["perclass_dice_image_mean"].sel({n.RUN: "small"})) == pytest.approx(best, abs=1e-6)


def test_a_binary_task_is_a_class_map(store: Path, tmp_path: Path) -> None:
    folder = train(
        store, model="semantic_unet", run_name="tumor", out=tmp_path, config="he_tumor",
        overrides=[*QUICK, "learning_rate=1e-3"],
    )  # fmt: skip
    infer(store, run="tumor", model=str(folder), cluster="threads")
    found = open_cohort(store).run("tumor", lazy=False)
    assert found[n.CLASS].values.tolist() == ["tumor"]
    assert set(np.unique(found[n.CLASSES].values)) <= {0, 1, 255}


def test_another_magnification_is_told(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(store, model="semantic_unet", run_name="scale", out=tmp_path, overrides=QUICK)
    file = folder / "training.json"
    record = json.loads(file.read_text())
    assert record["pixel_sides_um"] == [0.25, 0.25]
    three = HeCohortSettings(n_donors=3, tiles_per_donor=(1, 1), tile_px=96, damaged=False)
    simulate_he_cohort(tmp_path / "raw", settings=three)
    sides = ("0.2500", "0.2600", "0.5000")
    for path in [*(tmp_path / "raw").rglob("*S00?-DX1_xmin0_*.png")]:
        side = sides[int(path.name.split("-S00")[1][0])]
        path.rename(path.with_name(path.name.replace("MPP-0.2500", f"MPP-{side}")))
    ingest(tmp_path / "raw", tmp_path / "other.zarr", layout="bcss")
    capsys.readouterr()
    infer(store, run="same", model=str(folder), cluster="threads", parts=("val",))
    assert "magnification" not in capsys.readouterr().err
    infer(tmp_path / "other.zarr", run="other", model=str(folder), cluster="threads")
    assert "learnt from pixels of 0.25 um, and those of 1 of 3 tiles are 0.5 um" in capsys.readouterr().err
    # A record of an earlier release does not tell: the training is the same, and nothing is said.
    del record["pixel_sides_um"]
    file.write_text(json.dumps(record))
    assert train(store, model="semantic_unet", run_name="scale", out=tmp_path, overrides=QUICK) == folder
    infer(tmp_path / "other.zarr", run="again", model=str(folder), cluster="threads")
    assert "magnification" not in capsys.readouterr().err


def test_tiles_of_two_magnifications_learn_together_and_it_is_said() -> None:
    assert mixed_sides({"pixel_sides_um": [0.25, 0.5]}).startswith("pixels of 0.25 to 0.5 um learn together")
    assert mixed_sides({"pixel_sides_um": [0.25, 0.28]}) == ""
    assert mixed_sides({}) == ""


def test_without_a_val_part_it_is_said_what_to_do(tmp_path: Path) -> None:
    made = tissue_store(tmp_path)
    split(made, fractions=(0.5, 0.0, 0.5), seed=1)
    with pytest.raises(
        SplitError, match=r"in part 'val' \(annotated tiles of all markers: train \d+, val 0, test \d+\)"
    ):
        train(made, model="semantic_unet", run_name="x", out=tmp_path, overrides=QUICK)


def test_weights_of_other_classes_are_not_trained_on(store: Path, tmp_path: Path) -> None:
    folder = train(
        store, model="semantic_unet", run_name="tumor", out=tmp_path, overrides=[*QUICK, "classes={tumor:[1]}"]
    )
    with pytest.raises(RunMismatchError, match="trained on other classes"):
        train(store, model=str(folder), run_name="more", out=tmp_path, overrides=QUICK)
    with pytest.raises(FintuneValueError, match="expected a cohort"):
        train(store, model="flow_unet", run_name="cells", out=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model 'semantic_unett'.*Did you mean 'semantic_unet'"):
        train(store, model="semantic_unett", run_name="x", out=tmp_path)


def test_classes_of_a_model_are_held_against_the_legend(store: Path, tmp_path: Path) -> None:
    weights = tmp_path / "vessel.pt"
    class_map = load_settings(ClassMap, {"classes": {"tumor": [1], "blood_vessel": [9]}})
    network = SemanticUnet(SemanticUnetArchitecture(class_map=class_map, filters=(4, 8, 8)))
    save_semantic_unet(network, {}, weights)
    both = r"tumor \[1\], blood_vessel \[9\]; codes there: 0 outside_roi, 1 tumor, .*18 blood_vessel"
    for refuses in (infer, plan_run):
        with pytest.raises(FintuneValueError, match=both):
            refuses(store, run="vessel", model=str(weights))
    assert run(["infer", str(store), "--run", "vessel", "--model", str(weights)]) == 2
    assert "vessel" not in open_cohort(store).run_names()
    # Nothing is annotated there, so nothing speaks against them.
    bare = Path(shutil.copytree(store, tmp_path / "bare.zarr"))
    shutil.rmtree(bare / n.ANNOTATIONS)
    assert infer(bare, run="vessel", model=str(weights)).n_new


def test_the_published_experiments_are_shipped() -> None:
    third, second, first = (load_settings(Sam2TrainSettings, f"he_v{number}") for number in (3, 2, 1))
    assert [(step.from_epoch, step.blocks, step.stages, step.encoder_learning_rate) for step in third.unfreezing] == [
        (0, "all", None, None), (11, None, (3, 4), 6e-6), (26, 0, None, 6e-7),
    ]  # fmt: skip
    assert (third.learning_rate, third.learning_rate * third.final_rate) == (8e-5, pytest.approx(1e-6))
    assert third.loss.model_dump() == {"mask": 5, "dice": 2, "iou": 1, "presence": 1, "gamma": 2}
    assert (third.warmup_steps, third.weight_decay, third.patience, third.min_gain) == (250, 0.02, 10, 0.001)
    assert [(view.patch_px, view.scale) for view in third.views] == [(512, 0.5), (1024, 1.0)]
    assert (second.learning_rate * second.final_rate, second.epochs) == (pytest.approx(6e-6), 100)
    assert (first.loss.mask, first.loss.dice, first.weight_decay, first.epochs) == (20, 1, 0.05, 150)
    assert load_settings(Sam2TrainSettings, "he_tumor").classes is not None
