"""Trainings that are killed: what goes on afterwards is, bit by bit, what would have been."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from killing import FORKS

from fintune_xr.errors import RunBusyError
from fintune_xr.finetune import engine
from fintune_xr.finetune.best_weights import BestWeights
from fintune_xr.finetune.engine import train
from fintune_xr.finetune.instance.settings import CpsamTrainSettings, TrainSettings
from fintune_xr.finetune.instance.tiles import AnnotatedTiles
from fintune_xr.finetune.progress import EpochRecord
from fintune_xr.finetune.steps import NetworkTraining, WholeFiles
from fintune_xr.models.cellpose.adapter import EncoderSize, empty_network, save_cpsam
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.seeds import stream
from fintune_xr.simulation.phantoms import phantom_tile

CHANNELS = ("DAPI", "marker")
EPOCHS = 4
UNFREEZE = 2
SETTINGS = CpsamTrainSettings(
    epochs=EPOCHS, patches_per_epoch=4, accumulate_batches=2, warmup_epochs=0, learning_rate=1e-3, validate_every=2,
    encoder_learning_rate=1e-4, freeze_encoder_blocks=1, unfreeze_at_epoch=UNFREEZE, threads=1, seed=3,
)  # fmt: skip

States = dict[int, dict[str, Any]]


class Whole(NamedTuple):
    sha256: str
    states: States
    log: list[list[str]]


def annotated(n_tiles: int, *, seed: int) -> AnnotatedTiles:
    tiles = [phantom_tile(stream(seed, index), marker="GFAP", ratio=0.3, tile_px=96) for index in range(n_tiles)]
    images, masks = np.stack([tile.image for tile in tiles]), np.stack([tile.mask for tile in tiles])
    names, lengths = [f"{seed}-{i}" for i in range(n_tiles)], [96] * n_tiles
    return AnnotatedTiles(names, CHANNELS, images, masks, lengths, lengths)


def fit(start: Path, out: Path, settings: TrainSettings = SETTINGS, **options: Any) -> Checkpoint:
    tiles, held_out = annotated(2, seed=1), annotated(1, seed=2)
    return train(tiles, held_out, settings=settings, out=out, start=resolve_checkpoint(start), **options)


def kill_in_the_middle(start: Path, out: Path, epoch: int) -> None:
    """Trains until this process is killed, between two steps of `epoch`."""
    step = NetworkTraining.training_step

    def fatal(module: NetworkTraining, batch: Any, index: int) -> torch.Tensor:
        if module.current_epoch == epoch and index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(module, batch, index)

    NetworkTraining.training_step = fatal
    fit(start, out)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = empty_network(EncoderSize(width=32, depth=2, heads=2, global_blocks=(1,)))
    path = tmp_path_factory.mktemp("start") / "tiny"
    save_cpsam(network, path)
    return path


@contextmanager
def recorded() -> Iterator[States]:
    """Everything that is saved inside: weights and state of the optimiser after each epoch."""
    kept: States = {}
    write = WholeFiles.save_checkpoint

    def keep(files: WholeFiles, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(files, checkpoint, path, storage_options)
        saved = torch.load(path, weights_only=True)
        kept[saved["epoch"]] = {key: saved[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WholeFiles, "save_checkpoint", keep)
        yield kept


@pytest.fixture(scope="module")
def whole(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    with recorded() as states:
        made = fit(start, folder)
    return Whole(made.sha256, states, logged(folder))


def equal(one: Any, other: Any) -> bool:
    """Whether nested states are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def logged(folder: Path) -> list[list[str]]:
    """What a log says, without times and memory."""
    columns = ("epoch", "loss", "ap50", "learning_rate", "encoder_learning_rate", "validation_loss")
    with (folder / "log.csv").open() as file:
        return [[row[key] for key in columns] for row in csv.DictReader(file)]


class KilledError(Exception):
    pass


