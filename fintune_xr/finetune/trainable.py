"""A network made ready for training, with how to apply and how to save it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from fintune_xr.finetune.encoders import Encoder, check_freezing
from fintune_xr.finetune.objective import Objective
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.models.channels import ChannelChoice


class Applied(Protocol):
    """What applies a network to whole tiles."""

    @property
    def choice(self) -> ChannelChoice:
        """Planes that the network is shown."""
        ...


def _anything(_: float) -> None:
    """Any loss will do."""


@dataclass(frozen=True, eq=False)
class Trainable:
    """A network in float32 with the objective that it learns by, what applies it while it does, and its way to disk.

    `undecayed` are weights of several dims that do not decay. `accept` is told the training loss of the last epoch, and
    raises FintuneValueError where a training that ends so has failed.
    """

    settings: FitSettings
    network: torch.nn.Module
    encoder: Encoder
    applied: Applied
    objective: Objective
    save: Callable[[Path], None]
    undecayed: tuple[torch.nn.Parameter, ...] = ()
    accept: Callable[[float], None] = _anything

    def __post_init__(self) -> None:
        # A number of blocks that the encoder lacks is found before anything is prepared.
        check_freezing(self.settings, self.encoder)

    @property
    def choice(self) -> ChannelChoice:
        """Planes that it is shown."""
        return self.applied.choice

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Planes of the choice that are blanked."""
        return tuple(name for name, blank in zip(self.choice.names, self.choice.zeroed, strict=True) if blank)
