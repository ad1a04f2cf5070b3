"""Detection: every particle has a centre and a diameter. What is annotated, found and picked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.provenance import settings_digest
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.task import DETECTION, Task

PROBABILITY_STEPS: Final = 65535

_TILE = (n.TILE,)

# What is 0 in the optional columns was not recorded: the file had as many rows and columns as are stored, and how large
# a pixel is, is not known.
MICROGRAPHS: Final = DatasetSchema(
    name="images",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.IMAGE: VariableSpec(
            (n.TILE, n.CHANNEL, n.Y, n.X),
            "float32",
            "Pixels as in the file, or means of blocks of them (attribute `binning`); top row first.",
            kinds="uif",
        ),
    },
    coords={
        **datasets.TILES,
        **datasets.SOURCE_SIDES,
        n.PIXEL_SIZE_A: VariableSpec(
            _TILE,
            "float64",
            "Side of a stored pixel in the specimen; 0 where the file did not tell it.",
            "angstrom",
            required=False,
        ),
    },
)

POINTS: Final = DatasetSchema(
    name="points",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.POINT,), "int32", "Position of the particle's tile along `tile` of this group."),
        n.Y: VariableSpec((n.POINT,), "float64", "Row of the particle's centre in the stored tile.", "px"),
        n.X: VariableSpec((n.POINT,), "float64", "Column of the particle's centre in the stored tile.", "px"),
        n.DIAMETER_PX: VariableSpec((n.POINT,), "float64", "Diameter of the particle in stored pixels.", "px"),
    },
    coords={
        **datasets.ANNOTATED,
        n.TILE: VariableSpec((n.TILE,), "str", "Annotated tile; one without points holds no particle."),
    },
)

PROBABILITY_RUN: Final = DatasetSchema(
    name="probability_run",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.PROBABILITY: VariableSpec(
            (n.TILE, n.Y, n.X),
            "uint16",
            "Probability that the pixel belongs to a particle.",
            scale=1 / PROBABILITY_STEPS,
            initial=0,
        ),
        n.N_CELLS: VariableSpec(
            _TILE,
            "int32",
            "Candidates picked at the run's floor; -1 where the tile is not done.",
            initial=-1,
            missing=-1,
        ),
        **datasets.PROGRESS,
    },
    coords={n.TILE: datasets.TILE_ID},
)

CANDIDATES: Final = DatasetSchema(
    name="candidates",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.CELL,), "int32", "Position of the candidate's tile along images.tile."),
        n.LABEL: VariableSpec((n.CELL,), "uint32", "Number of the candidate in its tile, the most probable first."),
        n.CENTROID_Y: VariableSpec((n.CELL,), "float32", "Row of the centre in the stored tile.", "px"),
        n.CENTROID_X: VariableSpec((n.CELL,), "float32", "Column of the centre in the stored tile.", "px"),
        n.SCORE: VariableSpec((n.CELL,), "float32", "Mean probability in a disc around the centre, 0 to 1."),
    },
)

PICKS: Final = DatasetSchema(
    name="picks",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.PICK,), "int32", "Position of the pick's tile along images.tile."),
        n.Y: VariableSpec((n.PICK,), "float32", "Row of the centre in the stored tile.", "px"),
        n.X: VariableSpec((n.PICK,), "float32", "Column of the centre in the stored tile.", "px"),
        n.SCORE: VariableSpec((n.PICK,), "float32", "How sure the picker is; the attribute `threshold` or more."),
    },
)

PSEUDO: Final = DatasetSchema(
    name="pseudo",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TARGET: VariableSpec(
            (n.TILE, n.Y, n.X), "int8", "Labels by a network: 1 particle, 0 background, -1 unknown."
        ),
    },
    coords={n.TILE: datasets.TILE_ID},
)


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
class Points:
    """Particles of one tile: centres `yx` (point, 2) and `diameter_px` (point,), float64 in px of the stored tile."""

    yx: NDArray[np.float64]
    diameter_px: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.yx)


def points_table(tiles: Mapping[str, Points], *, source: Mapping[str, str], sha256: Mapping[str, str]) -> xr.Dataset:
    """The table of `Cohort.annotations` that holds the `tiles` (tile id -> its particles) in their order.

    `source` and `sha256` name the file of each tile's annotation and its digest.
    """
    counts = [len(points) for points in tiles.values()]
    columns: dict[str, NDArray[Any]] = {
        n.TILE_INDEX: np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        n.Y: np.concatenate([np.empty(0), *(points.yx[:, 0] for points in tiles.values())]),
        n.X: np.concatenate([np.empty(0), *(points.yx[:, 1] for points in tiles.values())]),
        n.DIAMETER_PX: np.concatenate([np.empty(0), *(points.diameter_px for points in tiles.values())]),
    }
    labels = {n.TILE: list(tiles), n.SOURCE: [source[tile] for tile in tiles], n.SHA256: [sha256[t] for t in tiles]}
    schema = POINTS
    return xr.Dataset(
        {name: ((n.POINT,), values, schema[name].attrs) for name, values in columns.items()},
        {name: ((n.TILE,), np.array(values, np.dtypes.StringDType()), schema[name].attrs)
         for name, values in labels.items()},
    )  # fmt: skip


def tile_points(points: xr.Dataset, tile: str) -> Points:
    """The particles of one annotated tile, of a loaded table of `Cohort.annotations`.

    Raises UnknownNameError where the tile is not annotated, which is not the same as holding no particle.
    """
    tiles = [str(name) for name in points[n.TILE].values]
    if tile not in tiles:
        raise unknown_name("annotated tile", tile, tiles)
    index = points[n.TILE_INDEX].values
    if index.size and np.any(np.diff(index) < 0):
        raise FintuneValueError("points: expected rows ordered by tile. Open them with Cohort.annotations.")
    rows = slice(*np.searchsorted(index, [tiles.index(tile), tiles.index(tile) + 1]))
    yx = np.column_stack([points[n.Y].values[rows], points[n.X].values[rows]]).astype(np.float64)
    return Points(yx, points[n.DIAMETER_PX].values[rows].astype(np.float64))


def points_digest(annotations: xr.Dataset, tiles: Sequence[str]) -> str:
    """A digest of the particles themselves: one file may tell those of many tiles.

    Raises UnknownNameError for a tile without an annotation.
    """
    points = annotations.load()
    known = {tile: tile_points(points, tile) for tile in tiles}
    return settings_digest({tile: [one.yx.tolist(), one.diameter_px.tolist()] for tile, one in known.items()})


DETECTION_TASK: Final = Task(DETECTION, POINTS, source="COORDINATES", digest=points_digest)
