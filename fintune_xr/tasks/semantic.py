"""What H&E patches and their maps of classes look like in a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.provenance import settings_digest
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.class_map import IGNORED
from fintune_xr.tasks.task import SEMANTIC, Task, files_digest

RGB_CHANNELS: Final = (n.RED, n.GREEN, n.BLUE)
CODE_DTYPE: Final = "uint8"

# Size bins of annotated pieces in px: below the first, below the second, and from there on.
SIZE_BINS: Final = (1_000, 10_000)
SIZE_BIN_NAMES: Final = ("under 1,000 px", "1,000 to 10,000 px", "10,000 px and more")

_TILE = (n.TILE,)
_TILE_CLASS = (n.TILE, n.CLASS)
_PART_CLASS = (n.PART, n.CLASS)

RGB: Final = DatasetSchema(
    name="images",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.IMAGE: VariableSpec(
            (n.TILE, n.CHANNEL, n.Y, n.X),
            "uint8",
            "Red, green and blue as decoded, without any normalisation of stain; valid up to height and width.",
        ),
    },
    coords={
        **datasets.IMAGES.coords,
        **datasets.SOURCE_SIDES,
        n.ORIGIN_Y: VariableSpec(_TILE, "int32", "Row of the file at which the tile begins.", "px", required=False),
        n.ORIGIN_X: VariableSpec(_TILE, "int32", "Column of the file at which the tile begins.", "px", required=False),
    },
)

ANNOTATED_CLASSES: Final = DatasetSchema(
    name="annotated_classes",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.CLASSES: VariableSpec(
            (n.TILE, n.Y, n.X),
            CODE_DTYPE,
            "Annotated codes as in the file, named by `flag_values` and `flag_meanings`; `ignore_codes` are unknown.",
        ),
    },
    coords=datasets.ANNOTATED,
)

CLASS_RUN: Final = DatasetSchema(
    name="class_run",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.CLASSES: VariableSpec(
            (n.TILE, n.Y, n.X),
            CODE_DTYPE,
            "Predicted classes 1, 2, … in the order of `class`; 0 none of them, 255 outside of the tile or ignored.",
            initial=IGNORED,
        ),
        n.CLASS_PX: VariableSpec(
            _TILE_CLASS, "int64", "Pixels of each class; -1 where not done.", "px", initial=-1, missing=-1
        ),
        **datasets.PROGRESS,
    },
    coords={
        n.TILE: datasets.TILE_ID,
        n.CLASS: VariableSpec((n.CLASS,), "str", "Name of the class, in the order of the class map."),
    },
)

CLASS_BALANCE: Final = DatasetSchema(
    name="class_balance",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.CLASS_PX: VariableSpec(_PART_CLASS, "int64", "Annotated pixels of the class.", "px"),
        n.SHARE: VariableSpec(_PART_CLASS, "float64", "Share of the valid annotated pixels of the part."),
        n.N_TILES: VariableSpec(_PART_CLASS, "int64", "Annotated tiles that hold the class."),
        n.N_VALID: VariableSpec((n.PART,), "int64", "Annotated pixels that are not ignored.", "px"),
        f"{n.WEIGHT}_auto": VariableSpec((n.CLASS,), "float64", "Largest share in train over the share of the class."),
        f"{n.WEIGHT}_sqrt": VariableSpec((n.CLASS,), "float64", "Square root of `weight_auto`."),
    },
    coords={
        n.PART: VariableSpec((n.PART,), "str", "Part of the split, or all annotated tiles."),
        n.CLASS: CLASS_RUN.coords[n.CLASS],
    },
)


_PROMPTED = (n.PROMPT, n.TTA, n.PROCESSING, n.TILE, n.CLASS)

PROMPTED_STUDY: Final = DatasetSchema(
    name="prompted_study",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.TP: VariableSpec(_PROMPTED, "int64", "Pixels of the class that the mask for its prompt holds.", "px"),
        n.FP: VariableSpec(_PROMPTED, "int64", "Known pixels of other classes that it holds.", "px"),
        n.FN: VariableSpec(_PROMPTED, "int64", "Pixels of the class that it lacks.", "px"),
    },
    coords={
        n.PROMPT: VariableSpec((n.PROMPT,), "str", "What the prompt drawn from the truth is."),
        n.TTA: VariableSpec((n.TTA,), "int64", "1 where masks are means over eight orientations."),
        n.PROCESSING: VariableSpec(
            (n.PROCESSING,), "str", "Masks as they come, or closed and of that the largest piece."
        ),
        n.TILE: datasets.TILE_ID,
        n.CLASS: CLASS_RUN.coords[n.CLASS],
        n.DONOR: VariableSpec(_TILE, "str", "Donor of the tile."),
    },
)

_REGION = (n.REGION,)

CLASS_REGIONS: Final = DatasetSchema(
    name="class_regions",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.SIMILARITY: VariableSpec((n.REGION, n.PROMPT), "float32", "Cosine of the embeddings of region and prompt."),
        n.SCORE: VariableSpec((n.REGION, n.CLASS), "float64", "Share of the class; they sum to 1."),
        n.REGION_CLASS: VariableSpec(
            _REGION, "int64", "Class with the highest score: 1, 2, … in the order of `class`."
        ),
        n.REGION_TRUTH: VariableSpec(
            _REGION, "int64", "Class of most of its annotated pixels; 0 none of them, 255 nothing is known."
        ),
        n.LABEL: VariableSpec(_REGION, "int64", "Class or instance that the region is a piece of, where it came from."),
        n.AREA_PX: VariableSpec(_REGION, "int64", "Pixels of the region.", "px"),
        n.BOX: VariableSpec(
            (n.REGION, n.BOX_EDGE), "int64", "First row and column, height and width of its box.", "px"
        ),
    },
    coords={
        n.REGION: VariableSpec(_REGION, "int64", "Number of the region."),
        n.TILE: VariableSpec(_REGION, "str", "Tile that the region lies in."),
        n.DONOR: VariableSpec(_REGION, "str", "Donor of the tile."),
        n.SPLIT: VariableSpec(_REGION, "str", "Part of the split that the tile is in."),
        n.PROMPT: VariableSpec((n.PROMPT,), "str", "Sentence that regions are held against."),
        n.PROMPT_CLASS: VariableSpec((n.PROMPT,), "str", "Class that the sentence is of."),
        n.CLASS: CLASS_RUN.coords[n.CLASS],
        n.BOX_EDGE: VariableSpec((n.BOX_EDGE,), "str", "row, column, height, width."),
    },
)


def _classes_digest(annotations: xr.Dataset, tiles: Sequence[str]) -> str:
    """Of the files of the tiles and of what their codes mean."""
    legend = str(annotations[n.CLASSES].attrs.get(n.LEGEND_SHA256, ""))
    return settings_digest({"files": files_digest(annotations, tiles), "legend": legend})


SEMANTIC_TASK: Final = Task(SEMANTIC, ANNOTATED_CLASSES, "MASKS", n.CLASSES, _classes_digest)

# After Okabe & Ito 2008, distinguishable with every common colour vision; repeated where there are more classes.
_COLOURS: Final = ("#D55E00", "#F0E442", "#0072B2", "#000000", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_REST_COLOUR: Final = "#d9dce1"


def class_colours(n_classes: int) -> NDArray[np.uint8]:
    """Red, green and blue (256, 3) of each label: grey for the rest, a colour for each class, white for others."""
    table = np.full((256, 3), 255, np.uint8)
    table[0] = _rgb(_REST_COLOUR)
    for label in range(1, n_classes + 1):
        table[label] = _rgb(_COLOURS[(label - 1) % len(_COLOURS)])
    return table


def _rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
