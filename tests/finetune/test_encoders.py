"""Encoders under training: blocks that rest, rates of their own, memory saved without changing a gradient."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.encoders import Encoder, frozen_blocks
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.instance.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.registry import trainable
from fintune_xr.finetune.steps import NetworkTraining
from fintune_xr.finetune.trainable import Trainable
from fintune_xr.models.cellpose.adapter import EncoderSize, empty_network, save_cpsam
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.settings import validate
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
SIZE = EncoderSize(width=32, depth=3, heads=2, global_blocks=(1,))
QUICK = CpsamTrainSettings(
    epochs=2, patches_per_epoch=2, warmup_epochs=0, learning_rate=1e-3, validate_every=2, threads=1
)


def annotated(n_tiles: int, *, seed: int) -> AnnotatedTiles:
    tiles = [phantom_tile(stream(seed, index), marker="GFAP", ratio=0.3, tile_px=96) for index in range(n_tiles)]
    images, masks = np.stack([tile.image for tile in tiles]), np.stack([tile.mask for tile in tiles])
    names, lengths = [f"{seed}-{i}" for i in range(n_tiles)], [96] * n_tiles
    return AnnotatedTiles(names, CHANNELS, images, masks, lengths, lengths)


TILES, HELD_OUT = annotated(2, seed=1), annotated(1, seed=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_network(SIZE)
    path = tmp_path_factory.mktemp("start") / "tiny"
    save_cpsam(network, path)
    return resolve_checkpoint(path)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Gradients of every step, by parameter."""
    kept: list[dict[str, torch.Tensor]] = []

    def keep(module: NetworkTraining, optimizer: torch.optim.Optimizer) -> None:
        named = module.network.named_parameters()
        kept.append({name: value.grad.clone() for name, value in named if value.grad is not None})

    monkeypatch.setattr(NetworkTraining, "on_before_optimizer_step", keep)
    return kept


def changed(settings: TrainSettings, start: Checkpoint, out: Path) -> set[str]:
    """Names of the weights that a training changes."""
    tuned = train(TILES, HELD_OUT, settings=settings, out=out, start=start)
    before, after = (torch.load(one.path, weights_only=True) for one in (start, tuned))
    assert before.keys() == after.keys()
    return {key for key in before if not torch.equal(before[key], after[key])}


def one_step(settings: CpsamTrainSettings, start: Checkpoint) -> tuple[dict[str, torch.Tensor], int, set[str]]:
    """Gradients of a step, bytes kept for its backward pass, and names of the weights."""
    network = trainable(settings, start=start, channels=CHANNELS, device="cpu").network
    kept = 0

    def count(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += value.nbytes
        return value

    torch.manual_seed(7)
    with saved_tensors_hooks(count, lambda value: value):
        loss = network(torch.linspace(0, 1, 2 * 3 * 256**2).reshape(2, 3, 256, 256))[0].square().sum()
    loss.backward()
    found = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return found, kept, set(network.state_dict())


def test_recomputing_saves_memory_and_changes_no_gradient(start: Checkpoint) -> None:
    plain, all_bytes, names = one_step(QUICK, start)
    settings = QUICK.model_copy(update={"activation_checkpointing": True})
    recomputed, fewer_bytes, same_names = one_step(settings, start)
    assert plain.keys() == recomputed.keys()
    assert any("encoder.blocks" in name for name in plain)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert fewer_bytes < all_bytes / 5
    assert names == same_names


def test_a_training_that_recomputes_is_the_same_training(start: Checkpoint, tmp_path: Path) -> None:
    plain = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "plain", start=start)
    settings = QUICK.model_copy(update={"activation_checkpointing": True})
    recomputed = train(TILES, HELD_OUT, settings=settings, out=tmp_path / "recomputed", start=start)
    assert recomputed.sha256 == plain.sha256


def test_batches_that_are_brought_together_are_one_large_batch(
    start: Checkpoint, tmp_path: Path, gradients: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def steady(*args: Any, **kwargs: Any) -> Trainable:
        model = trainable(*args, **kwargs)
        # Layers dropped at random are drawn for a batch and would differ.
        model.network.rdrop = 0
        return model

    monkeypatch.setattr("fintune_xr.finetune.engine.trainable", steady)
    settings = QUICK.model_copy(update={"epochs": 1, "patches_per_epoch": 3})
    for batch_size, accumulated in ((4, 1), (2, 2), (1, 4)):
        update = {"batch_size": batch_size, "accumulate_batches": accumulated}
        train(TILES, HELD_OUT, settings=settings.model_copy(update=update), out=tmp_path / str(batch_size), start=start)
    whole, *parts = gradients
    assert len(parts) == 2
    for part in parts:
        assert part.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()))


