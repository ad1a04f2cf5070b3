"""What is measured of the taking of each tile, as it is stored."""

from __future__ import annotations

import math
from typing import Final

from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec

_TILE = (n.TILE,)
_PLANE = (n.TILE, n.CHANNEL)

QUALITY: Final = DatasetSchema(
    name="quality",
    version=1,
    variables={
        n.INTENSITY: VariableSpec(_PLANE, "float64", "Mean of the valid pixels.", "counts"),
        n.BACKGROUND: VariableSpec(_PLANE, "float64", "5th percentile of the valid pixels.", "counts"),
        n.FOCUS: VariableSpec(
            _PLANE, "float64", "Standard deviation of the Laplacian of Gaussian (1 px) over that of the pixels."
        ),
        n.SATURATION: VariableSpec(_PLANE, "float64", "Share of pixels that hold the highest value of the plane."),
        n.CELL_SIZE_PX: VariableSpec(
            _TILE,
            "float64",
            "Median area of the cells of the run in the attribute `run`; NaN without.",
            "px",
            initial=math.nan,
        ),
        n.EXCLUDED: VariableSpec(
            _TILE, "bool", "Left out of ratios by the rule in the attribute `excluded`; false where there is none."
        ),
        n.REASON: VariableSpec(_TILE, "str", "What is unusual about the tile, empty where nothing is."),
    },
    coords={
        n.TILE: VariableSpec(_TILE, "str", "Unique id of the tile."),
        n.CHANNEL: VariableSpec((n.CHANNEL,), "str", "Name of the image plane."),
        n.BATCH: VariableSpec(_TILE, "str", "Batch that the tile was taken in; empty where none was told."),
        n.DIGEST: VariableSpec(_TILE, "str", "Digest of the files of the tile that was measured."),
        n.SCALE: VariableSpec(
            _PLANE,
            "float64",
            "Brightness above background of the tile's batch over that of all batches of its marker, by which signals "
            "are divided where they are normalised; its version is the attribute `version`.",
        ),
    },
)
