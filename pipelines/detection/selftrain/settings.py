"""Everything that a self-training depends on besides its micrographs."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from fintune_xr.finetune.detection.settings import UnetTrainSettings
from fintune_xr.settings import Settings


class SelfTrainSettings(Settings):
    """A supervised stage, and rounds in which the network learns from what it is sure of; defaults suit a GPU."""

    labelled: int | tuple[str, ...] = Field(
        default=0,
        description="Annotated train micrographs used as such: how many, drawn by the seed, or their ids; 0: all.",
    )
    positive: tuple[float, ...] = Field(
        default=(0.95, 0.93, 0.91), description="Per round: pixels as probable as this become particle."
    )
    negative: tuple[float, ...] = Field(
        default=(0.05, 0.07, 0.09), description="Per round: pixels as improbable as this become background."
    )
    anew: bool = Field(default=False, description="Rounds start from random weights, not from the last stage's.")
    train: UnetTrainSettings = Field(default=UnetTrainSettings(), description="The supervised stage.")
    rounds: dict[str, Any] = Field(
        default={"epochs": 30, "learning_rate": 1e-3}, description="What differs from `train` in the rounds."
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = self.labelled if isinstance(self.labelled, tuple) else ()
        twice = sorted({tile for tile in named if named.count(tile) > 1})
        if twice:
            raise ValueError(f"labelled names {', '.join(twice)} more than once; name each micrograph once")
        return self

    @model_validator(mode="after")
    def _as_many_of_both(self) -> Self:
        if len(self.positive) != len(self.negative):
            raise ValueError(
                f"positive and negative need one threshold per round each, got {len(self.positive)} and "
                f"{len(self.negative)}"
            )
        for positive, negative in zip(self.positive, self.negative, strict=True):
            if not 0 <= negative < positive <= 1:
                raise ValueError(f"thresholds: expected 0 <= negative < positive <= 1, got {negative} and {positive}")
        return self
