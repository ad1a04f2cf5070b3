"""Fine-tuning of tiny encoders of volumes: what learns when, resuming across that, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from labelled_volumes import CLASSES, GRID, volume
from volume_weights import HEADS, learned_state

from fintune_xr.errors import FintuneValueError, MissingPackageError, SettingsError
from fintune_xr.finetune import engine
from fintune_xr.finetune.classification import volumes as volumes_module
from fintune_xr.finetune.classification.objective import ClassObjective
from fintune_xr.finetune.classification.settings import ClassTrainSettings, VolumeAugmentation
from fintune_xr.finetune.classification.volumes import VolumeTiles, vary
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.registry import kind_named, load_model, resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.settings import load_settings

QUICK: dict[str, Any] = {
    "classes": CLASSES, "encoder": {"heads": HEADS, "volumes_per_batch": 8}, "epochs": 4, "unfreeze_at_epoch": 2,
    "learning_rate": 1e-2, "encoder_learning_rate": 1e-3, "batch_size": 4, "warmup_epochs": 0,
}  # fmt: skip


def settings(**given: Any) -> ClassTrainSettings:
    return load_settings(ClassTrainSettings, {**QUICK, **given})


def tiles(n_each: int, seed: str) -> VolumeTiles:
    label = np.repeat(np.arange(4), n_each)
    names = [f"{seed}{one:02d}/0" for one in range(label.size)]
    image = np.stack([volume(name, int(one)) for name, one in zip(names, label, strict=True)])
    return VolumeTiles(names, ("oct",), image, np.arange(label.size), label, np.array([n[:3] for n in names]), CLASSES)


TRAIN, VAL = tiles(4, "r"), tiles(2, "v")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"context_encoder": learned_state()}, path)
    return resolve_checkpoint(path)


def train(out: Path, start: Checkpoint, **given: Any) -> Checkpoint:
    return engine.train(TRAIN, VAL, settings=settings(**given), out=out, start=start)


def state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(checkpoint.path, weights_only=True)["state"]
    return found


def test_the_encoder_rests_until_it_is_woken(tmp_path: Path, start: Checkpoint, monkeypatch: Any) -> None:
    shown: list[tuple[int, ...]] = []
    original = volumes_module.VolumeSamples.__getitem__

    def noting(self: Any, address: tuple[int, int]) -> Any:
        sample = original(self, address)
        shown.append((address[0], sample[0].ndim))
        return sample

    monkeypatch.setattr(volumes_module.VolumeSamples, "__getitem__", noting)
    made = train(tmp_path / "m", start, patience=100)
    # Stored embeddings before, volumes from then on; every scan once an epoch.
    assert {(epoch, 1 if epoch < 2 else 4) for epoch in range(4)} == set(shown)
    assert len(shown) == 4 * len(TRAIN)
    log = pd.read_csv(tmp_path / "m" / "log.csv")
    assert {"loss", "val_balanced_accuracy", "learning_rate", "encoder_learning_rate"} <= set(log)
    resting = train(tmp_path / "rest", start, epochs=2, unfreeze_at_epoch=None, patience=100)
    before = learned_state()
    for key, value in before.items():
        assert torch.equal(state(resting)[f"encoder.network.{key}"], value), key
    assert made.kind == "volume_classifier"


def test_a_resumed_training_is_the_same_at_every_epoch(tmp_path: Path, start: Checkpoint) -> None:
    whole = state(train(tmp_path / "whole", start, patience=100))
    copies: list[Path] = []

    def keep(record: Any) -> None:
        copies.append(tmp_path / f"at{record.epoch}")

    class Stop(Exception):
        pass

    for stop in range(3):
        out = tmp_path / f"cut{stop}"

        def kill(record: Any, stop: int = stop) -> None:
            # The state of an epoch is written after its report: stopped here, the epoch before is the last one.
            if record.epoch == stop + 1:
                raise Stop

        with pytest.raises(Stop):
            engine.train(TRAIN, VAL, settings=settings(patience=100), out=out, start=start, report=kill)
        assert (out / "last.ckpt").is_file()
        resumed = state(train(out, start, patience=100))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), stop
        shutil.rmtree(out)


def test_the_saved_classifier_gives_what_training_saw(tmp_path: Path, start: Checkpoint) -> None:
    made = train(tmp_path / "m", start, patience=100, hidden=8, dropout=0.1, class_weights=[1, 2, 3, 4])
    kind = kind_named(made.kind)
    model = load_model(made, channels=("oct",), settings=kind.settings(), device="cpu", keep=False)
    found = model.reconstruct(model.predict([model.normalise(VAL.read(0))])[0])
    assert found.columns["embedding"].shape == (24,)
    assert found.columns["logits"].shape == (4,)
    assert kind.sizes is not None
    assert kind.sizes(made, kind.settings(), GRID) == {"feature": 24, "class": list(CLASSES)}
    scores = [
        model.reconstruct(one).columns["logits"].argmax()
        for one in model.predict([model.normalise(VAL.read(i)) for i in range(8)])
    ]
    recall = np.mean([np.mean(np.array(scores)[VAL.label == one] == one) for one in range(4)])
    best = json.loads((tmp_path / "m" / "training.json").read_text())["best_val_balanced_accuracy"]
    assert recall == pytest.approx(best)
    # It can be trained further, with the same classes only.
    again = engine.train(
        TRAIN, VAL, settings=settings(epochs=1, unfreeze_at_epoch=None), out=tmp_path / "n", start=made
    )
    assert torch.equal(state(again)["mean"], state(made)["mean"])
    with pytest.raises(SettingsError, match=r"tells 0 healthy, 1 pre_diabetes, .* apart, and the labels are 0 a, 1 b"):
        engine.train(TRAIN, VAL, settings=settings(classes=["a", "b"]), out=tmp_path / "o", start=made)
    for other, told in (
        ({"hidden": 4}, "hidden=8"),
        ({"dropout": 0.5}, r"dropout=0\.1"),
        ({"encoder": {"heads": HEADS, "normalisation": "percentile_gamma"}}, "encoder.normalisation='zscore'"),
        ({"encoder": {"heads": 8}}, f"encoder.heads={HEADS}"),
    ):
        with pytest.raises(SettingsError, match=f"a classifier with {told}, which cannot be changed"):
            engine.train(TRAIN, VAL, settings=settings(**other), out=tmp_path / "o", start=made)


def test_a_wrong_number_of_weights_is_told_before_a_scan_is_embedded(
    tmp_path: Path, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a scan was embedded")

    monkeypatch.setattr("fintune_xr.finetune.classification.objective.embed", refused)
    with pytest.raises(FintuneValueError, match=r"class_weights: expected 4 numbers, of 0 healthy, .*, got 3"):
        engine.train(TRAIN, VAL, settings=settings(class_weights=[1, 2, 3]), out=tmp_path / "w", start=start)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"augmentation": {"gain": 0.5}}, "augmentation.gain plays no part .*: write volume_augm"),
        ({"patches_per_epoch": 8}, "patches_per_epoch plays no part .*every train scan is shown once an epoch"),
        ({"patch_px": 64}, "patch_px plays no part"),
        ({"views": [{"from_epoch": 0, "patch_px": 64}]}, "views plays no part"),
        ({"filters": [8, 8, 8]}, "filters plays no part"),
    ],
)
def test_a_setting_that_plays_no_part_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        settings(**given)
    # Stored settings hold all of them, as they are without a word.
    assert settings(**{key: settings().as_dict().get(key, getattr(settings(), key)) for key in given}) == settings()


def test_eight_scans_are_learned_by_heart(tmp_path: Path, start: Checkpoint) -> None:
    chosen = load_settings(ClassTrainSettings, "oct_smoke", ["encoder.heads=3", f"classes=[{','.join(CLASSES)}]"])
    few = tiles(2, "s")
    engine.train(few, few, settings=chosen, out=tmp_path / "m", start=start)
    log = pd.read_csv(tmp_path / "m" / "log.csv")
    assert len(log) == 200
    assert log["loss"].iloc[-1] < 0.01
    with pytest.raises(FintuneValueError, match=r"training loss ended at .*expected less than 0\.01"):
        engine.train(few, few, settings=chosen.model_copy(update={"epochs": 3}), out=tmp_path / "n", start=start)


def test_constant_scans_are_left_out_and_a_missing_class_is_refused(tmp_path: Path, start: Checkpoint) -> None:
    image = np.array(TRAIN.image)
    image[3] = 9
    flawed = VolumeTiles(TRAIN.names, TRAIN.channels, image, TRAIN.row, TRAIN.label, TRAIN.participant, CLASSES)
    engine.train(flawed, VAL, settings=settings(epochs=1, unfreeze_at_epoch=None), out=tmp_path / "m", start=start)
    image[:4] = 9
    with pytest.raises(FintuneValueError, match="no scan of class 0"):
        engine.train(flawed, VAL, settings=settings(epochs=1, unfreeze_at_epoch=None), out=tmp_path / "n", start=start)


def test_recomputed_blocks_give_the_same(tmp_path: Path, start: Checkpoint) -> None:
    told: dict[str, Any] = {"freeze_encoder_blocks": 0, "unfreeze_at_epoch": None, "epochs": 1}
    first, second = (
        state(train(tmp_path / str(on), start, activation_checkpointing=on, **told)) for on in (False, True)
    )
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    assert not torch.equal(first["encoder.network.norm.weight"], learned_state()["norm.weight"])


def test_augmentation_is_addressed_and_never_turns_depth() -> None:
    one = volume("a/0", 2)
    everything = VolumeAugmentation(flip_x=True, flip_z=True, gain=0.1, gamma=0.1, crop=0.9, noise=3)
    made = [vary(stream(0, "volume", 0, at), one, everything) for at in range(30)]
    again = vary(stream(0, "volume", 0, 7), one, everything)
    np.testing.assert_array_equal(made[7], again)
    assert all(one.shape == other.shape and other.dtype == np.uint8 for other in made)
    flips = [vary(stream(0, "volume", 0, at), one, VolumeAugmentation(flip_x=True, flip_z=True)) for at in range(30)]
    allowed = [one[:, ::z, :, ::x] for z in (1, -1) for x in (1, -1)]
    seen = {next(at for at, same in enumerate(allowed) if np.array_equal(flip, same)) for flip in flips}
    assert seen == {0, 1, 2, 3}
    # The layer of the class stays where it is, but for what the crop moves.
    depth = one[0].mean((0, 2)).argmax()
    assert max(abs(int(other[0].mean((0, 2)).argmax()) - int(depth)) for other in made) <= 2
    np.testing.assert_array_equal(vary(stream(0, "v", 1), one, VolumeAugmentation()), one)


def test_a_tpu_without_its_package_is_refused_before_anything_is_read(tmp_path: Path, start: Checkpoint) -> None:
    with pytest.raises(MissingPackageError, match="torch-xla"):
        train(tmp_path / "m", start, device="tpu")
    assert not (tmp_path / "m" / "training.json").exists()


def test_a_loss_that_is_no_number_ends_the_training_with_epoch_step_and_scans(
    tmp_path: Path, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[int]] = []
    loss = ClassObjective.loss

    def spoilt(self: ClassObjective, output: Any, target: Any) -> torch.Tensor:
        shown.append(target[2].tolist())
        return loss(self, output, target) * (torch.inf if len(shown) == 6 else 1)

    monkeypatch.setattr(ClassObjective, "loss", spoilt)
    with pytest.raises(FintuneValueError, match=r"epoch 2, step 2: the loss is inf") as caught:
        train(tmp_path / "m", start, epochs=3, unfreeze_at_epoch=None, batch_size=len(TRAIN) // 4)
    named = str(caught.value).partition("shown were ")[2].partition(". Look")[0].split(", ")
    assert named == [TRAIN.names[index] for index in shown[-1]]


@pytest.mark.parametrize("alias", [("oct_finetune", "cls_finetune"), ("oct_linear_probe", "cls_linear_probe")])
def test_other_names_of_shipped_configurations(alias: tuple[str, str]) -> None:
    first, second = (load_settings(ClassTrainSettings, name) for name in alias)
    assert first == second
    assert first.freeze_encoder_blocks == "all"


@pytest.mark.slow
def test_workers_read_the_same_volumes(tmp_path: Path, start: Checkpoint) -> None:
    told: dict[str, Any] = {"freeze_encoder_blocks": 1, "unfreeze_at_epoch": None, "epochs": 1}
    alone, helped = (state(train(tmp_path / str(n), start, workers=n, **told)) for n in (0, 1))
    assert all(torch.equal(alone[key], helped[key]) for key in alone)


def test_bfloat16_trains_too(tmp_path: Path, start: Checkpoint) -> None:
    told: dict[str, Any] = {"freeze_encoder_blocks": 0, "unfreeze_at_epoch": None, "epochs": 1}
    made = state(train(tmp_path / "m", start, precision="bfloat16", **told))
    assert {value.dtype for value in made.values()} == {torch.float32}
    assert all(torch.isfinite(value).all() for value in made.values())
