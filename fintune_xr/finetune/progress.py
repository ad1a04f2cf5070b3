"""What a training remembers from epoch to epoch: its log, its best weights, and when to stop."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fintune_xr.execution.whole_file import whole_file
from fintune_xr.finetune.best_weights import BestWeights
from fintune_xr.finetune.objective import Validation
from fintune_xr.finetune.schedules import ENCODER, REST
from fintune_xr.finetune.settings import MIN_GAIN
from fintune_xr.models.devices import finish, peak_memory, start_measuring

LOGGER = logging.getLogger(__name__)

# Name of the loss in the log; its parts are that and their own name.
LOSS: Final = "loss"

# A training whose score is below this part of its best for so many validations has collapsed.
_LOW: Final = 0.5
_N_LOW: Final = 3


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """A row of the log; what comes from validation is NaN in epochs without one.

    `score_name` is what the best epoch is chosen by, `measures` all that was measured. Learning rates are those of
    the last step. `images_per_second` counts patches, without validation. `peak_memory` in bytes: on a GPU of the
    epoch, on the CPU of the process since its start. `parts` are those of the loss, before they are weighted.
    `is_collapsed` says that the score has been below half of its best for three validations running.
    """

    epoch: int
    loss: float
    learning_rate: float
    encoder_learning_rate: float
    validation_loss: float
    measures: dict[str, float]
    score_name: str
    score: float
    is_best: bool
    seconds: float
    images_per_second: float
    peak_memory: int
    is_collapsed: bool = False
    parts: dict[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What it is made of, by name; not copied, as nothing of it is ever changed."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def row(self) -> dict[str, Any]:
        """Columns of the log: each measure and each part of the loss under its name, the score being a measure."""
        columns: dict[str, Any] = {}
        for key, value in self.facts().items():
            columns |= value if key in ("measures", "parts") else {} if key.startswith("score") else {key: value}
        return columns


Report = Callable[[EpochRecord], None]


@dataclass(slots=True)
class Tally:
    """Best validation so far, for how many validations nothing was better, and for how many it was far worse."""

    best_epoch: int = -1
    best_score: float = -math.inf
    best_loss: float = math.inf
    n_stale: int = 0
    n_low: int = 0

    @property
    def is_collapsed(self) -> bool:
        """Whether the last validations were all far below the best one."""
        return self.n_low >= _N_LOW

    def count(self, epoch: int, validation: Validation, *, min_gain: float = MIN_GAIN) -> bool:
        """Whether `validation` is the best so far: by the score, and by the loss until there is one."""
        measured = not math.isnan(validation.score)
        if measured:
            self.n_low = self.n_low + 1 if validation.score < _LOW * self.best_score else 0
        if measured and self.best_score == -math.inf:
            better = True
        elif measured:
            better = validation.score > self.best_score + min_gain
        else:
            better = self.best_score == -math.inf and validation.loss < self.best_loss
        if better:
            self.best_epoch, self.best_loss, self.n_stale = epoch, validation.loss, 0
            self.best_score = validation.score if measured else -math.inf
        elif self.best_score > 0:
            # Until anything is found at all, waiting longer is what helps.
            self.n_stale += 1
        return better


class Progress(Callback):  # type: ignore[misc]
    """Validates at the end of epochs, keeps the best weights and the log, stops when nothing gets better.

    It stands for all of the `n_processes` that train together, each of which sees as many images.
    """

    def __init__(
        self,
        validate: Callable[[bool], Validation],
        best: BestWeights,
        *,
        score: str,
        measures: Sequence[str],
        log_path: Path,
        validate_every: int,
        patience: int,
        report: Report | None,
        min_gain: float = MIN_GAIN,
        n_processes: int = 1,
    ) -> None:
        self.tally = Tally()
        self.records: list[EpochRecord] = []
        self._rows: list[dict[str, Any]] = []
        self._validate, self._best, self._report = validate, best, report
        self._score, self._measures = score, tuple(measures)
        self._log_path, self._every, self._patience = log_path, validate_every, patience
        self._min_gain, self._n_processes = min_gain, n_processes
        self._started, self._n_images = 0.0, 0
        self._rates: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Ends a training at once that had stopped early before it was killed."""
        trainer.should_stop = self._is_over()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Notes the time; of the best weights, keeps those that the last state tells of."""
        self._best.drop_others(self.tally.best_epoch)
        start_measuring(str(pl_module.device))
        self._started, self._n_images = time.perf_counter(), 0

    def on_before_optimizer_step(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Notes the learning rates."""
        self._rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}

    def on_train_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Sequence[torch.Tensor],
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Counts the patches."""
        self._n_images += len(batch[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates where it is due, writes the log."""
        device = str(pl_module.device)
        finish(device)
        speed = self._n_processes * self._n_images / (time.perf_counter() - self._started)
        epoch = trainer.current_epoch
        is_last = epoch + 1 == trainer.max_epochs
        validation = Validation(math.nan, math.nan, dict.fromkeys(self._measures, math.nan))
        is_best = False
        if is_last or (epoch + 1) % self._every == 0:
            # A training whose flows never took shape still ends with a score, bad as it may be.
            validation = self._validate(is_last and self.tally.best_score == -math.inf)
            is_best = self.tally.count(epoch, validation, min_gain=self._min_gain)
            self._warn_of_collapse(epoch)
            if is_best:
                self._best.save(epoch)
            trainer.should_stop = trainer.should_stop or self._is_over()
        self._note(
            EpochRecord(
                epoch=epoch,
                loss=float(trainer.callback_metrics[LOSS]),
                learning_rate=self._rates[REST],
                encoder_learning_rate=self._rates[ENCODER],
                validation_loss=validation.loss,
                measures=dict(validation.measures),
                score_name=self._score,
                score=validation.score,
                is_best=is_best,
                seconds=time.perf_counter() - self._started,
                images_per_second=speed,
                peak_memory=peak_memory(device),
                is_collapsed=self.tally.is_collapsed,
                parts=_parts_of_loss(trainer),
            )
        )

    def _warn_of_collapse(self, epoch: int) -> None:
        if self.tally.n_low == _N_LOW:
            LOGGER.warning(
                "epoch %d: %s is below half of its best (%.3f of epoch %d) for the third time running: this "
                "training has collapsed. The weights of its best epoch stand.",
                epoch + 1, self._score, self.tally.best_score, self.tally.best_epoch + 1,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What must survive a kill."""
        return {"tally": asdict(self.tally), "records": [record.facts() for record in self.records]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what survived."""
        self.tally = Tally(**state_dict["tally"])
        self.records = [EpochRecord(**record) for record in state_dict["records"]]
        self._rows = [record.row() for record in self.records]

    def _is_over(self) -> bool:
        return self.tally.n_stale >= self._patience

    def _note(self, record: EpochRecord) -> None:
        self.records.append(record)
        # Made once: of a thousand epochs, rows made anew after each would be half a million.
        self._rows.append(record.row())
        with whole_file(self._log_path, alone=True) as place, place.open("w", newline="") as file:
            columns = dict.fromkeys(chain.from_iterable(self._rows))
            writer = csv.DictWriter(file, list(columns), restval=math.nan)
            writer.writeheader()
            writer.writerows(self._rows)
        if self._report is not None:
            self._report(record)


def _parts_of_loss(trainer: Trainer) -> dict[str, float]:
    """The named parts of the loss, as far as the objective names any."""
    measured = trainer.callback_metrics.items()
    return {name: float(value) for name, value in measured if name.startswith(f"{LOSS}_")}
