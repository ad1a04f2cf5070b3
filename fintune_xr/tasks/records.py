"""Plain records that pass between reading, segmenting, measuring and writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n


@dataclass(frozen=True, slots=True, eq=False)
class ClassTile:
    """Classes (y, x) uint8 of one tile: 0 for none of them, 1 to `n_classes`."""

    classes: NDArray[np.uint8]
    n_classes: int

    @property
    def of_tile(self) -> dict[str, Any]:
        """What a run stores of the tile beside its pixels."""
        counts = np.bincount(self.classes.ravel(), minlength=self.n_classes + 1)
        return {n.CLASS_PX: counts[1 : self.n_classes + 1].astype(np.int64)}


class ObjectTable(Protocol):
    """What was found in one tile, a row for each; the columns are attributes, named as in the product's schema."""

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        ...


@dataclass(frozen=True, slots=True)
class TileResult:
    """What became of one tile in a run: its state, the reason of a quarantine, and what was found in it when done.

    `values` holds the tile's row of every column that the step fills, without `tile`; `objects` a table, or None where
    the product has none.
    """

    state: int
    seconds: float
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    objects: ObjectTable | None = None


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Work on one shard of a run: `todo` lists the slots to segment; the other slots up to `n_slots` are kept.

    Slot `i` of shard `s` is tile `first + i` of the cohort. Slots in `later` stay pending: nothing is known of
    them yet, and an empty mask holds their place.
    """

    shard: int
    first: int
    n_slots: int
    todo: tuple[int, ...]
    later: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """Small numbers that a worker returns after its shard is durable: one result per slot of `plan.todo`."""

    plan: ShardPlan
    results: tuple[TileResult, ...]
