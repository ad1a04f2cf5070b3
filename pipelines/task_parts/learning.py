"""What a study of trainings needs of a task: its tiles, and how a checkpoint is measured on those that judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import xarray as xr

from fintune_xr.finetune.settings import FitSettings
from fintune_xr.models.checkpoints import Checkpoint


class Learnable(Protocol):
    """Annotated tiles in the form that a task learns from."""

    @property
    def names(self) -> Sequence[str]:
        """Ids of the tiles."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image planes."""
        ...

    def __len__(self) -> int: ...

    def chosen(self, positions: Sequence[int]) -> Self:
        """The tiles at these positions, in this order."""
        ...


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Learning:
    """What all fits of a study share.

    `train` are the tiles that teach something, `val` choose the best epoch, `test` judge. `turns` names for each train
    tile what takes turns in an order of them. `counts` are those of the test tiles (tile, …) under a checkpoint,
    `nothing` their form; `scores` makes scores of counts, summed over tiles. `settings` are those of a training on
    all of `train`, `settings_on` those of one on a part of it.
    """

    train: Learnable
    val: Learnable
    test: Learnable
    turns: Mapping[str, str]
    settings: FitSettings
    settings_on: Callable[[Any], FitSettings]
    counts: Callable[[Checkpoint], xr.Dataset]
    nothing: xr.Dataset
    scores: Callable[[xr.Dataset], xr.Dataset]
