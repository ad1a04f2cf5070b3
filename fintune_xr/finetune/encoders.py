"""The encoder of a network that learns: which of its blocks rest, and what they keep in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.checkpoint import checkpoint

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.schedules import step_at
from fintune_xr.finetune.settings import ALL_BLOCKS, FitSettings, Unfreezing


@dataclass(frozen=True, eq=False)
class Encoder:
    """What a network sees with: parameters of the `stem`, then `blocks` in the order of computation.

    `stages` says to which stage, counted from 1, each block belongs; empty where every block is a stage of its own.
    """

    blocks: tuple[torch.nn.Module, ...]
    stem: tuple[torch.nn.Parameter, ...] = ()
    stages: tuple[int, ...] = ()

    def parameters(self) -> list[torch.nn.Parameter]:
        """All that the encoder's learning rate is for."""
        return [*self.stem, *(value for block in self.blocks for value in block.parameters())]

    def freeze(self, n_blocks: int) -> None:
        """Lets the stem and the first `n_blocks` blocks rest, and everything else in the encoder learn.

        Norm layers of a block at rest no longer follow the data. With 0 the stem learns too.
        """
        for parameter in self.stem:
            parameter.requires_grad_(n_blocks == 0)
        for index, block in enumerate(self.blocks):
            block.requires_grad_(index >= n_blocks)
            block.train(index >= n_blocks)

    def recompute(self) -> None:
        """Keeps only the input of each block for the backward pass, which computes the rest once more.

        Gradients stay the same. Not for blocks with batch norm: their statistics would be updated twice.
        """
        for block in self.blocks:
            # As an attribute of the instance, so that names of weights stay those of the bare network.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def unet_encoder(unet: Any) -> Encoder:
    """The way down of MONAI's DynUNet."""
    return Encoder((unet.input_block, *unet.downsamples, unet.bottleneck))


def frozen_blocks(settings: FitSettings, encoder: Encoder, epoch: int) -> int:
    """How many of the first blocks of `encoder` rest in this epoch.

    Raises SettingsError where there are not as many as shall be frozen, or no such stages.
    """
    step = step_at(settings.unfreezing, epoch)
    if step is not None and step.stages is not None:
        return _before_stages(step, encoder)
    asked = settings.freeze_encoder_blocks if step is None else step.blocks or 0
    n_blocks = len(encoder.blocks)
    wanted = n_blocks if asked == ALL_BLOCKS else asked
    if wanted > n_blocks:
        raise SettingsError(
            f"freeze_encoder_blocks: expected at most {n_blocks}, as many as this encoder has, got {wanted}. "
            f"Write {ALL_BLOCKS} for all of them."
        )
    is_over = settings.unfreeze_at_epoch is not None and epoch >= settings.unfreeze_at_epoch
    return 0 if is_over else wanted


def check_freezing(settings: FitSettings, encoder: Encoder) -> None:
    """Raises SettingsError where in some epoch more of `encoder` shall rest, or learn, than it has."""
    for epoch in (0, *(step.from_epoch for step in settings.unfreezing)):
        frozen_blocks(settings, encoder, epoch)


def _before_stages(step: Unfreezing, encoder: Encoder) -> int:
    """Blocks before the stages that learn, which must be the last ones: gradients stop at what rests."""
    of_blocks = encoder.stages or tuple(range(1, len(encoder.blocks) + 1))
    last = max(of_blocks)
    wanted = tuple(sorted(step.stages or ()))
    if wanted != tuple(range(wanted[0], last + 1)):
        raise SettingsError(
            f"unfreezing from epoch {step.from_epoch}: expected the last stages of the {last} that this encoder has, "
            f"e.g. stages=[{last - 1},{last}], got {list(step.stages or ())}"
        )
    return of_blocks.index(wanted[0])


class Freezing(Callback):  # type: ignore[misc]
    """Freezes what shall rest, anew in every epoch.

    The epoch alone decides, so a training that is resumed after blocks began to learn lets them learn;
    lightning's BackboneFinetuning leaves them frozen there.
    """

    def __init__(self, encoder: Encoder, settings: FitSettings) -> None:
        self._encoder, self._settings = encoder, settings

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Freezes for this epoch."""
        self._encoder.freeze(frozen_blocks(self._settings, self._encoder, trainer.current_epoch))