@pytest.mark.parametrize(
    ("frozen", "at_rest"),
    [(0, ()), (2, ("pos_embed", "blocks.0.", "blocks.1.")), ("all", ("pos_embed", "blocks."))],
)
def test_frozen_blocks_do_not_learn_and_the_others_do(
    start: Checkpoint, tmp_path: Path, frozen: int | str, at_rest: tuple[str, ...]
) -> None:
    found = changed(QUICK.model_copy(update={"freeze_encoder_blocks": frozen}), start, tmp_path / "out")
    inside = [f"encoder.{name}" for name in at_rest]
    assert not [name for name in found if name.startswith(tuple(inside))]
    for name in ("encoder.pos_embed", "encoder.blocks.0.mlp.lin1.weight", "encoder.blocks.2.mlp.lin1.weight"):
        assert name.startswith(tuple(inside)) or name in found
    assert {"out.weight", "encoder.neck.0.weight"} <= found


def test_frozen_blocks_learn_from_the_epoch_on(start: Checkpoint, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"freeze_encoder_blocks": "all", "unfreeze_at_epoch": 1})
    assert "encoder.blocks.0.mlp.lin1.weight" in changed(settings, start, tmp_path / "reached")
    later = settings.model_copy(update={"unfreeze_at_epoch": 2})
    assert "encoder.blocks.0.mlp.lin1.weight" not in changed(later, start, tmp_path / "later")


@pytest.mark.parametrize(("frozen", "epoch", "expected"), [(0, 9, 0), (2, 0, 2), (2, 3, 2), (2, 4, 0), ("all", 3, 5)])
def test_the_epoch_says_what_is_frozen(frozen: int | str, epoch: int, expected: int) -> None:
    settings = TrainSettings(freeze_encoder_blocks=frozen, unfreeze_at_epoch=4 if frozen else None)
    encoder = Encoder(tuple(torch.nn.Linear(1, 1) for _ in range(5)))
    assert frozen_blocks(settings, encoder, epoch) == expected


def test_norm_layers_at_rest_do_not_follow_the_data() -> None:
    blocks = tuple(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)) for _ in range(2))
    network = torch.nn.Sequential(*blocks)
    encoder = Encoder(blocks)
    encoder.freeze(1)
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    assert [int(block[1].num_batches_tracked) for block in blocks] == [0, 1]
    assert blocks[0][0].weight.grad is None
    encoder.freeze(0)
    network(torch.randn(4, 1, 8, 8)).sum().backward()
    assert [int(block[1].num_batches_tracked) for block in blocks] == [1, 2]
    assert blocks[0][0].weight.grad is not None


def test_the_small_unet_can_rest_in_part_too(tmp_path: Path) -> None:
    settings = TrainSettings(
        epochs=2, patches_per_epoch=4, patch_px=64, filters=(4, 8, 8), validate_every=2, threads=1,
        freeze_encoder_blocks=2,
    )  # fmt: skip
    model = trainable(settings, start=None, channels=CHANNELS, device="cpu")
    assert len(model.encoder.blocks) == 3
    whole = settings.model_copy(update={"freeze_encoder_blocks": 0})
    first = train(TILES, HELD_OUT, settings=whole, out=tmp_path / "first")
    tuned = train(TILES, HELD_OUT, settings=settings, out=tmp_path / "tuned", start=first)
    before, after = (torch.load(one.path, weights_only=True)["state"] for one in (first, tuned))
    changed = {key.split(".")[1] for key in before if not torch.equal(before[key], after[key])}
    assert "input_block" not in changed
    assert {"bottleneck", "upsamples", "output_block"} <= changed


def test_the_encoder_learns_at_its_own_rate(start: Checkpoint, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"encoder_learning_rate": 1e-4, "weight_decay": 0.0})
    tuned = train(TILES, HELD_OUT, settings=settings, out=tmp_path / "out", start=start)
    with (tmp_path / "out" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["encoder_learning_rate"]) == pytest.approx(float(row["learning_rate"]) / 10)
        assert float(row["images_per_second"]) > 0
        assert int(row["peak_memory"]) > 10e6
    before, after = (torch.load(one.path, weights_only=True) for one in (start, tuned))
    moved = {key: float((after[key] - before[key]).abs().max()) for key in before}
    # Steps of AdamW are about as large as the learning rate.
    assert 0 < moved["encoder.blocks.0.mlp.lin1.weight"] < 5e-4 < moved["out.weight"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze_encoder_blocks": -1}, "freeze_encoder_blocks"),
        ({"freeze_encoder_blocks": "some"}, "freeze_encoder_blocks"),
        ({"unfreeze_at_epoch": 3}, "has nothing to unfreeze: freeze_encoder_blocks is 0"),
        ({"encoder_learning_rate": 0}, "encoder_learning_rate"),
        ({"accumulate_batches": 0}, "accumulate_batches"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        validate(CpsamTrainSettings, values)


def test_more_blocks_than_there_are(start: Checkpoint, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"freeze_encoder_blocks": 4})
    with pytest.raises(SettingsError, match=r"at most 3, as many as this encoder has, got 4\. Write all"):
        train(TILES, HELD_OUT, settings=settings, out=tmp_path / "out", start=start)
