"""Training of any model: from annotated tiles to a checkpoint, whatever interrupts it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from fintune_xr import names as n
from fintune_xr.errors import RunMismatchError, WorkerLostError
from fintune_xr.execution.file_lock import hold_file
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, whole_file, write_errors
from fintune_xr.finetune.best_weights import BestWeights
from fintune_xr.finetune.encoders import Freezing
from fintune_xr.finetune.objective import NamedTiles, Objective, SampleObjective, Samples, Validation
from fintune_xr.finetune.patches import AddressSampler, PatchDataset
from fintune_xr.finetune.progress import Progress, Report
from fintune_xr.finetune.ranks import ALONE, Rank, ShareSampler, Together, in_ranks
from fintune_xr.finetune.registry import trainable
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.finetune.steps import NetworkTraining, WholeFiles
from fintune_xr.finetune.trainable import Trainable
from fintune_xr.finetune.wandb_log import require_wandb, with_wandb
from fintune_xr.models.checkpoints import (
    COLLAPSED_EPOCHS,
    RECORD_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    training_facts,
    weights_before,
)
from fintune_xr.models.devices import CPU, TPU, use_threads
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.provenance import differences, provenance, settings_digest
from fintune_xr.seeds import stream

LOG_FILE: Final = "log.csv"
LAST_FILE: Final = "last.ckpt"
LOCK_FILE: Final = ".lock"
PREPARED_FOLDER: Final = "prepared"

RUNNING: Final = "running"
FINISHED: Final = "finished"


def train(
    tiles: NamedTiles,
    validation: NamedTiles,
    *,
    settings: FitSettings,
    out: Path | str,
    start: Checkpoint | None = None,
    facts: Mapping[str, Any] | None = None,
    report: Report | None = None,
    beside: Callable[[Path], object] | None = None,
) -> Checkpoint:
    """The checkpoint with the best score on `validation`, written to the folder `out` with log and record.

    `settings` say what is learnt: flows, with AP50 as the score, or particles, with their F1. `start` is what is
    fine-tuned; without it a small U-Net begins from random weights. `facts`, such as the digest of the split, are
    recorded and belong to what makes this training another one. The same command run again goes on where it was
    interrupted, or returns what it had finished. On a CPU the same seed and number of threads give the same
    weights. `report` is called after every epoch. `beside` writes to `out` what else belongs there, once the training
    has ended and before another process may have the folder.

    Raises RunMismatchError if `out` holds another training, RunBusyError while another process trains there,
    FintuneValueError for tiles that cannot be used, WorkerLostError where one of several processes that train together
    was killed.
    """
    out = Path(out)
    require_wandb(settings)
    facts = _facts(tiles, validation, settings, start, facts or {})
    with hold_folder(out):
        record = _read_record(out, facts)
        if not record:
            # The record is written before the first epoch: a state without one is of a training that nobody can name.
            _clear(out)
        if record.get("state") != FINISHED:
            work = partial(_to_the_end, tiles, validation, settings, out, start=start, facts=facts)
            if settings.n_processes > 1:
                in_ranks(work, settings.n_processes, device=settings.device, report=report)
            else:
                work(ALONE, report)
        _clear(out)
        if beside is not None:
            beside(out)
        return resolve_checkpoint(out)


@contextlib.contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Holds the folder `out` of a training.

    Raises RunBusyError while another process trains there, StoreWriteError where anything in it cannot be written.
    """
    busy = f"another process is training in {out}. Wait for it, stop it, or choose another folder."
    with write_errors(str(out)):
        out.mkdir(parents=True, exist_ok=True)
        with hold_file(out / LOCK_FILE, busy=busy):
            yield


def _to_the_end(
    tiles: NamedTiles, validation: NamedTiles, settings: FitSettings, out: Path, rank: Rank, report: Report | None, *,
    start: Checkpoint | None, facts: dict[str, Any],
) -> None:  # fmt: skip
    """Trains, or goes on with it, until the folder holds the weights and a record that says so."""
    with _torch_state(settings):
        device = rank.device(settings.device)
        # To a TPU the trainer brings the network itself.
        built_on = CPU if device == TPU else device
        model = trainable(settings, start=start, channels=tiles.channels, device=built_on)
        if not rank.is_first:
            _learn(model, tiles, out, rank, [])
            return
        chosen = {"channels": list(model.choice.names), "zero_channels": list(model.zeroed)}
        record = provenance(state=RUNNING, **facts, **chosen, **_descent(start))
        _write_record(out, record)
        best = BestWeights(out, model.save)
        with with_wandb(settings, facts, out, report) as told_of_epochs:
            progress = _fit(model, tiles, validation, best, told_of_epochs, rank)
        model.accept(progress.records[-1].loss)
    _finish(out, record, progress, best, score=model.objective.score)