def at_epoch(epoch: int) -> Callable[[EpochRecord], None]:
    def kill(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KilledError

    return kill


# The state after epoch 0 is from before the unfreeze, that after epoch 2 from behind it.
@pytest.mark.parametrize("killed_in", [1, UNFREEZE, 3])
def test_what_is_frozen_is_right_after_a_kill(start: Path, tmp_path: Path, whole: Whole, killed_in: int) -> None:
    expected = whole.states
    block = [{k: v for k, v in expected[i]["state_dict"].items() if "blocks.0." in k} for i in range(EPOCHS)]
    assert equal(block[0], block[UNFREEZE - 1])
    assert not equal(block[UNFREEZE - 1], block[UNFREEZE])
    assert not equal(block[UNFREEZE], block[3])
    with pytest.raises(KilledError):
        fit(start, tmp_path / "killed", report=at_epoch(killed_in))
    with recorded() as found:
        resumed = fit(start, tmp_path / "killed")
    assert sorted(found) == list(range(killed_in, EPOCHS))
    assert all(equal(found[epoch], expected[epoch]) for epoch in found)
    assert resumed.sha256 == whole.sha256


def test_an_interrupt_is_none_of_the_statuses_of_a_process(start: Path, tmp_path: Path) -> None:
    """Lightning makes an exit of it, with status 1."""

    def interrupt(_: EpochRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(start, tmp_path / "interrupted", report=interrupt)


def test_a_state_without_a_record_is_not_gone_on_from(start: Path, tmp_path: Path, whole: Whole) -> None:
    """A training with other settings was interrupted, and its folder was being removed when that was killed."""
    with pytest.raises(KilledError):
        fit(start, tmp_path, SETTINGS.model_copy(update={"learning_rate": 1e-2, "seed": 4}), report=at_epoch(1))
    assert (tmp_path / engine.LAST_FILE).is_file()
    (tmp_path / engine.RECORD_FILE).unlink()
    assert fit(start, tmp_path).sha256 == whole.sha256
    assert logged(tmp_path) == whole.log


@pytest.mark.slow
def test_sigkill_in_the_middle_of_an_epoch(start: Path, tmp_path: Path, whole: Whole) -> None:
    killed = FORKS.Process(target=kill_in_the_middle, args=(start, tmp_path / "killed", 2))
    killed.start()
    killed.join(timeout=200)
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    assert not (tmp_path / "killed" / "model.pt").exists()
    with recorded() as found:
        resumed = fit(start, tmp_path / "killed")
    assert sorted(found) == [2, 3]
    assert all(equal(found[epoch], whole.states[epoch]) for epoch in found)
    assert resumed.sha256 == whole.sha256
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == [".lock", "log.csv", "model.pt", "training.json"]
    assert logged(tmp_path / "killed") == whole.log


def train_until_killed(start: str, out: str, began: Any) -> None:
    """Trains, tells when the first epoch has ended, and stays alive in its folder."""

    def stay(_: EpochRecord) -> None:
        began.set()
        signal.pause()

    fit(Path(start), Path(out), report=stay)


@pytest.mark.slow
def test_a_folder_is_trained_in_by_one_process_at_a_time(start: Path, tmp_path: Path, whole: Whole) -> None:
    """As when a worker that was taken for lost is still at it; once it is gone, the work goes on from what it left."""
    began = FORKS.Event()
    first = FORKS.Process(target=train_until_killed, args=(str(start), str(tmp_path / "a"), began))
    first.start()
    try:
        assert began.wait(timeout=200)
        before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()}
        with pytest.raises(RunBusyError, match=r"another process is training in .*/a\. Wait for it, stop it"):
            fit(start, tmp_path / "a")
        assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir() if path.is_file()} == before
    finally:
        first.kill()
        first.join()
    assert fit(start, tmp_path / "a").sha256 == whole.sha256
    assert logged(tmp_path / "a") == whole.log


def test_killed_between_its_weights_and_its_record_it_still_ends(
    start: Path, tmp_path: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = engine._write_record

    def fatal(out: Path, record: dict[str, Any]) -> None:
        if record["state"] == engine.FINISHED:
            raise KilledError
        write(out, record)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(engine, "_write_record", fatal)
        fit(start, tmp_path / "a")
    assert (tmp_path / "a" / "model.pt").is_file()
    assert fit(start, tmp_path / "a").sha256 == whole.sha256
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", "log.csv", "model.pt", "training.json"]


def test_weights_that_no_state_tells_of_are_not_the_best(tmp_path: Path) -> None:
    """Epoch 3 was the best when it was killed; repeated, it is not."""
    best = BestWeights(tmp_path, lambda path: path.write_text(path.name))
    for epoch in (1, 3):
        best.save(epoch)
    best.drop_others(1)
    best.publish(1, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_text() == "best-1.pt"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    best.publish(1, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_text() == "best-1.pt"


def test_a_state_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = WholeFiles(), tmp_path / "last.ckpt"
    files.save_checkpoint({"epoch": 1}, path)

    def half(_: Any, place: Path) -> None:
        place.write_bytes(b"PK")
        raise KilledError

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KilledError):
        files.save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_training_that_had_stopped_early_does_not_go_on(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fintune_xr.finetune.progress.Tally.count", lambda tally, epoch, _, **__: _count(tally, epoch))
    settings = SETTINGS.model_copy(update={"patience": 2, "epochs": 9, "validate_every": 1})
    write = WholeFiles.save_checkpoint

    def fatal(files: WholeFiles, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(files, checkpoint, path, storage_options)
        if checkpoint["epoch"] == 2:
            raise KilledError

    monkeypatch.setattr(WholeFiles, "save_checkpoint", fatal)
    with pytest.raises(KilledError):
        fit(start, tmp_path / "out", settings)
    seen: list[int] = []
    fit(start, tmp_path / "out", settings, report=lambda record: seen.append(record.epoch))
    assert seen == []
    assert len((tmp_path / "out" / "log.csv").read_text().splitlines()) == 1 + 3


def _count(tally: Any, epoch: int) -> bool:
    """The first epoch is the best."""
    tally.best_epoch, tally.n_stale = 0, epoch
    return epoch == 0
