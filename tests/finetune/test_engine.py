"""Training: it learns, repeats itself, survives a kill, keeps the best, and stays in its folder."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cellpose import models as stock
from fatal_patches import FatalPatches
from segment_anything import sam_model_registry
from stores import make_store

from fintune_xr.errors import (
    FintuneValueError,
    MissingPackageError,
    RunBusyError,
    RunMismatchError,
    UnknownNameError,
    WorkerLostError,
)
from fintune_xr.finetune import engine
from fintune_xr.finetune.engine import hold_folder, train
from fintune_xr.finetune.instance.objective import FlowObjective
from fintune_xr.finetune.instance.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.instance.validation import average_precision
from fintune_xr.finetune.patches import PreparedTile
from fintune_xr.finetune.progress import EpochRecord
from fintune_xr.finetune.registry import train_settings
from fintune_xr.models.cellpose.adapter import EncoderSize, _encoder, empty_network, save_cpsam
from fintune_xr.models.cellpose.settings import CpsamSettings
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.settings import FlowUnetSettings
from fintune_xr.models.protocol import segment
from fintune_xr.models.registry import load_segmenter, resolve_checkpoint
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
QUICK = TrainSettings(
    epochs=3, patches_per_epoch=8, patch_px=64, batch_size=4, filters=(4, 8, 8), validate_every=1, threads=1, seed=5
)


def annotated(n_tiles: int, *, seed: int, tile_px: int = 96) -> AnnotatedTiles:
    tiles = [phantom_tile(stream(seed, index), marker="GFAP", ratio=0.3, tile_px=tile_px) for index in range(n_tiles)]
    return AnnotatedTiles(
        [f"{seed}-{index}" for index in range(n_tiles)],
        CHANNELS,
        np.stack([tile.image for tile in tiles]),
        np.stack([tile.mask for tile in tiles]),
        [tile_px] * n_tiles,
        [tile_px] * n_tiles,
    )


TILES, HELD_OUT = annotated(4, seed=1), annotated(2, seed=2)


def state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    entries = torch.load(checkpoint.path, weights_only=True)
    return entries["state"]


def same(one: Checkpoint, other: Checkpoint) -> bool:
    first, second = state(one), state(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(99)
    drawn_before = torch.rand(1)
    torch.manual_seed(99)
    first = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "a")
    assert torch.equal(torch.rand(1), drawn_before), "the caller's random numbers were disturbed"
    second = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "b")
    other = train(TILES, HELD_OUT, settings=QUICK.model_copy(update={"seed": 6}), out=tmp_path / "c")
    assert same(first, second)
    assert not same(first, other)


def test_a_loss_that_is_no_number_ends_any_training_and_names_epoch_step_and_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    n_losses = 0
    load, loss = PreparedTile.open, FlowObjective.loss

    def noted(self: PreparedTile) -> tuple[Any, Any]:
        opened.append(self.name)
        return load(self)

    def spoilt(self: FlowObjective, output: Any, target: Any) -> Any:
        nonlocal n_losses
        n_losses += 1
        found = loss(self, output, target)
        return found * torch.nan if n_losses == 4 else found

    monkeypatch.setattr(PreparedTile, "open", noted)
    monkeypatch.setattr(FlowObjective, "loss", spoilt)
    with pytest.raises(FintuneValueError, match="epoch 2, step 2: the loss is nan, where a finite number") as caught:
        train(TILES, HELD_OUT, settings=QUICK, out=tmp_path)
    named = str(caught.value).partition("shown were ")[2].partition(". Look")[0].split(", ")
    assert named == list(dict.fromkeys(opened[12:16])), "the eight patches of an epoch come in batches of four"


def test_batches_wait_ready_and_pinned_where_there_is_a_gpu() -> None:
    from fintune_xr.finetune.engine import _loader

    samples: Any = SimpleNamespace(n_samples=8)
    asked = QUICK.model_copy(update={"workers": 2, "prefetch": 5})
    for device, is_pinned in (("cpu", False), ("cuda:0", True)):
        loader = _loader(samples, asked, device)
        assert (loader.prefetch_factor, loader.persistent_workers, loader.pin_memory) == (5, True, is_pinned)
    assert _loader(samples, QUICK, "cpu").prefetch_factor is None
    assert not _loader(samples, asked.model_copy(update={"pin_memory": False}), "cuda:0").pin_memory


class FakeWandb(ModuleType):
    """Notes what would be sent."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.n_ended = 0

    def init(self, **given: Any) -> FakeWandb:
        self.begun.append(given)
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.n_ended += 1