def _finish(out: Path, record: dict[str, Any], progress: Progress, best: BestWeights, *, score: str) -> None:
    """Puts the best weights in their place and says in the record that this is the end."""
    tally = progress.tally
    best.publish(tally.best_epoch, out / WEIGHTS_FILE)
    told: dict[str, Any] = {"best_epoch": tally.best_epoch, f"best_{score}": tally.best_score}
    collapsed = [one.epoch for one in progress.records if one.is_collapsed]
    told |= {"n_epochs": len(progress.records), COLLAPSED_EPOCHS: collapsed}
    _write_record(out, {**record, **told, "state": FINISHED})


def _clear(out: Path) -> None:
    """Removes what a finished training needs no more, and what killed ones left."""
    (out / LAST_FILE).unlink(missing_ok=True)
    for left in (*out.glob("best-*.pt"), *out.glob(f".*{PARTIAL_SUFFIX}")):
        left.unlink()
    shutil.rmtree(out / PREPARED_FOLDER, ignore_errors=True)


def _fit(
    model: Trainable, tiles: NamedTiles, validation: NamedTiles, best: BestWeights, report: Report | None, rank: Rank
) -> Progress:
    settings, objective, out = model.settings, model.objective, best.folder
    held_out = objective.held_out(validation)

    def measure(always: bool) -> Validation:
        mode = model.network.training
        try:
            return held_out(always)
        finally:
            # Applying a network leaves it in evaluation mode.
            model.network.train(mode)

    progress = Progress(
        measure,
        best,
        score=objective.score,
        measures=objective.measures,
        log_path=out / LOG_FILE,
        validate_every=settings.validate_every,
        patience=settings.patience,
        report=report,
        min_gain=settings.min_gain,
        n_processes=rank.of,
    )
    _learn(model, tiles, out, rank, [progress])
    return progress


