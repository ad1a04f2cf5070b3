"""A network made ready for training, with how to apply and how to save it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from fintune_xr.errors import SettingsError
from fintune_xr.finetune.encoders import Encoder, check_freezing
from fintune_xr.finetune.objective import Objective
from fintune_xr.finetune.settings import FitSettings
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.settings import Settings

LOGGER = logging.getLogger(__name__)


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
        for line in late_steps(self.settings):
            LOGGER.warning(line)

    @property
    def choice(self) -> ChannelChoice:
        """Planes that it is shown."""
        return self.applied.choice

    @property
    def zeroed(self) -> tuple[str, ...]:
        """Planes of the choice that are blanked."""
        return tuple(name for name, blank in zip(self.choice.names, self.choice.zeroed, strict=True) if blank)


def require_same_network(built: Settings, settings: FitSettings, name: str) -> None:
    """Refuses settings of a network that are asked for beside weights, called `name`, of one that is `built` otherwise.

    They would be ignored. Channels are not looked at: which of them a network is shown has rules of its own.
    """
    asked = settings.model_fields_set & set(type(built).model_fields) - {"channels"}
    other = [key for key in sorted(asked) if getattr(settings, key) != getattr(built, key)]
    if other:
        told = ", ".join(f"{key}={_short(getattr(built, key))}" for key in other)
        raise SettingsError(
            f"{name} is a network with {told}, which cannot be changed. Leave it out, or train a new one."
        )


def late_steps(settings: FitSettings) -> list[str]:
    """A line for each step of a training that lies behind its last epoch, as in a try of few epochs."""
    steps = [("unfreeze_at_epoch", settings.unfreeze_at_epoch or 0)]
    steps += [("unfreezing", step.from_epoch) for step in settings.unfreezing]
    steps += [("views", view.from_epoch) for view in settings.views]
    return [
        f"{name}: epoch {epoch} does not come, as epochs={settings.epochs} are counted from 0; what it says is not done"
        for name, epoch in steps
        if epoch >= settings.epochs
    ]


def _short(value: object) -> str:
    return str(value.as_dict()) if isinstance(value, Settings) else repr(value)
