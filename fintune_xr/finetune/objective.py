"""What differs between trainings: targets, loss, and how good a network is. All else is the engine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from fintune_xr.finetune.patches import PreparedTile, Recipe


class NamedTiles(Protocol):
    """Tiles that a training is given; what else they hold is between them and the objective."""

    @property
    def names(self) -> Sequence[str]:
        """Ids of the tiles."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image planes."""
        ...


@dataclass(frozen=True, slots=True)
class Validation:
    """How good a network is on tiles that it does not learn from.

    The best epoch is the one with the highest `score`, NaN where it could not be measured yet, or until then the one
    with the lowest `loss`. `measures` go to the log under their names.
    """

    loss: float
    score: float
    measures: Mapping[str, float]


Loss: TypeAlias = torch.Tensor | tuple[torch.Tensor, Mapping[str, torch.Tensor]]
"""What is learnt from, with named parts for the log where there are some."""

Measure: TypeAlias = Callable[[bool], Validation]
"""Validates the network as it is; where the argument is true, the score is computed whatever it takes."""


class Objective(Protocol):
    """Targets, loss and validation of one kind of network."""

    @property
    def score(self) -> str:
        """Name of the measure that the best epoch is chosen by."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of all that a validation measures."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How a patch is made of a tile."""
        ...

    def prepare(self, tiles: Any, folder: Path) -> list[PreparedTile]:
        """Network input and target of each tile, written to `folder`; tiles that teach nothing are left out."""
        ...

    def loss(self, output: Any, target: torch.Tensor) -> Loss:
        """Loss of the network's `output` for a batch of patches, alone or with the parts that it is made of."""
        ...

    def held_out(self, tiles: Any) -> Measure:
        """The validation on `tiles`, which are read again, one at a time, whenever it is called."""
        ...
