"""The encoder of a network that learns: which of its blocks rest, and what they keep in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.checkpoint import checkpoint

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.settings import ALL_BLOCKS, FitSettings


@dataclass(frozen=True, eq=False)
class Encoder:
    """What a network sees with: parameters of the `stem`, then `blocks` in the order of computation."""

    blocks: tuple[torch.nn.Module, ...]
    stem: tuple[torch.nn.Parameter, ...] = ()

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


def frozen_blocks(settings: FitSettings, n_blocks: int, epoch: int) -> int:
    """How many of the first of `n_blocks` encoder blocks rest in this epoch.

    Raises SettingsError where there are not as many as shall be frozen.
    """
    wanted = n_blocks if settings.freeze_encoder_blocks == ALL_BLOCKS else settings.freeze_encoder_blocks
    if wanted > n_blocks:
        raise SettingsError(
            f"freeze_encoder_blocks: expected at most {n_blocks}, as many as this encoder has, got {wanted}. "
            f"Write {ALL_BLOCKS} for all of them."
        )
    is_over = settings.unfreeze_at_epoch is not None and epoch >= settings.unfreeze_at_epoch
    return 0 if is_over else wanted


class Freezing(Callback):  # type: ignore[misc]
    """Freezes what shall rest, anew in every epoch.

    The epoch alone decides, so a training that is resumed after blocks began to learn lets them learn;
    lightning's BackboneFinetuning leaves them frozen there.
    """

    def __init__(self, encoder: Encoder, settings: FitSettings) -> None:
        self._encoder, self._settings = encoder, settings

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Freezes for this epoch."""
        n_blocks = frozen_blocks(self._settings, len(self._encoder.blocks), trainer.current_epoch)
        self._encoder.freeze(n_blocks)
