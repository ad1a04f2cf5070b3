"""What a run stores of one tile, from what its model made of it: a row for each product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.tasks.records import ObjectTable

Stored: TypeAlias = tuple[NDArray[Any] | None, ObjectTable | None, Mapping[str, Any]]
"""Pixels (…, y, x) of the tile, the table of its objects, and its value in every column that the step fills."""


def _instances(made: Any, image: NDArray[Any]) -> Stored:
    """Of an instance mask (y, x): the mask, its cells measured in `image` (channel, y, x), and their number."""
    if not isinstance(made, np.ndarray):
        raise FintuneValueError(f"a run of instance masks is made of masks, and the model gave {type(made).__name__}")
    cells = measure_cells(made, image)
    return made, cells, cells.of_tile


def _probabilities(made: Any, _image: NDArray[Any]) -> Stored:
    """Of `fintune_xr.models.protocol.Detections`: its map, its candidates, and their number."""
    if not hasattr(made, "probability"):
        raise FintuneValueError(f"a run of maps of probability needs those, and the model gave {type(made).__name__}")
    return made.probability, made.candidates, made.candidates.of_tile


def _scores(made: Any, _image: NDArray[Any]) -> Stored:
    """Of `fintune_xr.models.protocol.Scores`: its vectors."""
    if not hasattr(made, "columns"):
        raise FintuneValueError(f"a run of scores needs vectors, and the model gave {type(made).__name__}")
    for name, values in made.columns.items():
        if not np.isfinite(values).all():
            raise TileReadError(f"{name} is not finite")
    return None, None, made.columns


def _classes(made: Any, _image: NDArray[Any]) -> Stored:
    """Of `fintune_xr.tasks.records.ClassTile`: its map, and the pixels of each class."""
    if not hasattr(made, "classes"):
        raise FintuneValueError(f"a run of maps of classes needs those, and the model gave {type(made).__name__}")
    return made.classes, None, made.of_tile


TILE_RESULTS: Final[dict[str, Callable[[Any, NDArray[Any]], Stored]]] = {
    "run": _instances,
    "probability_run": _probabilities,
    "class_run": _classes,
    "score_run": _scores,
}
"""By the name of the product: (made, image (channel, …, y, x)) to what is stored."""
