"""Training of any model: from annotated tiles to a checkpoint, whatever interrupts it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from fintune_xr.errors import RunMismatchError
from fintune_xr.execution.file_lock import holding_file
from fintune_xr.execution.whole_file import PARTIAL_SUFFIX, whole_file
from fintune_xr.finetune.best_weights import BestWeights
from fintune_xr.finetune.encoders import Freezing
from fintune_xr.finetune.objective import NamedTiles, Objective, SampleObjective, Samples, Validation
from fintune_xr.finetune.patches import AddressSampler, PatchDataset
from fintune_xr.finetune.progress import Progress, Report
from fintune_xr.finetune.registry import trainable
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.finetune.steps import NetworkTraining, WholeFiles
from fintune_xr.finetune.trainable import Trainable
from fintune_xr.finetune.wandb_log import reported, require_wandb
from fintune_xr.models.checkpoints import COLLAPSED_EPOCHS, RECORD_FILE, WEIGHTS_FILE, Checkpoint
from fintune_xr.models.devices import CPU, TPU, resolve_device, use_threads
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
) -> Checkpoint:
    """The checkpoint with the best score on `validation`, written to the folder `out` with log and record.

    `settings` say what is learnt: flows, with AP50 as the score, or particles, with their F1. `start` is what is
    fine-tuned; without it a small U-Net begins from random weights. `facts`, such as the digest of the split, are
    recorded and belong to what makes this training another one. The same command run again goes on where it was
    interrupted, or returns what it had finished. On a CPU the same seed and number of threads give the same
    weights. `report` is called after every epoch.

    Raises RunMismatchError if `out` holds another training, RunBusyError while another process trains there,
    FintuneValueError for tiles that cannot be used.
    """
    out = Path(out)
    require_wandb(settings)
    facts = _facts(tiles, validation, settings, start, facts or {})
    with training_in(out):
        record = _read_record(out, facts)
        if record.get("state") != FINISHED:
            _to_the_end(tiles, validation, settings, out, start=start, facts=facts, report=report)
        _clear(out)
        return resolve_checkpoint(out)


def training_in(out: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the folder `out` of a training. Raises RunBusyError while another process trains there."""
    out.mkdir(parents=True, exist_ok=True)
    return holding_file(
        out / LOCK_FILE, busy=f"another process is training in {out}. Wait for it, stop it, or choose another folder."
    )


def _to_the_end(
    tiles: NamedTiles, validation: NamedTiles, settings: FitSettings, out: Path, *, start: Checkpoint | None,
    facts: dict[str, Any], report: Report | None,
) -> None:  # fmt: skip
    """Trains, or goes on with it, until the folder holds the weights and a record that says so."""
    with _torch_state(settings):
        device = resolve_device(settings.device)
        # To a TPU the trainer brings the network itself.
        built_on = CPU if device == TPU else device
        model = trainable(settings, start=start, channels=tiles.channels, device=built_on)
        chosen = {"channels": list(model.choice.names), "zero_channels": list(model.zeroed)}
        record = provenance(state=RUNNING, **facts, **chosen)
        _write_record(out, record)
        best = BestWeights(out, model.save)
        with reported(settings, facts, out, report) as told_of_epochs:
            progress = _fit(model, tiles, validation, best, told_of_epochs)
        model.accept(progress.records[-1].loss)
    tally = progress.tally
    best.publish(tally.best_epoch, out / WEIGHTS_FILE)
    told: dict[str, Any] = {"best_epoch": tally.best_epoch, f"best_{model.objective.score}": tally.best_score}
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
    model: Trainable, tiles: NamedTiles, validation: NamedTiles, best: BestWeights, report: Report | None
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
    )
    folder = out / PREPARED_FOLDER
    try:
        samples = _samples(objective, tiles, settings, folder)
        loader = _loader(samples, settings, resolve_device(settings.device))
        module = NetworkTraining(model, n_batches=len(loader), tiles_at=partial(_tiles_at, samples, settings))
        with _quiet():
            _trainer(settings, out, [Freezing(model.encoder, settings), progress]).fit(
                module, loader, ckpt_path=_last(out), weights_only=True
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return progress


def _samples(objective: Objective, tiles: NamedTiles, settings: FitSettings, folder: Path) -> Samples:
    if isinstance(objective, SampleObjective):
        return objective.samples(tiles, folder)
    return PatchDataset(objective.prepare(tiles, folder), settings, recipe=objective.recipe)


def _tiles_at(samples: Samples, settings: FitSettings, epoch: int, batch: int) -> list[str]:
    """Tiles that a batch shows, each once, in the order that they are shown in."""
    first = batch * settings.batch_size
    order = AddressSampler(samples.n_samples, settings.seed).order(epoch)
    return list(dict.fromkeys(samples.tile_at(epoch, index) for index in order[first : first + settings.batch_size]))


def _loader(samples: Samples, settings: FitSettings, device: str) -> DataLoader[Any]:
    addressed: Any = samples
    return DataLoader(
        addressed,
        batch_size=settings.batch_size,
        sampler=AddressSampler(samples.n_samples, settings.seed),
        num_workers=settings.workers,
        # A forked copy of a process with threads can hang for good.
        multiprocessing_context="forkserver" if settings.workers else None,
        persistent_workers=settings.workers > 0,
        prefetch_factor=settings.prefetch if settings.workers else None,
        pin_memory=settings.pin_memory and device not in (CPU, TPU),
    )


def _trainer(settings: FitSettings, out: Path, callbacks: Sequence[Callback]) -> Trainer:
    device = resolve_device(settings.device)
    last = ModelCheckpoint(
        dirpath=out,
        filename=Path(LAST_FILE).stem,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    return Trainer(
        accelerator=device if device in (CPU, TPU) else "gpu",
        devices=1 if device in (CPU, TPU) else [int(device.partition(":")[2])],
        precision="bf16-mixed" if settings.precision == "bfloat16" else "32-true",
        max_epochs=settings.epochs,
        gradient_clip_val=settings.gradient_clip or None,
        accumulate_grad_batches=settings.accumulate_batches,
        callbacks=[*callbacks, last],
        plugins=[WholeFiles()],
        default_root_dir=out,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=settings.deterministic or None,
        log_every_n_steps=1,
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
    return {**facts, "digest": settings_digest(facts)}


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