def _learn(model: Trainable, tiles: NamedTiles, out: Path, rank: Rank, callbacks: Sequence[Callback]) -> None:
    """All epochs, or those that are left, of one process."""
    settings = model.settings
    folder = out / PREPARED_FOLDER / str(rank.number)
    try:
        samples = _samples(model.objective, tiles, settings, folder)
        loader = _loader(samples, settings, rank.device(settings.device), rank)
        told = partial(_tiles_at, samples, settings)
        module = NetworkTraining(model, n_samples=samples.n_samples, tiles_at=told, rank=rank)
        with _quiet(), _lost_loaders(), _interrupts():
            _trainer(settings, out, [Freezing(model.encoder, settings), *callbacks], rank).fit(
                module, loader, ckpt_path=_last(out), weights_only=True
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Lets an interrupt be one: Lightning ends the process in its place, with the status of any failure."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise ended.__context__ from None
        raise


@contextlib.contextmanager
def _lost_loaders() -> Iterator[None]:
    """Raises WorkerLostError where a process that cuts patches is gone, which torch says with its number alone."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerLostError(
            f"one of the processes that cut patches (workers=N) is gone: {str(error).splitlines()[0]} Most often "
            "memory is short: take fewer, or workers=0. What was learnt up to the last epoch is kept: run the same "
            "command again."
        ) from error


def _samples(objective: Objective, tiles: NamedTiles, settings: FitSettings, folder: Path) -> Samples:
    if isinstance(objective, SampleObjective):
        return objective.samples(tiles, folder)
    return PatchDataset(objective.prepare(tiles, folder), settings, recipe=objective.recipe)


def _tiles_at(samples: Samples, settings: FitSettings, epoch: int, batch: int) -> list[str]:
    """Tiles that a batch shows, each once, in the order that they are shown in."""
    first = batch * settings.batch_size
    order = AddressSampler(samples.n_samples, settings.seed).order(epoch)
    return list(dict.fromkeys(samples.tile_at(epoch, index) for index in order[first : first + settings.batch_size]))


def _loader(samples: Samples, settings: FitSettings, device: str, rank: Rank = ALONE) -> DataLoader[Any]:
    addressed: Any = samples
    return DataLoader(
        addressed,
        batch_size=settings.batch_size // rank.of,
        sampler=ShareSampler(samples.n_samples, settings.seed, batch_size=settings.batch_size, rank=rank),
        num_workers=settings.workers,
        # A forked copy of a process with threads can hang for good.
        multiprocessing_context="forkserver" if settings.workers else None,
        persistent_workers=settings.workers > 0,
        prefetch_factor=settings.prefetch if settings.workers else None,
        pin_memory=settings.pin_memory and device not in (CPU, TPU),
    )


def _trainer(settings: FitSettings, out: Path, callbacks: Sequence[Callback], rank: Rank) -> Trainer:
    device = rank.device(settings.device)
    further: list[Callback] = [Together(rank)] if rank.of > 1 else []
    return Trainer(
        accelerator=device if device in (CPU, TPU) else "gpu",
        devices=1 if device in (CPU, TPU) else [int(device.partition(":")[2])],
        precision="bf16-mixed" if settings.precision == "bfloat16" else "32-true",
        max_epochs=settings.epochs,
        gradient_clip_val=settings.gradient_clip or None,
        accumulate_grad_batches=settings.accumulate_batches,
        callbacks=[*callbacks, *further, *([_state_in(out)] if rank.is_first else [])],
        enable_checkpointing=rank.is_first,
        plugins=[WholeFiles()],
        default_root_dir=out,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=settings.deterministic or None,
        log_every_n_steps=1,
    )


def _state_in(out: Path) -> ModelCheckpoint:
    """Keeps in `out` what a killed training goes on from."""
    return ModelCheckpoint(
        dirpath=out,
        filename=Path(LAST_FILE).stem,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


def _last(out: Path) -> str | None:
    path = out / LAST_FILE
    return str(path) if path.is_file() else None


def _facts(
    tiles: NamedTiles,
    validation: NamedTiles,
    settings: FitSettings,
    start: Checkpoint | None,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """What makes this training another one: with other facts it must not go on in the same folder."""
    facts: dict[str, Any] = {
        "settings": settings.as_dict(),
        "start": None if start is None else start.as_dict(),
        "tiles": list(tiles.names),
        "validation_tiles": list(validation.names),
        "store_channels": list(tiles.channels),
        **further,
    }
    # What is told of the tiles besides follows from them, and earlier releases did not tell it.
    decisive = {key: value for key, value in facts.items() if key != n.PIXEL_SIDES_UM}
    return {**facts, "digest": settings_digest(decisive)}


def _descent(start: Checkpoint | None) -> dict[str, list[str]]:
    """Digests of all weights that a training from `start` comes from. They follow from it, and are no further fact."""
    return {} if start is None else {n.WEIGHTS_BEFORE: sorted({start.sha256, *weights_before(training_facts(start))})}


def _read_record(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    path = out / RECORD_FILE
    if not path.is_file():
        return {}
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("digest") != facts["digest"]:
        changed = [key for key in differences({key: record.get(key) for key in facts}, facts) if key != "digest"]
        raise RunMismatchError(
            f"{out} holds another training (different: {', '.join(changed) or 'its record'}). "
            "Choose another folder, or remove that one."
        )
    return record


def is_finished(out: Path) -> bool:
    """Whether the folder `out` holds a training that has come to its end."""
    path = out / RECORD_FILE
    return path.is_file() and json.loads(path.read_text()).get("state") == FINISHED


def _write_record(out: Path, record: dict[str, Any]) -> None:
    with whole_file(out / RECORD_FILE, alone=True) as place:
        place.write_text(json.dumps(record, indent=2) + "\n")


@contextlib.contextmanager
def _torch_state(settings: FitSettings) -> Iterator[None]:
    """Random numbers and threads for a training, and the caller's own again afterwards."""
    n_threads, was_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(int(stream(settings.seed, "weights").integers(2**63)))
        use_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
            torch.use_deterministic_algorithms(was_deterministic)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No notices of the trainer about hardware, loaders and folders: the log has its own place."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        logger.setLevel(level)