def test_wandb_is_sent_the_log_and_nothing_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, "s3cr3t")
    plain = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "plain")
    assert fake.begun == [], "off unless asked for"
    asked = QUICK.model_copy(update={"wandb": True, "wandb_project": "eyes", "wandb_entity": "us"})
    seen: list[EpochRecord] = []
    made = train(TILES, HELD_OUT, settings=asked, out=tmp_path / "sent", report=seen.append)
    assert same(plain, made)
    (begun,) = fake.begun
    assert (begun["project"], begun["entity"], begun["group"], begun["name"]) == ("eyes", "us", "new", "sent")
    assert begun["config"] == QUICK.as_dict() == asked.as_dict()
    assert [step for step, _ in fake.rows] == [0, 1, 2] == [record.epoch for record in seen]
    assert all({"loss", "learning_rate", "validation_loss"} <= set(row) for _, row in fake.rows)
    assert fake.n_ended == 1
    told = repr([begun, fake.rows]) + "".join(file.read_text() for file in (tmp_path / "sent").glob("*.json"))
    assert "s3cr3t" not in told
    # The log's place makes no other training: this one is finished, with or without.
    assert same(train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "sent"), made)
    assert len(fake.begun) == 1


def test_wandb_that_is_not_installed_is_a_plain_error_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"fintune-xr\[wandb\]"):
        train(TILES, HELD_OUT, settings=QUICK.model_copy(update={"wandb": True}), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def kill(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KilledError

    settings = QUICK.model_copy(update={"epochs": 4})
    whole = train(TILES, HELD_OUT, settings=settings, out=tmp_path / "whole")
    with pytest.raises(KilledError):
        train(TILES, HELD_OUT, settings=settings, out=tmp_path / "killed", report=kill)
    assert not (tmp_path / "killed" / "model.pt").exists()
    seen: list[int] = []
    resumed = train(
        TILES, HELD_OUT, settings=settings, out=tmp_path / "killed", report=lambda record: seen.append(record.epoch)
    )
    assert seen == [2, 3]
    assert same(whole, resumed)
    with (tmp_path / "killed" / "log.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [0, 1, 2, 3]


def test_a_finished_training_is_returned_and_another_is_refused(tmp_path: Path) -> None:
    first = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path)

    def never(_: EpochRecord) -> None:
        raise AssertionError("a finished training ran again")

    assert train(TILES, HELD_OUT, settings=QUICK, out=tmp_path, report=never) == first
    with pytest.raises(RunMismatchError, match=r"another training \(different: settings\.epochs\).*another folder"):
        train(TILES, HELD_OUT, settings=QUICK.model_copy(update={"epochs": 9}), out=tmp_path)
    with pytest.raises(RunMismatchError, match=r"different: tiles\)"):
        train(annotated(4, seed=3), HELD_OUT, settings=QUICK, out=tmp_path)


def test_what_is_written_beside_a_training_is_written_while_its_folder_is_held(tmp_path: Path) -> None:
    seen: list[str] = []

    def beside(folder: Path) -> None:
        with pytest.raises(RunBusyError, match="another process is training"), hold_folder(folder):
            raise AssertionError("the folder was free")
        seen.append(json.loads((folder / "training.json").read_text())["state"])

    for _ in range(2):
        # A finished training is asked again, for what a kill may have kept from being written.
        train(TILES, HELD_OUT, settings=QUICK, out=tmp_path, beside=beside)
    assert seen == ["finished", "finished"]


def test_everything_lies_in_the_folder_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = train(TILES, HELD_OUT, settings=QUICK, out=Path("run"))
    found = sorted(path.name for path in tmp_path.rglob("*"))
    assert found == [".lock", "log.csv", "model.pt", "run", "training.json"]
    record = json.loads(Path("run/training.json").read_text())
    assert record["state"] == "finished"
    assert record["tiles"] == list(TILES.names)
    assert record["settings"] == QUICK.as_dict()
    assert checkpoint.channels == CHANNELS
    assert checkpoint == resolve_checkpoint(tmp_path / "run")
    output = capfd.readouterr()
    assert output.out == ""
    assert "GPU" not in output.err


def test_a_marker_only_model_stays_one(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"epochs": 1, "zero_channels": ("DAPI",)})
    checkpoint = train(TILES, HELD_OUT, settings=settings, out=tmp_path)
    assert checkpoint.zeroed == ("DAPI",)
    segmenter = load_segmenter(checkpoint, channels=CHANNELS, settings=FlowUnetSettings(), device="cpu")
    planes = segmenter.normalise(TILES.image[0])
    assert not planes[0].any()
    assert planes[1].any()


def test_fine_tuning_starts_from_the_checkpoint(tmp_path: Path) -> None:
    start = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "start")
    still = QUICK.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    tuned = train(TILES, HELD_OUT, settings=still, out=tmp_path / "tuned", start=start)
    before, after = state(start), state(tuned)
    learned = [key for key in before if "running" not in key and "num_batches" not in key]
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in learned)
    with pytest.raises(UnknownNameError, match="no trainable kind of model 'threshold'; known: cpsam, flow_unet"):
        train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "x", start=resolve_checkpoint("threshold"))


