"""Trainings of networks of classes: what they are told, what they learn, what is kept of them."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from class_tiles import THREE, class_tiles, settings_for
from sam2_weights import random_state, write_published
from sklearn.metrics import f1_score

from fintune_xr.errors import FintuneValueError, RunMismatchError, SettingsError
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.registry import TRAINERS, train_settings, trainable, trainer_named
from fintune_xr.finetune.semantic.objective import FOREGROUND, SCORE, ClassObjective, loss_rule
from fintune_xr.finetune.semantic.settings import (
    SMALL_SAM2,
    Mask2FormerTrainSettings,
    Sam2TrainSettings,
    SemanticTrainSettings,
    SemanticUnetTrainSettings,
    SwinUnetrTrainSettings,
)
from fintune_xr.finetune.semantic.tiles import target_of, with_class_pixels
from fintune_xr.models.classes.checkpoint import trained_classes
from fintune_xr.models.registry import kind_named, load_model, resolve_checkpoint
from fintune_xr.models.sam2.keys import transformers_state
from fintune_xr.settings import load_settings
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.records import ClassTile
from fintune_xr.tasks.semantic import RGB_CHANNELS
from fintune_xr.tasks.task import SEMANTIC

PLAIN = {
    "rotation": "right_angles",
    "elastic": 0,
    "stain_alpha": 0,
    "stain_beta": 0,
    "colour": 0,
    "blur_probability": 0,
}
SMALL: dict[str, Any] = {"epochs": 1, "patches_per_epoch": 4, "batch_size": 2, "patch_px": 64, "window_px": 128}
SMALL_OF: dict[type[SemanticTrainSettings], dict[str, Any]] = {
    SemanticUnetTrainSettings: {"filters": [4, 8, 8]},
    Sam2TrainSettings: {"warmup_steps": 1},
    SwinUnetrTrainSettings: {"features": 8, "heads": [1, 1, 2, 2]},
    Mask2FormerTrainSettings: {
        "width": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4, "features": 32, "queries": 6,
        "pixel_layers": 1, "decoder_layers": 3, "decoder_heads": 4, "points": 256,
    },
}  # fmt: skip
TRAINED = [name for name, trainer in TRAINERS.items() if trainer.task == SEMANTIC and trainer.is_new]


def counted(tiles: Any) -> list[int]:
    """Pixels of each class, code by code."""
    return [int((tiles.codes == code).sum()) for code in (1, 2, 18)]


def small(name: str, tiles: Any, **chosen: Any) -> Any:
    kind = train_settings(name)
    return settings_for(kind, tiles, **{**SMALL, **SMALL_OF[kind], **chosen})


@pytest.mark.parametrize("name", TRAINED)
def test_every_kind_trains_and_is_applied(name: str, tmp_path: Path) -> None:
    tiles, held_out = class_tiles(2), class_tiles(1, first=10)
    made = train(tiles, held_out, settings=small(name, tiles), out=tmp_path / "out")
    assert kind_named(made.kind).name == name
    assert trained_classes(made) == THREE
    row = next(csv.DictReader((tmp_path / "out" / "log.csv").open()))
    assert {SCORE, "dice_tumor", "dice_stroma", "dice_blood_vessel", FOREGROUND, "loss_mask", "loss_dice"} <= set(row)
    assert (name == "sam2_semantic") == ({"loss_iou", "loss_class"} <= set(row))
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["settings"]["class_pixels"] == counted(tiles)
    settings = kind_named(name).settings()
    model: Any = load_model(made, channels=RGB_CHANNELS, settings=settings, device="cpu", keep=False)
    image = held_out.read(0)[0]
    found = model.reconstruct(model.predict([model.normalise(image)])[0])
    assert isinstance(found, ClassTile)
    assert found.classes.shape == image.shape[1:]
    assert found.classes.max() <= 3


def test_a_score_is_the_mean_over_classes_and_not_that_of_tissue() -> None:
    tiles = class_tiles(2)
    settings = small("semantic_unet", tiles)
    model = trainable(settings, start=None, channels=RGB_CHANNELS, device="cpu")

    class EverythingIsStroma:
        choice = model.applied.choice

        def normalise(self, tile: np.ndarray) -> np.ndarray:
            return tile.astype(np.float32)

        def predict(self, batch: list[np.ndarray]) -> list[np.ndarray]:
            maps = np.full((4, *batch[0].shape[1:]), 0.01, np.float32)
            maps[2] = 0.97
            return [maps for _ in batch]

        def reconstruct(self, maps: np.ndarray) -> ClassTile:
            return ClassTile(maps.argmax(0).astype(np.uint8), 3)

    objective = ClassObjective(settings, EverythingIsStroma(), THREE)  # type: ignore[arg-type]
    found = objective.held_out(tiles)(False)
    truth = np.concatenate([tiles.labels(index, THREE).ravel() for index in range(2)])
    assert found.measures[FOREGROUND] > 0.85
    of_class = []
    for label in (1, 2, 3):
        scores = []
        for index in range(2):
            labels = tiles.labels(index, THREE).ravel()
            valid = labels != 255
            if (labels == label).any():
                predicted = np.full(valid.sum(), 2) == label
                scores.append(f1_score(labels[valid] == label, predicted, zero_division=0))
        of_class.append(np.mean(scores))
    assert found.score == found.measures[SCORE] == pytest.approx(np.mean(of_class), abs=1e-9)
    assert found.score < 0.4
    assert objective.score == SCORE
    assert (truth == 255).any()


def test_weights_follow_from_the_training_tiles() -> None:
    tiles = class_tiles(3)
    counts = counted(tiles)
    assert tiles.pixels_of_classes(THREE).sum(axis=0)[1:].tolist() == counts
    auto = loss_rule(small("semantic_unet", tiles, class_weights="auto")).class_weights
    expected = max(counts) / np.array(counts)
    np.testing.assert_allclose(auto, expected / expected.mean())
    given = loss_rule(small("semantic_unet", tiles, class_weights=[1, 1, 4])).class_weights
    np.testing.assert_allclose(given, [0.5, 0.5, 2])
    with pytest.raises(SettingsError, match="expected the classes"):
        trainable(SemanticUnetTrainSettings(), start=None, channels=RGB_CHANNELS, device="cpu")


def test_what_is_unknown_is_unknown() -> None:
    tiles = class_tiles(1)
    codes, labels = tiles.codes[0], tiles.labels(0, THREE)
    target = target_of(labels)
    assert set(target[codes == 0]) == {-1}
    assert set(target[codes == 7]) == {0}
    assert set(target[codes == 18]) == {3}


def test_classes_that_are_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiles = class_tiles(2)
    more = ClassMap(classes={"tumor": [1], "necrosis": [4]})  # type: ignore[arg-type]
    with pytest.raises(FintuneValueError, match="class necrosis: not a pixel of it in the 2 training patches"):
        settings_for(SemanticUnetTrainSettings, class_tiles(2), class_map=more)
    settings = small("semantic_unet", tiles)
    objective: Any = trainable(settings, start=None, channels=RGB_CHANNELS, device="cpu").objective
    held_out = class_tiles(1, first=3)
    held_out.codes[held_out.codes == 18] = 2
    with caplog.at_level(logging.INFO):
        found = objective.held_out(held_out)(False)
    assert "no pixel of blood_vessel in the 1 validation tiles" in caplog.text
    assert np.isnan(found.measures["dice_blood_vessel"])
    assert not np.isnan(found.score)
    held_out.codes[:] = 7
    with pytest.raises(FintuneValueError, match="no pixel of any class"):
        objective.held_out(held_out)
    tiles.codes[0] = 0
    assert len(objective.prepare(tiles, tmp_path / "some")) == 1
    tiles.codes[:] = 0
    with pytest.raises(FintuneValueError, match="of none of 2 patches"):
        objective.prepare(tiles, tmp_path / "none")


def test_weights_of_other_classes_are_refused(tmp_path: Path) -> None:
    tiles = class_tiles(2)
    made = train(tiles, tiles, settings=small("semantic_unet", tiles), out=tmp_path / "out")
    other = ClassMap(classes={"tumor": [1], "stroma": [2]})  # type: ignore[arg-type]
    with pytest.raises(RunMismatchError, match="trained on other classes"):
        trainable(small("semantic_unet", tiles, class_map=other), start=made, channels=RGB_CHANNELS, device="cpu")
    with pytest.raises(SettingsError, match=r"filters=\(4, 8, 8\), which cannot be changed"):
        trainable(small("semantic_unet", tiles, filters=[8, 8, 8]), start=made, channels=RGB_CHANNELS, device="cpu")
    again = trainable(small("semantic_unet", tiles), start=made, channels=RGB_CHANNELS, device="cpu")
    assert isinstance(again.objective, ClassObjective)


def test_published_sam2_becomes_a_classifier_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fintune_xr.models.sam2.keys.SAM2_SIZES", {"small": SMALL_SAM2})
    state = random_state(SMALL_SAM2)
    start = resolve_checkpoint(write_published(tmp_path / "sam2.pt", state))
    other = tmp_path / "sam2.safetensors"
    safetensors.torch.save_file({key: value.clone() for key, value in transformers_state(state).items()}, other)
    assert start.kind == resolve_checkpoint(other).kind == "sam2"
    assert trainer_named("sam2").settings is Sam2TrainSettings
    tiles = class_tiles(2)
    settings = settings_for(
        Sam2TrainSettings, tiles, **SMALL, warmup_steps=1, gradient_clip=0, learning_rate=1e-3,
        unfreezing=[{"from_epoch": 0, "blocks": "all"}],
    )  # fmt: skip
    larger = settings.model_copy(update={"sam2": SMALL_SAM2.model_copy(update={"width": 32})})
    with pytest.raises(SettingsError, match=r"is a network with sam2=.*'width': 16.*which cannot be changed"):
        trainable(larger, start=start, channels=RGB_CHANNELS, device="cpu")
    made = train(tiles, tiles, settings=settings, out=tmp_path / "out", start=start)
    assert made.kind == "sam2_semantic"
    begun = [
        trainable(settings, start=one, channels=RGB_CHANNELS, device="cpu")
        for one in (start, resolve_checkpoint(other))
    ]
    first, second = (one.network.sam2.state_dict() for one in begun)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    learned = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["state"]
    assert torch.equal(
        learned["sam2.vision_encoder.backbone.blocks.0.attn.qkv.weight"],
        state["image_encoder.trunk.blocks.0.attn.qkv.weight"],
    )
    neck = "sam2.vision_encoder.neck.convs.0.weight"
    assert not torch.equal(learned[neck], state["image_encoder.neck.convs.0.conv.weight"])
    tokens = trainable(settings, start=made, channels=RGB_CHANNELS, device="cpu").undecayed
    assert [value.shape for value in tokens] == [(3, 2, 64)]


def test_published_stages_and_rates_of_the_experiments_fit_the_network() -> None:
    tiles = class_tiles(2)
    unfreezing = [
        {"from_epoch": 0, "blocks": "all"},
        {"from_epoch": 1, "stages": [3, 4], "encoder_learning_rate": 6e-6},
    ]
    settings = settings_for(Sam2TrainSettings, tiles, unfreezing=unfreezing)
    model = trainable(settings, start=None, channels=RGB_CHANNELS, device="cpu")
    assert model.encoder.stages == (1, 2, 3, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semantic_unet", "sam2_semantic"])
def test_a_killed_training_goes_on_to_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = class_tiles(2)
    settings = small(
        name, tiles, epochs=3, unfreezing=[{"from_epoch": 0, "blocks": "all"}, {"from_epoch": 2}],
        views=[{"from_epoch": 0, "patch_px": 32, "scale": 0.5}, {"from_epoch": 1, "patch_px": 64}],
    )  # fmt: skip
    train(tiles, tiles, settings=settings, out=tmp_path / "whole")

    def stop(record: Any) -> None:
        if record.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tiles, tiles, settings=settings, out=tmp_path / "killed", report=stop)
    train(tiles, tiles, settings=settings, out=tmp_path / "killed")
    whole, killed = (
        torch.load(tmp_path / which / "model.pt", weights_only=True)["state"] for which in ("whole", "killed")
    )
    assert whole.keys() == killed.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, killed[name])] == []


# Enough to learn four tiles by heart; twice as much as each needed when it was first tried.
OVERFITTING: dict[str, dict[str, Any]] = {
    "semantic_unet": {"filters": [8, 16, 16], "learning_rate": 1e-2, "epochs": 6},
    "sam2_semantic": {"learning_rate": 2e-3, "warmup_steps": 10, "epochs": 12},
    "swin_unetr": {"features": 12, "heads": [1, 1, 2, 2], "learning_rate": 3e-3, "epochs": 4},
    "mask2former": {
        **SMALL_OF[Mask2FormerTrainSettings], "width": 16, "queries": 8, "points": 1024, "learning_rate": 2e-3,
        "epochs": 6,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_kind_overfits_four_tiles(name: str, tmp_path: Path) -> None:
    tiles = class_tiles(4, px=64)
    settings = settings_for(
        train_settings(name), tiles, patches_per_epoch=40, batch_size=4, patch_px=64, gradient_clip=1,
        validate_every=2, augmentation={**PLAIN, "rotation": "none", "flip": False}, **OVERFITTING[name],
    )  # fmt: skip
    scores: list[float] = []
    made = train(tiles, tiles, settings=settings, out=tmp_path / "out", report=lambda one: scores.append(one.score))
    assert np.nanmax(scores) > 0.9, scores
    # What was learnt is in the weights file, and in the maps that it gives by itself.
    model: Any = load_model(made, channels=RGB_CHANNELS, settings=kind_named(name).settings(), device="cpu", keep=False)
    labels = np.stack([tiles.labels(index, THREE) for index in range(4)])
    found = np.stack(
        [model.reconstruct(model.predict([model.normalise(tiles.read(k)[0])])[0]).classes for k in range(4)]
    )
    known = labels != 255
    assert f1_score(labels[known], found[known], average="macro") > 0.9


def test_classes_are_stated_with_the_settings() -> None:
    tiles = class_tiles(2)
    stated = with_class_pixels(SemanticUnetTrainSettings(classes=THREE), tiles)
    assert stated.class_pixels == tuple(counted(tiles))
    assert with_class_pixels(stated.model_copy(update={"class_pixels": (1, 2, 3)}), tiles).class_pixels == (1, 2, 3)
    with pytest.raises(SettingsError, match="with_class_pixels"):
        trainable(SemanticUnetTrainSettings(classes=THREE), start=None, channels=RGB_CHANNELS, device="cpu")


def test_mask2former_weighs_classes_and_refuses_losses_that_it_does_not_learn_by() -> None:
    tiles = class_tiles(2)
    chosen = {**SMALL_OF[Mask2FormerTrainSettings], "class_weights": [1, 2, 3]}
    settings = settings_for(Mask2FormerTrainSettings, tiles, **chosen)
    network: Any = trainable(settings, start=None, channels=RGB_CHANNELS, device="cpu").network
    np.testing.assert_allclose(network.proposer.criterion.empty_weight, [1, 0.5, 1, 1.5, 0.1], rtol=1e-6)
    with pytest.raises(SettingsError, match=r"loss\..* plays no part .*its own matching loss"):
        load_settings(Mask2FormerTrainSettings, {"loss": {"mask": 20}})
    assert load_settings(Mask2FormerTrainSettings, settings.as_dict()) == settings


def test_classes_can_be_codes_by_name() -> None:
    short = load_settings(SemanticUnetTrainSettings, {"classes": {"tumor": [1, 19, 20]}})
    long = load_settings(SemanticUnetTrainSettings, {"classes": {"classes": {"tumor": [1, 19, 20]}}})
    assert short == long
    assert short.classes is not None
    assert short.classes.codes == {"tumor": (1, 19, 20)}
