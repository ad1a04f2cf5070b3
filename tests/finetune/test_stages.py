"""Trainings in stages: what learns from which epoch on and how fast, sizes of patches, parts of the loss, collapse."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fintune_xr.errors import SettingsError
from fintune_xr.finetune import engine
from fintune_xr.finetune.encoders import Encoder, frozen_blocks
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.instance.objective import FlowObjective
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.objective import Loss
from fintune_xr.finetune.progress import EpochRecord
from fintune_xr.finetune.registry import train_settings
from fintune_xr.finetune.settings import AugmentationSettings, FitSettings, Unfreezing, View
from fintune_xr.finetune.steps import NetworkTraining
from fintune_xr.seeds import stream
from fintune_xr.settings import Settings, load_settings, validate
from fintune_xr.simulation.phantoms import phantom_tile

PLAIN = AugmentationSettings(rotation="none", flip=False, scale=(1, 1), gain=0, offset=0)
STAGED = TrainSettings(
    epochs=4, patches_per_epoch=4, patch_px=64, batch_size=4, filters=(4, 8, 8), validate_every=1, threads=1,
    learning_rate=1e-3, encoder_learning_rate=5e-4, warmup_steps=2,
    unfreezing=(
        Unfreezing(from_epoch=0, blocks="all"),
        Unfreezing(from_epoch=1, stages=(3,), encoder_learning_rate=1e-4),
        Unfreezing(from_epoch=3, encoder_learning_rate=1e-5),
    ),
    views=(View(from_epoch=0, patch_px=32, scale=0.5), View(from_epoch=2, patch_px=64)),
)  # fmt: skip


def annotated(n_tiles: int, seed: int) -> AnnotatedTiles:
    tiles = [phantom_tile(stream(seed, i), marker="GFAP", ratio=0.3, tile_px=96) for i in range(n_tiles)]
    pixels, masks = np.stack([tile.image for tile in tiles]), np.stack([tile.mask for tile in tiles])
    names, sides = [f"{seed}-{i}" for i in range(n_tiles)], [96] * n_tiles
    return AnnotatedTiles(names, ("DAPI", "marker"), pixels, masks, sides, sides)


TILES, HELD_OUT = annotated(2, 1), annotated(1, 2)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, ...]], list[dict[str, Any]]]:
    """A training in stages; shapes of its batches, and its encoder's weights after each epoch."""
    folder, shapes, weights = tmp_path_factory.mktemp("staged"), [], []
    step, written = NetworkTraining.training_step, engine.WholeFiles.save_checkpoint

    def noted(self: NetworkTraining, batch: Any, index: int) -> Any:
        shapes.append(tuple(batch[0].shape))
        return step(self, batch, index)

    def kept(self: Any, checkpoint: dict[str, Any], *rest: Any, **more: Any) -> None:
        weights.append({key: value.clone() for key, value in checkpoint["state_dict"].items()})
        written(self, checkpoint, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkTraining, "training_step", noted)
        patch.setattr(engine.WholeFiles, "save_checkpoint", kept)
        train(TILES, HELD_OUT, settings=STAGED, out=folder)
    return folder, shapes, weights


def test_rates_and_sizes_are_those_of_the_stage(staged: tuple[Path, list[Any], Any]) -> None:
    folder, shapes, _ = staged
    rows = log_of(folder)
    rates = [float(row["encoder_learning_rate"]) for row in rows]
    # One step an epoch: half of the rate in the first of two steps of warm-up, and what the stages say after that.
    np.testing.assert_allclose(rates, [2.5e-4, 1e-4, 1e-4, 1e-5])
    fall = (1 + math.cos(math.pi / 2)) / 2
    np.testing.assert_allclose(
        [float(row["learning_rate"]) for row in rows], [5e-4, 1e-3, 1e-3, 1e-3 * (0.01 + 0.99 * fall)]
    )
    assert shapes == [(4, 2, 32, 32)] * 2 + [(4, 2, 64, 64)] * 2


def test_only_the_stage_learns(staged: tuple[Path, Any, list[Mapping[str, torch.Tensor]]]) -> None:
    _, _, weights = staged

    def moved(prefix: str) -> list[bool]:
        keys = [key for key in weights[0] if key.startswith(f"network.unet.{prefix}") and key.endswith("conv.weight")]
        assert keys
        return [any(not torch.equal(a[key], b[key]) for key in keys) for a, b in pairwise(weights)]

    assert moved("bottleneck") == [True, True, True]
    assert moved("input_block") == [False, False, True]
    assert moved("upsamples") == [True, True, True]


