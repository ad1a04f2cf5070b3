"""Plain records that pass between reading, segmenting, measuring and writing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n


@dataclass(frozen=True, slots=True)
class CellTable:
    """Measurements of the instances of one tile, in ascending order of label.

    `label` (cell,) uint32; `area_px` (cell,) int32; `centroid_y`, `centroid_x` (cell,) float32 in px;
    `mean_intensity` (cell, channel) float32 in raw counts; `background` (channel,) float32: the median
    of the valid pixels outside all instances (NaN where there are none).
    """

    label: NDArray[np.uint32]
    area_px: NDArray[np.int32]
    centroid_y: NDArray[np.float32]
    centroid_x: NDArray[np.float32]
    mean_intensity: NDArray[np.float32]
    background: NDArray[np.float32]

    @property
    def n_cells(self) -> int:
        """Number of instances."""
        return int(self.label.size)

    @property
    def of_tile(self) -> dict[str, Any]:
        """What a run stores of the tile beside the rows."""
        return {n.N_CELLS: self.n_cells, n.BACKGROUND: self.background}


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """Possible particles of one tile, the most probable first, numbered from 1.

    `label` (cell,) uint32; `centroid_y`, `centroid_x` (cell,) float32 in px; `score` (cell,) float32, 0 to 1.
    """

    label: NDArray[np.uint32]
    centroid_y: NDArray[np.float32]
    centroid_x: NDArray[np.float32]
    score: NDArray[np.float32]

    @property
    def n_cells(self) -> int:
        """Number of candidates."""
        return int(self.label.size)

    @property
    def of_tile(self) -> dict[str, Any]:
        """What a run stores of the tile beside the rows."""
        return {n.N_CELLS: self.n_cells}


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
