"""What changes in the course of a training: rates, what learns, patches; and what is noticed."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.best_weights import BestWeights
from fintune_xr.finetune.encoders import Encoder, check_freezing, frozen_blocks
from fintune_xr.finetune.instance.settings import TrainSettings
from fintune_xr.finetune.objective import Validation
from fintune_xr.finetune.patches import PatchDataset, PreparedTile
from fintune_xr.finetune.progress import EpochRecord, Progress, Tally
from fintune_xr.finetune.schedules import (
    ENCODER,
    REST,
    parameter_groups,
    rate_factors,
    say_long_warmup,
    view_at,
    warmup_length,
)
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings

# The third experiment of the published study: 40 epochs of 86 steps.
V3 = {
    "epochs": 40,
    "learning_rate": 8e-5,
    "final_rate": 1 / 80,
    "warmup_steps": 250,
    "unfreezing": [
        {"from_epoch": 0, "blocks": "all"},
        {"from_epoch": 11, "stages": [3, 4], "encoder_learning_rate": 6e-6},
        {"from_epoch": 26, "blocks": 0, "encoder_learning_rate": 6e-7},
    ],
    "views": [{"from_epoch": 0, "patch_px": 512, "scale": 0.5}, {"from_epoch": 11, "patch_px": 1024}],
}
STEPS = 86
# The stages of the tiny network of the study: blocks 1-2-7-2.
TINY = (1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4)


def encoder(stages: tuple[int, ...] = TINY) -> Encoder:
    return Encoder(tuple(torch.nn.Linear(2, 2) for _ in stages), stages=stages)


def rates(settings: FitSettings, step: int) -> dict[str, float]:
    groups = [{"name": ENCODER, "lr": settings.learning_rate}, {"name": REST, "lr": settings.learning_rate}]
    factors = rate_factors(settings, groups, STEPS)
    return {group["name"]: group["lr"] * factor(step) for group, factor in zip(groups, factors, strict=True)}


def test_what_learns_in_each_epoch() -> None:
    settings = load_settings(FitSettings, V3)
    frozen = [frozen_blocks(settings, encoder(), epoch) for epoch in range(40)]
    assert frozen == [12] * 11 + [3] * 15 + [0] * 14
    check_freezing(settings, encoder())
    assert frozen_blocks(settings, encoder((1, 2, 3, 3, 4)), 11) == 2


@pytest.mark.parametrize("stages", [[4, 5], [2, 4], [2, 3]])
def test_only_the_last_stages_can_learn_alone(stages: list[int]) -> None:
    settings = load_settings(FitSettings, {"unfreezing": [{"from_epoch": 0}, {"from_epoch": 1, "stages": stages}]})
    with pytest.raises(SettingsError, match=r"stages=\[3,4\]"):
        check_freezing(settings, encoder())


def test_rates_at_each_step() -> None:
    settings = load_settings(FitSettings, V3)
    assert warmup_length(settings, STEPS) == 250
    assert rates(settings, 0)[REST] == pytest.approx(8e-5 / 250)
    assert rates(settings, 249)[REST] == pytest.approx(8e-5)
    half_way = (250 + 40 * STEPS) / 2
    assert rates(settings, round(half_way))[REST] == pytest.approx((8e-5 + 1e-6) / 2, rel=1e-3)
    assert rates(settings, 40 * STEPS - 1)[REST] == pytest.approx(1e-6, rel=1e-3)
    for epoch, expected in ((11, 6e-6), (25, 6e-6), (26, 6e-7), (39, 6e-7)):
        assert rates(settings, epoch * STEPS)[ENCODER] == pytest.approx(expected)
        assert rates(settings, (epoch + 1) * STEPS - 1)[ENCODER] == pytest.approx(expected)
    plain = FitSettings(epochs=4, warmup_epochs=1)
    assert rates(plain, 50)[ENCODER] == rates(plain, 50)[REST]
    assert warmup_length(plain, STEPS) == STEPS


def test_patches_of_each_epoch(tmp_path: Path) -> None:
    settings = load_settings(FitSettings, {**V3, "patches_per_epoch": 2, "batch_size": 1})
    image = stream(0, "view").integers(0, 255, (1, 96, 96)).astype(np.float32)
    tile = PreparedTile("a", tmp_path / "image.npy", tmp_path / "target.npy")
    np.save(tile.image_path, image)
    np.save(tile.target_path, np.zeros((3, 96, 96), np.float32))
    small = settings.model_copy(update={"views": tuple(
        view.model_copy(update={"patch_px": px}) for view, px in zip(settings.views, (48, 96), strict=True)
    )})  # fmt: skip
    dataset = PatchDataset([tile], small)
    sizes = [dataset[(epoch, 0)][0].shape[-1] for epoch in (0, 10, 11, 39)]
    assert sizes == [48, 48, 96, 96]
    assert [view_at(settings, epoch)[0] for epoch in range(40)] == [512] * 11 + [1024] * 29
    low, high = settings.augmentation.scale
    assert view_at(settings, 0)[1].scale == (low / 2, high / 2)
    assert view_at(settings, 11)[1] == settings.augmentation


def test_a_view_at_half_resolution_is_the_mean_of_four_pixels(tmp_path: Path) -> None:
    calm = {"rotation": "none", "flip": False, "scale": [1, 1], "gain": 0, "offset": 0}
    settings = load_settings(
        FitSettings, {"augmentation": calm, "views": [{"from_epoch": 0, "patch_px": 48, "scale": 0.5}]}
    )
    image = stream(1, "view").uniform(0, 1, (1, 96, 96)).astype(np.float32)
    tile = PreparedTile("a", tmp_path / "image.npy", tmp_path / "target.npy")
    np.save(tile.image_path, image)
    np.save(tile.target_path, np.zeros((3, 96, 96), np.float32))
    patch = PatchDataset([tile], settings)[(0, 0)][0].numpy()
    np.testing.assert_allclose(patch, image.reshape(1, 48, 2, 48, 2).mean((2, 4)), atol=1e-4)


def test_steps_must_be_in_order() -> None:
    for wrong in ([{"from_epoch": 1}], [{"from_epoch": 0}, {"from_epoch": 0}]):
        with pytest.raises(SettingsError, match="unfreezing: expected from_epoch 0 first"):
            load_settings(FitSettings, {"unfreezing": wrong})
    with pytest.raises(SettingsError, match="unfreezing or freeze_encoder_blocks"):
        load_settings(FitSettings, {"unfreezing": [{"from_epoch": 0}], "freeze_encoder_blocks": 1})
    with pytest.raises(SettingsError, match="blocks or stages"):
        load_settings(FitSettings, {"unfreezing": [{"from_epoch": 0, "blocks": 1, "stages": [4]}]})


@pytest.mark.parametrize("key", ["threads", "workers", "prefetch"])
def test_numbers_of_processes_that_no_machine_starts_are_refused(key: str) -> None:
    with pytest.raises(SettingsError, match=f"{key}.*100000000"):
        load_settings(TrainSettings, overrides=[f"{key}=100000000"])
    assert getattr(load_settings(TrainSettings, overrides=[f"{key}=8"]), key) == 8


def test_settings_that_use_nothing_of_this_are_digested_as_before() -> None:
    assert not {"unfreezing", "views", "warmup_steps", "min_gain"} & set(TrainSettings().as_dict())
    used = TrainSettings(warmup_steps=5)
    assert used.as_dict()["warmup_steps"] == 5
    assert used.digest != TrainSettings().digest


def test_weights_that_shall_not_decay_do_not() -> None:
    network = torch.nn.Linear(3, 3)
    network.tokens = torch.nn.Parameter(torch.ones(2, 3))
    groups = parameter_groups(
        network, [], learning_rate=1, encoder_learning_rate=1, weight_decay=0.02, undecayed=[network.tokens]
    )
    decays = {id(value): group["weight_decay"] for group in groups for value in group["params"]}
    assert decays == {id(network.weight): 0.02, id(network.bias): 0.0, id(network.tokens): 0.0}


def judged(score: float) -> Validation:
    return Validation(1.0, score, {})


def test_a_score_must_rise_by_the_least_gain() -> None:
    tally = Tally()
    assert tally.count(0, judged(0.5), min_gain=0.1)
    assert not tally.count(1, judged(0.59), min_gain=0.1)
    assert tally.count(2, judged(0.61), min_gain=0.1)
    assert tally.best_epoch == 2


def test_three_low_scores_running_are_a_collapse() -> None:
    tally, collapsed = Tally(), []
    for epoch, score in enumerate([0.6, 0.2, 0.2, 0.5, 0.2, math.nan, 0.2, 0.2, 0.2, 0.4]):
        tally.count(epoch, judged(score))
        collapsed.append(tally.is_collapsed)
    assert collapsed == [False] * 7 + [True, True, False]
    assert (tally.best_epoch, tally.best_score) == (0, 0.6)


def test_the_log_holds_parts_of_the_loss_and_the_collapse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.6, 0.1, 0.1, 0.1])
    progress = Progress(
        lambda _: judged(next(scores)), BestWeights(tmp_path, lambda path: path.touch()), score="dice", measures=(),
        log_path=tmp_path / "log.csv", validate_every=1, patience=9, report=None,
    )  # fmt: skip

    class FakeTrainer:
        max_epochs = 9
        should_stop = False
        current_epoch = 0
        callback_metrics: dict[str, torch.Tensor] = {}  # noqa: RUF012

    class FakeModule:
        device = "cpu"

    trainer, rows_made, row = FakeTrainer(), [], EpochRecord.row
    monkeypatch.setattr(EpochRecord, "row", lambda self: rows_made.append(self.epoch) or row(self))
    progress._rates = {ENCODER: 1.0, REST: 2.0}
    with caplog.at_level(logging.WARNING):
        for epoch in range(4):
            trainer.current_epoch = epoch
            trainer.callback_metrics = {"loss": torch.tensor(3.0), "loss_dice": torch.tensor(0.5)}
            progress.on_train_epoch_start(trainer, FakeModule())
            progress.on_train_epoch_end(trainer, FakeModule())
    assert [record.is_collapsed for record in progress.records] == [False, False, False, True]
    assert progress.records[0].parts == {"loss_dice": 0.5}
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert "loss_dice" in header.split(",")
    assert len(rows) == 4
    assert rows_made == [0, 1, 2, 3], "a long training would make rows of all its epochs after each of them"
    assert caplog.text.count("has collapsed") == 1
    again = [EpochRecord(**state) for state in progress.state_dict()["records"]]
    assert [one.row() for one in again[3:]] == [progress.records[3].row()]


def test_a_warmup_of_more_than_a_quarter_is_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(FitSettings, V3)
    with caplog.at_level(logging.WARNING):
        say_long_warmup(settings, STEPS)
        assert caplog.text == ""
        # 85 regions in batches of 6 are 14 steps an epoch, and 560 in all.
        say_long_warmup(settings, 14)
    assert "rises for 250 of 560 steps (14 an epoch)" in caplog.text