def test_validation_without_cells_is_refused(tmp_path: Path) -> None:
    empty = AnnotatedTiles(["a"], CHANNELS, TILES.image[:1], np.zeros_like(TILES.mask[:1]), [96], [96])
    with pytest.raises(FintuneValueError, match="hold no annotated cell"):
        train(TILES, empty, settings=QUICK, out=tmp_path)


def test_patches_from_other_processes_are_the_same(tmp_path: Path) -> None:
    here = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "here")
    there = train(TILES, HELD_OUT, settings=QUICK.model_copy(update={"workers": 1}), out=tmp_path / "there")
    assert same(here, there)


def test_a_process_that_cuts_patches_and_is_killed_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PatchDataset", FatalPatches)
    with pytest.raises(WorkerLostError, match=r"that cut patches \(workers=N\) is gone: .* run the same command again"):
        train(TILES, HELD_OUT, settings=QUICK.model_copy(update={"workers": 1}), out=tmp_path / "there")


def test_fine_tuned_cellpose_weights_open_in_stock_cellpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = empty_network(size)
    # Random weights give no instances: every 8 x 8 block gets flows to its middle, and may be foreground.
    offset = 3.6 - torch.arange(8.0)
    toward = torch.stack(torch.meshgrid(offset, offset, indexing="ij"))
    with torch.no_grad():
        network.out.bias[:128] = (5 * toward / toward.norm(dim=0)).reshape(-1)
        network.out.bias[128:] = 0.2
        network.out.weight[128:] = 3 * network.out.weight[128:129]
    save_cpsam(network, tmp_path / "tiny")
    settings = CpsamTrainSettings(epochs=1, patches_per_epoch=2, warmup_epochs=0, learning_rate=1e-7, threads=1)
    start = resolve_checkpoint(tmp_path / "tiny")
    tuned = train(TILES, HELD_OUT, settings=settings, out=tmp_path / "tuned", start=start)
    assert (tuned.kind, tuned.channels) == ("cpsam", CHANNELS)
    before, after = network.state_dict(), torch.load(tuned.path, weights_only=True)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert "out.weight" in changed
    assert not changed & {"W2", "diam_labels", "diam_mean"}

    # Cellpose takes the size of the encoder from here, and from a weights file takes whatever fits.
    monkeypatch.setitem(sam_model_registry, "vit_l", lambda _: SimpleNamespace(image_encoder=_encoder(size)))
    model = stock.CellposeModel(pretrained_model=tuned.path, gpu=False, use_bfloat16=False)
    assert all(torch.equal(value, after[key]) for key, value in model.net.state_dict().items())
    image = HELD_OUT.image[0]
    theirs = model.eval(np.concatenate([image, np.zeros_like(image[:1])]), channel_axis=0)[0]
    segmenter = load_segmenter(tuned, channels=CHANNELS, settings=CpsamSettings(), device="cpu")
    (ours,) = segment(segmenter, [image])
    assert ours.max() > 3
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_says_what_its_model_was_trained_on(tmp_path: Path) -> None:
    cohort = make_store(tmp_path / "c.zarr", donors=1, tiles=1, px=64)
    made = train(TILES, HELD_OUT, settings=QUICK, out=tmp_path / "model", facts={"split_digest": "abc"})
    infer(cohort.url, run="r", model=str(tmp_path / "model"), overrides=["device=cpu"])
    facts = cohort.run_attrs("r")["provenance"]
    assert facts["checkpoint"]["sha256"] == made.sha256
    assert facts["training"]["split_digest"] == "abc"
    assert facts["training"]["settings"]["epochs"] == 3
    assert "tiles" not in facts["training"]


def test_settings_belong_to_a_kind() -> None:
    assert train_settings("flow_unet") is TrainSettings
    assert train_settings("cpsam") is CpsamTrainSettings
    with pytest.raises(UnknownNameError, match="trainable kind of model 'threshold'"):
        train_settings("threshold")


@pytest.mark.slow
def test_it_learns_to_segment(tmp_path: Path) -> None:
    settings = TrainSettings(epochs=6, filters=(8, 16, 32, 64), learning_rate=6e-3, validate_every=6, threads=1)
    held_out = annotated(2, seed=12, tile_px=192)
    checkpoint = train(annotated(10, seed=11, tile_px=192), held_out, settings=settings, out=tmp_path)
    segmenter = load_segmenter(checkpoint, channels=CHANNELS, settings=FlowUnetSettings(), device="cpu")
    pairs = [held_out.read(index) for index in range(2)]
    found = [average_precision(mask, segment(segmenter, [image])[0]) for image, mask in pairs]
    assert np.mean(found) > 0.6
    assert np.mean(found) == pytest.approx(json.loads((tmp_path / "training.json").read_text())["best_ap50"])
