"""Instances: every cell has an outline of its own. What is annotated, found, counted and measured of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.task import INSTANCE, Task

MASK_DTYPE: Final = "uint32"

_TILE = (n.TILE,)
_RULE_TILE = (n.RULE, n.TILE)

MASKS: Final = DatasetSchema(
    name="annotations",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.MASK: VariableSpec((n.TILE, n.Y, n.X), MASK_DTYPE, "Annotated instances: 0 background, 1..N."),
    },
    coords=datasets.ANNOTATED,
)

MASK_RUN: Final = DatasetSchema(
    name="run",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.MASK: VariableSpec((n.TILE, n.Y, n.X), MASK_DTYPE, "Predicted instances: 0 background, 1..N.", initial=0),
        n.N_CELLS: VariableSpec(
            _TILE, "int32", "Instances in the mask; -1 where the tile is not done.", initial=-1, missing=-1
        ),
        n.N_POSITIVE: VariableSpec(
            _TILE, "int32", "Marker-positive cells by the active rule; -1 where unknown.", initial=-1, missing=-1
        ),
        n.BACKGROUND: VariableSpec(
            (n.TILE, n.CHANNEL),
            "float32",
            "Median of the valid pixels that belong to no instance.",
            "counts",
            initial=math.nan,
        ),
        **datasets.PROGRESS,
    },
    coords={n.TILE: datasets.TILE_ID, n.CHANNEL: datasets.CHANNEL},
)

CELLS: Final = DatasetSchema(
    name="cells",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.CELL,), "int32", "Position of the cell's tile along images.tile."),
        n.LABEL: VariableSpec((n.CELL,), MASK_DTYPE, "Value of the cell in the mask of its tile."),
        n.AREA_PX: VariableSpec((n.CELL,), "int32", "Number of pixels.", "px"),
        n.CENTROID_Y: VariableSpec((n.CELL,), "float32", "Mean row of the pixels.", "px"),
        n.CENTROID_X: VariableSpec((n.CELL,), "float32", "Mean column of the pixels.", "px"),
        n.MEAN_INTENSITY: VariableSpec((n.CELL, n.CHANNEL), "float32", "Mean raw intensity.", "counts"),
    },
    coords={n.CHANNEL: datasets.CHANNEL},
)

POSITIVITY: Final = DatasetSchema(
    name="positivity",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.N_ALL: VariableSpec(_RULE_TILE, "int32", "All cells of the tile under the rule; -1 unknown.", missing=-1),
        n.N_POSITIVE: VariableSpec(
            _RULE_TILE, "int32", "Marker-positive cells under the rule; -1 unknown.", missing=-1
        ),
        n.N_WITHOUT_NUCLEUS: VariableSpec(
            _RULE_TILE, "int32", "Positive instances that contain no nucleus; 0 where the rule needs none."
        ),
        n.THRESHOLD: VariableSpec(
            _RULE_TILE, "float32", "Background-subtracted marker intensity above which a cell is positive.", "counts"
        ),
        n.REASON: VariableSpec(
            _RULE_TILE, "str", "Why there is no threshold or count, empty where there is.", required=False
        ),
    },
    coords={
        n.TILE: datasets.TILE_ID,
        n.RULE: VariableSpec((n.RULE,), "str", "Name of the positivity rule."),
        n.SETTINGS: VariableSpec((n.RULE,), "str", "Settings of the rule in JSON.", required=False),
    },
)

_GRID = (n.POINTS_PER_SIDE, n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)
_GRID_TILE = (*_GRID, n.TILE)
_POINTS_TILE = (n.POINTS_PER_SIDE, n.TILE)

SWEEP: Final = DatasetSchema(
    name="sweep",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TP: VariableSpec((*_GRID_TILE, n.THRESHOLD), "int64", "Annotated instances that were found."),
        n.FP: VariableSpec((*_GRID_TILE, n.THRESHOLD), "int64", "Predicted instances that are none."),
        n.FN: VariableSpec((*_GRID_TILE, n.THRESHOLD), "int64", "Annotated instances that were missed."),
        n.N_CELLS: VariableSpec(_GRID_TILE, "int64", "Predicted instances."),
        n.SECONDS: VariableSpec(_GRID_TILE, "float64", "Filtering, painting and matching of this setting.", "s"),
        n.SECONDS_EMBEDDING: VariableSpec((n.TILE,), "float64", "Embedding of the tile, once for all settings.", "s"),
        n.SECONDS_DECODING: VariableSpec(
            _POINTS_TILE, "float64", "Masks of all points that pass the loosest filters, once per grid of points.", "s"
        ),
        n.PEAK_MEMORY: VariableSpec(
            _POINTS_TILE,
            "int64",
            "Most memory: of the GPU for this grid of points, on the CPU of the process so far.",
            "B",
        ),
    },
    coords={
        n.POINTS_PER_SIDE: VariableSpec((n.POINTS_PER_SIDE,), "int64", "Prompts along each side of a tile."),
        n.PRED_IOU_THRESH: VariableSpec((n.PRED_IOU_THRESH,), "float64", "Predicted IoU that masks exceed."),
        n.STABILITY_SCORE_THRESH: VariableSpec(
            (n.STABILITY_SCORE_THRESH,), "float64", "Stability score that masks reach."
        ),
        n.BOX_NMS_THRESH: VariableSpec((n.BOX_NMS_THRESH,), "float64", "Overlap of boxes of masks that both stay."),
        n.TILE: datasets.TILE_ID,
        n.DONOR: datasets.IMAGES.coords[n.DONOR],
        n.MARKER: datasets.IMAGES.coords[n.MARKER],
        n.THRESHOLD: VariableSpec((n.THRESHOLD,), "float64", "IoU at which an instance counts as found."),
        n.DEVICE: VariableSpec(_TILE, "str", "Where the tile was computed."),
    },
)

INSTANCE_TASK: Final = Task(INSTANCE, MASKS, source="MASKS", array=n.MASK)


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
