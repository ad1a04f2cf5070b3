"""What differs between trainings: targets, loss, and how good a network is. All else is the engine's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

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


class Samples(Protocol):
    """What a network is shown in an epoch: pairs of input and target, each at its address.

    Inputs are whatever the network takes, of one shape in an epoch: patches, or whole tiles. The same address
    (epoch, index) is the same pair in any process.
    """

    @property
    def n_samples(self) -> int:
        """Pairs of an epoch, in whole steps."""
        ...

    def __getitem__(self, address: tuple[int, int]) -> tuple[Any, Any]:
        """Input and target at (epoch, index), as torch's collate function takes them."""
        ...

    def tile_at(self, epoch: int, index: int) -> str:
        """Name of the tile that the pair at (epoch, index) is of."""
        ...


class Learning(Protocol):
    """Loss and validation of one kind of network."""

    @property
    def score(self) -> str:
        """Name of the measure that the best epoch is chosen by."""
        ...

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of all that a validation measures."""
        ...

    def loss(self, output: Any, target: Any) -> Loss:
        """Loss of the network's `output` for a batch of inputs, alone or with the parts that it is made of."""
        ...

    def held_out(self, tiles: Any) -> Measure:
        """The validation on `tiles`, which are read again, one at a time, whenever it is called."""
        ...


class PatchObjective(Learning, Protocol):
    """What is learnt from patches that are cut from tiles made ready once."""

    @property
    def recipe(self) -> Recipe:
        """How a patch is made of a tile."""
        ...

    def prepare(self, tiles: Any, folder: Path) -> list[PreparedTile]:
        """Network input and target of each tile, written to `folder`; tiles that teach nothing are left out."""
        ...


@runtime_checkable
class SampleObjective(Learning, Protocol):
    """What is learnt from samples of its own, such as whole volumes read from the store."""

    def samples(self, tiles: Any, folder: Path) -> Samples:
        """What is learnt from `tiles`; what has to be prepared lies in `folder`, which is removed at the end."""
        ...


Objective: TypeAlias = PatchObjective | SampleObjective
"""Samples, loss and validation of one kind of network."""
