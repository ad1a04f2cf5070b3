"""How learning rates and patches go over a training, and which parameters the rates are for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

import torch

from fintune_xr.finetune.settings import AugmentationSettings, FitSettings

LOGGER = logging.getLogger(__name__)

# Names of groups of parameters.
ENCODER: Final = "encoder"
REST: Final = "rest"


class FromEpoch(Protocol):
    """Something that holds from an epoch on."""

    @property
    def from_epoch(self) -> int:
        """First epoch, counted from 0."""
        ...


S = TypeVar("S", bound=FromEpoch)


def step_at(steps: Sequence[S], epoch: int) -> S | None:
    """The last of `steps`, in order of their epochs, that has begun; None where there is none."""
    begun = [step for step in steps if step.from_epoch <= epoch]
    return begun[-1] if begun else None


def view_at(settings: FitSettings, epoch: int) -> tuple[int, AugmentationSettings]:
    """Edge of the patches of an epoch, and how they are augmented."""
    view = step_at(settings.views, epoch)
    if view is None:
        return settings.patch_px, settings.augmentation
    low, high = settings.augmentation.scale
    magnified = settings.augmentation.model_copy(update={"scale": (low * view.scale, high * view.scale)})
    return view.patch_px, magnified


def warmup_length(settings: FitSettings, steps_per_epoch: int) -> int:
    """Steps in which the learning rate rises."""
    return (
        settings.warmup_steps if settings.warmup_steps is not None else round(settings.warmup_epochs * steps_per_epoch)
    )


def say_long_warmup(settings: FitSettings, steps_per_epoch: int) -> None:
    """Warns where the learning rate still rises after a quarter of all steps, as it may where an epoch is short."""
    n_warmup, n_steps = warmup_length(settings, steps_per_epoch), settings.epochs * steps_per_epoch
    if n_warmup > n_steps / 4:
        LOGGER.warning(
            "the learning rate rises for %d of %d steps (%d an epoch), more than a quarter. Set warmup_steps or "
            "patches_per_epoch if that is not meant.",
            n_warmup, n_steps, steps_per_epoch,
        )  # fmt: skip


def rate_factors(
    settings: FitSettings, groups: Sequence[dict[str, Any]], steps_per_epoch: int
) -> list[Callable[[int], float]]:
    """For each of the optimiser's groups, the factor of its learning rate at a step.

    Where `unfreezing` gives the encoder a rate, that holds; everything else rises and falls.
    """
    common = warmup_cosine(
        settings.epochs * steps_per_epoch, n_warmup=warmup_length(settings, steps_per_epoch), final=settings.final_rate
    )

    def of_encoder(base: float) -> Callable[[int], float]:
        def factor(step: int) -> float:
            stage = step_at(settings.unfreezing, step // steps_per_epoch)
            rate = None if stage is None else stage.encoder_learning_rate
            return common(step) if rate is None else rate / base

        return factor

    return [of_encoder(group["lr"]) if group["name"] == ENCODER else common for group in groups]


def warmup_cosine(n_steps: int, *, n_warmup: int, final: float) -> Callable[[int], float]:
    """Factor of the learning rate at a step: a linear rise over `n_warmup`, then a cosine down to `final`.

    The first step learns already: the rise starts at 1 / n_warmup.
    """

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return factor


def parameter_groups(
    network: torch.nn.Module,
    encoder: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    encoder_learning_rate: float,
    weight_decay: float,
    undecayed: Iterable[torch.nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """All that can learn, for an optimiser, in four groups; neither norm layers, nor biases, nor `undecayed` decay.

    What a training freezes for a while belongs to its group from the beginning.
    """
    inside, kept = {id(value) for value in encoder}, {id(value) for value in undecayed}
    trained = [value for value in network.parameters() if value.requires_grad]
    return [
        {
            "name": name,
            "lr": rate,
            "params": [
                value
                for value in trained
                if (id(value) in inside, value.ndim > 1 and id(value) not in kept) == (is_inside, decays)
            ],
            "weight_decay": weight_decay if decays else 0.0,
        }
        for name, rate, is_inside in ((ENCODER, encoder_learning_rate, True), (REST, learning_rate, False))
        for decays in (True, False)
    ]
