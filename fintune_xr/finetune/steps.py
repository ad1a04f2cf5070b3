"""One step of training, and the state that a killed training goes on from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fintune_xr.errors import FintuneValueError
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.finetune.progress import LOSS
from fintune_xr.finetune.ranks import ALONE, Rank
from fintune_xr.finetune.schedules import parameter_groups, rate_factors, say_long_warmup
from fintune_xr.finetune.trainable import Trainable
from fintune_xr.seeds import stream

# Tiles of a batch that an error names.
_LISTED: Final = 8


class NetworkTraining(LightningModule):  # type: ignore[misc]
    """One step of training a network, for lightning's trainer.

    `n_samples` are those of an epoch; `tiles_at(epoch, batch)` names the tiles that a batch shows. Of each batch
    `rank` has its share.
    """

    def __init__(
        self, model: Trainable, *, n_samples: int, tiles_at: Callable[[int, int], Sequence[str]], rank: Rank = ALONE
    ) -> None:
        super().__init__()
        self._n_samples, self._rank = n_samples, rank
        self._tiles_at = tiles_at
        self.network = model.network
        self.settings = model.settings
        self._encoder = model.encoder
        self._undecayed = model.undecayed
        self._objective = model.objective
        n_batches = math.ceil(n_samples / model.settings.batch_size)
        self._steps_per_epoch = n_batches // model.settings.accumulate_batches

    def training_step(self, batch: Sequence[torch.Tensor], index: int) -> torch.Tensor:
        """Loss of a batch of patches. Raises FintuneValueError where it is no finite number."""
        # Layers that are dropped at random are drawn by address too, so that a resumed training repeats them.
        place = (self.current_epoch, index, *([self._rank.number] if self._rank.of > 1 else []))
        torch.manual_seed(int(stream(self.settings.seed, "step", *place).integers(2**63)))
        patches, target = batch
        found = self._objective.loss(self.network(patches), target)
        loss, parts = (found, {}) if isinstance(found, torch.Tensor) else found
        if not torch.isfinite(loss):
            raise FintuneValueError(self._not_finite(float(loss.detach()), parts, index))
        n_shown = min(self.settings.batch_size, self._n_samples - index * self.settings.batch_size)
        weight = self._rank.weight(n_shown) if self._rank.of > 1 else 1.0
        for name, value in {LOSS: loss, **{f"{LOSS}_{part}": value for part, value in parts.items()}}.items():
            whole = value.detach() * weight
            self._rank.average([whole])
            self.log(name, whole, on_step=False, on_epoch=True, batch_size=n_shown)
        return loss * weight

    def on_after_backward(self) -> None:
        """Gradients of the whole batch, where other processes have shares of it."""
        self._rank.average(one.grad for one in self.network.parameters() if one.grad is not None)

    def _not_finite(self, loss: float, parts: Mapping[str, torch.Tensor], index: int) -> str:
        """What is known of a loss that nothing can be learnt from."""
        names = self._tiles_at(self.current_epoch, index)
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        told = "".join(f", {LOSS}_{name} {float(value):.4g}" for name, value in parts.items())
        return (
            f"epoch {self.current_epoch + 1}, step {index + 1}: the loss is {loss}{told}, where a finite number was "
            f"expected; shown were {listed}. Look at these tiles and their annotations, or train in another folder "
            "with a smaller learning_rate, a gradient_clip, or precision=float32."
        )

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine, step by step."""
        settings = self.settings
        groups = parameter_groups(
            self.network,
            self._encoder.parameters(),
            learning_rate=settings.learning_rate,
            encoder_learning_rate=settings.encoder_learning_rate or settings.learning_rate,
            weight_decay=settings.weight_decay,
            undecayed=self._undecayed,
        )
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        say_long_warmup(settings, self._steps_per_epoch)
        factors = rate_factors(settings, groups, self._steps_per_epoch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Writes the training state beside its place and then moves it there.

    Lightning writes it to the folder for temporary files, from where a move can be a copy: a kill during that
    leaves half a file where the last good state was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Writes `checkpoint`, which appears whole or not at all."""
        with whole_file(Path(path), alone=True) as place:
            torch.save(checkpoint, place)
