"""Plain records that pass between reading, segmenting, measuring and writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


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


ObjectTable: TypeAlias = CellTable | CandidateTable
"""What was found in one tile: a row for each instance, or for each candidate."""


@dataclass(frozen=True, slots=True)
class TileResult:
    """What became of one tile in a run: its state, the reason of a quarantine, and its cells when done."""

    state: int
    seconds: float
    reason: str = ""
    cells: ObjectTable | None = None


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Work on one mask shard: `todo` lists the slots to segment; the other slots up to `n_slots` are kept.

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