def test_stages_are_right_after_a_kill(tmp_path: Path, staged: tuple[Path, Any, Any]) -> None:
    def kill(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(TILES, HELD_OUT, settings=STAGED, out=tmp_path, report=kill)
    train(TILES, HELD_OUT, settings=STAGED, out=tmp_path)
    assert (tmp_path / "model.pt").read_bytes() == (staged[0] / "model.pt").read_bytes()
    kept = ("loss", "learning_rate", "encoder_learning_rate", "validation_loss")
    assert [[row[k] for k in kept] for row in log_of(tmp_path)] == [[row[k] for k in kept] for row in log_of(staged[0])]


def test_the_shorthand_is_the_same_as_two_stages() -> None:
    encoder = Encoder(tuple(torch.nn.Identity() for _ in range(5)))
    short = FitSettings(freeze_encoder_blocks=2, unfreeze_at_epoch=3)
    long = FitSettings(unfreezing=(Unfreezing(from_epoch=0, blocks=2), Unfreezing(from_epoch=3)))
    for epoch in range(6):
        assert frozen_blocks(short, encoder, epoch) == frozen_blocks(long, encoder, epoch)


def test_more_than_the_encoder_has_is_found_before_anything_is_prepared(tmp_path: Path) -> None:
    later = (
        (Unfreezing(from_epoch=2, blocks=9), "expected at most 3, as many"),
        (Unfreezing(from_epoch=2, stages=(2,)), r"expected the last stages of the 3 .*stages=\[2,3\], got \[2\]"),
        (Unfreezing(from_epoch=2, stages=(3, 4)), r"expected the last stages of the 3 .*got \[3, 4\]"),
    )
    for part, message in later:
        settings = STAGED.model_copy(update={"unfreezing": (Unfreezing(from_epoch=0), part)})
        with pytest.raises(SettingsError, match=f"{message}"):
            train(TILES, HELD_OUT, settings=settings, out=tmp_path / "out")


def test_settings_inside_others_are_digested_as_before_too() -> None:
    class Study(Settings):
        train: TrainSettings = TrainSettings()

    added = {"unfreezing", "views", "warmup_steps", "min_gain", "deterministic", "prefetch", "pin_memory"}
    assert not added & set(Study().as_dict()["train"])
    stored = Study(train=TrainSettings(min_gain=0.01, views=(View(from_epoch=0, patch_px=64),))).as_dict()
    assert {"min_gain", "views"} <= set(stored["train"])
    assert validate(Study, stored).train.min_gain == 0.01


class WholeTiles:
    """Samples without patches: a tile as it is, and its number."""

    n_samples = 4

    def tile_at(self, epoch: int, index: int) -> str:
        return f"{epoch}-{index}"

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        _, index = address
        return torch.full((2, 32, 32), float(index)), torch.zeros(3, 32, 32)


def test_samples_of_its_own_and_parts_of_the_loss_are_the_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[float]] = []
    loss = FlowObjective.loss

    def parts(self: FlowObjective, output: Any, target: Any) -> Loss:
        total = loss(self, output, target)
        return total, {"half": total.detach() / 2, "one": torch.ones(())}

    step = NetworkTraining.training_step

    def noted(self: NetworkTraining, batch: Any, index: int) -> Any:
        shown.append(sorted(batch[0][:, 0, 0, 0].tolist()))
        return step(self, batch, index)

    monkeypatch.setattr(FlowObjective, "samples", lambda *_: WholeTiles(), raising=False)
    monkeypatch.setattr(FlowObjective, "loss", parts)
    monkeypatch.setattr(NetworkTraining, "training_step", noted)
    settings = TrainSettings(epochs=2, batch_size=4, filters=(4, 8, 8), validate_every=2, threads=1)
    train(TILES, HELD_OUT, settings=settings, out=tmp_path)
    assert shown == [[0.0, 1.0, 2.0, 3.0]] * 2
    rows = log_of(tmp_path)
    for row in rows:
        assert float(row["loss_half"]) == pytest.approx(float(row["loss"]) / 2)
        assert float(row["loss_one"]) == 1


def test_the_line_and_the_log_say_that_a_network_collapsed(capsys: pytest.CaptureFixture[str]) -> None:
    from fintune_xr.pipelines.steps.train import epoch_lines

    record = EpochRecord(
        epoch=4, loss=1.0, learning_rate=1e-3, encoder_learning_rate=1e-3, validation_loss=1.0, measures={"f1": 0.1},
        score_name="f1", score=0.1, is_best=False, seconds=1.0, images_per_second=1.0, peak_memory=1,
        parts={"loss_dice": 0.5}, is_collapsed=True,
    )  # fmt: skip
    epoch_lines("F1")(record)
    assert "F1 0.100 (collapsed)" in capsys.readouterr().err
    assert (record.row()["is_collapsed"], record.row()["loss_dice"], record.row()["f1"]) == (True, 0.5, 0.1)


def test_only_deterministic_algorithms_where_asked_and_the_callers_choice_afterwards(tmp_path: Path) -> None:
    asked: list[bool] = []

    def note(_: EpochRecord) -> None:
        asked.append(torch.are_deterministic_algorithms_enabled())

    settings = STAGED.model_copy(update={"epochs": 1, "deterministic": True})
    train(TILES, HELD_OUT, settings=settings, out=tmp_path, report=note)
    assert asked == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_configuration_for_a_large_gpu_fits_its_model() -> None:
    settings = load_settings(train_settings("cpsam"), "cpsam_48gb", ["seed=3"])
    assert (settings.batch_size, settings.device, settings.seed) == (8, "cuda", 3)
