"""What can be measured of cells besides what every run stores: name, column, unit and definition of each measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import UnknownNameError, nearest
from fintune_xr.schema import DatasetSchema, VariableSpec

DISTANCE: Final = "distance"

MEASUREMENT: Final = DatasetSchema(
    name="measurement",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.VALUE: VariableSpec((n.CELL,), "float32", "A measure of each cell, in the order of the table of cells."),
        n.STATE: VariableSpec((n.BLOCK,), "uint8", "Whether the rows of a block are done.", initial=n.PENDING),
    },
)
"""One column of cells: `value`, a block of rows in each chunk, and `state`, which is written last."""

MEASUREMENT_BY_CHANNEL: Final = DatasetSchema(
    name="measurement_by_channel",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.VALUE: VariableSpec((n.CELL, n.CHANNEL), "float32", "A measure of each cell in each channel."),
        n.STATE: MEASUREMENT.variables[n.STATE],
    },
    coords={n.CHANNEL: datasets.CHANNEL},
)


@dataclass(frozen=True, slots=True)
class CellMeasure:
    """A measure of cells: what it is asked for by, its column, unit and definition.

    `version` is another one whenever the same mask gives another value. `library` is the package whose function it is,
    empty for our own. A distance is to the objects of the run `to`.
    """

    name: str
    column: str
    units: str
    definition: str
    version: int = 1
    library: str = ""
    by_channel: bool = False
    to: str = ""

    @property
    def schema(self) -> DatasetSchema:
        """The group that holds it."""
        return MEASUREMENT_BY_CHANNEL if self.by_channel else MEASUREMENT


_SKIMAGE: Final = "scikit-image"
_ELLIPSE: Final = "of the ellipse with the second moments of the pixels' centres"
_SHAPES: Final = (
    CellMeasure(
        "eccentricity", n.ECCENTRICITY, "1",
        f"Eccentricity {_ELLIPSE}: 0 a circle, towards 1 a line.", library=_SKIMAGE,
    ),
    CellMeasure("solidity", n.SOLIDITY, "1", "Pixels over those of the convex hull.", library=_SKIMAGE),
    CellMeasure(
        "perimeter", n.PERIMETER_PX, "px",
        "Length of the line through the centres of border pixels in 4-neighbourhood.", library=_SKIMAGE,
    ),
    CellMeasure(
        "major_axis", n.MAJOR_AXIS_PX, "px", f"Major axis {_ELLIPSE}.", library=_SKIMAGE,
    ),
    CellMeasure(
        "minor_axis", n.MINOR_AXIS_PX, "px", f"Minor axis {_ELLIPSE}.", library=_SKIMAGE,
    ),
    CellMeasure(
        "skeleton_length", n.SKELETON_LENGTH_PX, "px",
        "Length of the skeleton (Zhang and Suen 1984): 1 for each pair of pixels side by side, the square root of 2 "
        "for a diagonal pair without a common neighbour side by side with both.", library=_SKIMAGE,
    ),
    CellMeasure(
        "branch_points", n.N_BRANCH_POINTS, "1",
        "Groups of 8-connected pixels of the skeleton from which three or more lines go.", library=_SKIMAGE,
    ),
    CellMeasure(
        "texture", n.SD_INTENSITY, "counts", "Standard deviation of raw intensity over the pixels of the cell.",
        by_channel=True,
    ),
)  # fmt: skip

REGION_MEASURE: Final = CellMeasure(
    "region", n.REGION_CODE, "1", "Code of the region of tissue that the pixel nearest to the cell's centre lies in."
)
"""Of tiles whose regions are known; not among the shapes, as a store need not have regions."""

MEASURES: Final[Mapping[str, CellMeasure]] = {one.name: one for one in _SHAPES}
"""Every measure by its name; `distance:RUN` is one for each other run."""

BY_COLUMN: Final[Mapping[str, CellMeasure]] = {one.column: one for one in (*_SHAPES, REGION_MEASURE)}


def cell_measure(name: str) -> CellMeasure:
    """The measure that is asked for by `name`, or that is stored as the column `name`.

    Raises UnknownNameError for one that is not known.
    """
    kind, _, run = name.partition(":")
    if name.startswith(n.DISTANCE_TO_PX):
        kind, run = DISTANCE, name.removeprefix(n.DISTANCE_TO_PX)
    if kind == DISTANCE and run:
        told = f"From the nearest pixel of the cell to the nearest of any object of run {run}; 0 where they overlap."
        return CellMeasure(f"{DISTANCE}:{run}", f"{n.DISTANCE_TO_PX}{run}", "px", told, library="scipy", to=run)
    found = MEASURES.get(name) or BY_COLUMN.get(name)
    if name == REGION_MEASURE.name:
        return REGION_MEASURE
    if found is None:
        known = [*MEASURES, REGION_MEASURE.name, f"{DISTANCE}:RUN"]
        raise UnknownNameError(f"no measure of cells {name!r}; known: {', '.join(known)}.{nearest(name, known)}")
    return found


def is_measured(column: str) -> bool:
    """Whether a column of cells is one that `measure` adds."""
    return column in BY_COLUMN or column.startswith(n.DISTANCE_TO_PX)


def column_in_um(column: str) -> str:
    """What the measured column is called in um; empty where it is no length."""
    if column.startswith(n.DISTANCE_TO_PX):
        return column.replace(n.IN_PX, n.IN_UM, 1)
    is_length = column in BY_COLUMN and BY_COLUMN[column].units == "px"
    return column.removesuffix(n.IN_PX) + n.IN_UM if is_length else ""
