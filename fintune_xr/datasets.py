"""The declared schema of every group of a cohort store."""

from __future__ import annotations

import math
from typing import Final

from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec

SCHEMA: Final = "fintune-xr-cohort"
SCHEMA_VERSION: Final = 1

MASK_DTYPE: Final = "uint32"
PROBABILITY_STEPS: Final = 65535

_TILE = (n.TILE,)
_RULE_TILE = (n.RULE, n.TILE)
_TILE_ID = VariableSpec(_TILE, "str", "Unique id of the tile.")

TILES: Final = {
    n.TILE: _TILE_ID,
    n.CHANNEL: VariableSpec((n.CHANNEL,), "str", "Name of the image plane."),
    n.DONOR: VariableSpec(_TILE, "str", "Independent biological unit that the tile comes from."),
    n.MARKER: VariableSpec(_TILE, "str", "Stain seen in the marker channel."),
    n.SPLIT: VariableSpec(_TILE, "str", "train, val, test, or empty where not assigned."),
    n.HEIGHT: VariableSpec(_TILE, "int32", "Rows that hold pixels of the tile.", "px"),
    n.WIDTH: VariableSpec(_TILE, "int32", "Columns that hold pixels of the tile.", "px"),
    n.SOURCE: VariableSpec((n.TILE, n.CHANNEL), "str", "File of the plane, relative to the ingested folder."),
    n.SHA256: VariableSpec((n.TILE, n.CHANNEL), "str", "SHA-256 of that file."),
}
"""What every cohort knows of its tiles, whatever they are."""

MPP: Final = VariableSpec(_TILE, "float64", "Side of a pixel; 0 where it is not known.", "um", required=False)

IMAGES: Final = DatasetSchema(
    name="images",
    version=SCHEMA_VERSION,
    variables={
        n.IMAGE: VariableSpec(
            (n.TILE, n.CHANNEL, n.Y, n.X),
            "uint16",
            "Raw detector counts, neither normalised nor stitched; valid up to height and width.",
        ),
    },
    coords={**TILES, n.MPP: MPP},
)

# What is 0 in the optional columns was not recorded: the file had as many rows and columns as are stored, and how large
# a pixel is, is not known.
MICROGRAPHS: Final = DatasetSchema(
    name="images",
    version=SCHEMA_VERSION,
    variables={
        n.IMAGE: VariableSpec(
            (n.TILE, n.CHANNEL, n.Y, n.X),
            "float32",
            "Pixels as in the file, or means of blocks of them (attribute `binning`); top row first.",
            kinds="uif",
        ),
    },
    coords={
        **TILES,
        n.SOURCE_HEIGHT: VariableSpec(_TILE, "int32", "Rows of the file, before binning.", "px", required=False),
        n.SOURCE_WIDTH: VariableSpec(_TILE, "int32", "Columns of the file, before binning.", "px", required=False),
        n.PIXEL_SIZE_A: VariableSpec(
            _TILE,
            "float64",
            "Side of a stored pixel in the specimen; 0 where the file did not tell it.",
            "angstrom",
            required=False,
        ),
    },
)

ANNOTATIONS: Final = DatasetSchema(
    name="annotations",
    version=SCHEMA_VERSION,
    variables={
        n.MASK: VariableSpec((n.TILE, n.Y, n.X), MASK_DTYPE, "Annotated instances: 0 background, 1..N."),
    },
    coords={
        n.TILE: _TILE_ID,
        n.SOURCE: VariableSpec(_TILE, "str", "File of the annotation."),
        n.SHA256: VariableSpec(_TILE, "str", "SHA-256 of that file."),
    },
)

POINTS: Final = DatasetSchema(
    name="points",
    version=SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.POINT,), "int32", "Position of the particle's tile along `tile` of this group."),
        n.Y: VariableSpec((n.POINT,), "float64", "Row of the particle's centre in the stored tile.", "px"),
        n.X: VariableSpec((n.POINT,), "float64", "Column of the particle's centre in the stored tile.", "px"),
        n.DIAMETER_PX: VariableSpec((n.POINT,), "float64", "Diameter of the particle in stored pixels.", "px"),
    },
    coords={
        n.TILE: VariableSpec((n.TILE,), "str", "Annotated tile; one without points holds no particle."),
        n.SOURCE: VariableSpec(_TILE, "str", "File of the annotation."),
        n.SHA256: VariableSpec(_TILE, "str", "SHA-256 of that file."),
    },
)

QUARANTINE: Final = DatasetSchema(
    name="quarantine",
    version=SCHEMA_VERSION,
    variables={
        n.PATH: VariableSpec((n.ITEM,), "str", "File that was left out, relative to the ingested folder."),
        n.DONOR: VariableSpec((n.ITEM,), "str", "Donor, where the name told it."),
        n.MARKER: VariableSpec((n.ITEM,), "str", "Marker, where the name told it."),
        n.REASON: VariableSpec((n.ITEM,), "str", "Why it was left out."),
        n.TILE: VariableSpec((n.ITEM,), "str", "Tile that the file belongs to, where known.", required=False),
        n.ROOT: VariableSpec((n.ITEM,), "str", "Folder that was ingested.", required=False),
    },
)

PROGRESS: Final = {
    n.REASON: VariableSpec(_TILE, "str", "Why the tile was quarantined.", initial=""),
    n.SECONDS: VariableSpec(_TILE, "float32", "Processing time of the tile.", "s", initial=0),
    n.STATE: VariableSpec(_TILE, "uint8", "0 pending, 1 done, 2 quarantined.", initial=n.PENDING),
}
"""What every run knows of each tile, whatever its task; `state` is written after all others."""

RUN: Final = DatasetSchema(
    name="run",
    version=SCHEMA_VERSION,
    variables={
        n.MASK: VariableSpec((n.TILE, n.Y, n.X), MASK_DTYPE, "Predicted instances: 0 background, 1..N.", initial=0),
        n.N_CELLS: VariableSpec(_TILE, "int32", "Instances in the mask; -1 where the tile is not done.", initial=-1),
        n.N_POSITIVE: VariableSpec(
            _TILE, "int32", "Marker-positive cells by the active rule; -1 where unknown.", initial=-1
        ),
        n.BACKGROUND: VariableSpec(
            (n.TILE, n.CHANNEL),
            "float32",
            "Median of the valid pixels that belong to no instance.",
            "counts",
            initial=math.nan,
        ),
        **PROGRESS,
    },
    coords={n.TILE: _TILE_ID, n.CHANNEL: VariableSpec((n.CHANNEL,), "str", "Name of the image plane.")},
)

CELLS: Final = DatasetSchema(
    name="cells",
    version=SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.CELL,), "int32", "Position of the cell's tile along images.tile."),
        n.LABEL: VariableSpec((n.CELL,), MASK_DTYPE, "Value of the cell in the mask of its tile."),
        n.AREA_PX: VariableSpec((n.CELL,), "int32", "Number of pixels.", "px"),
        n.CENTROID_Y: VariableSpec((n.CELL,), "float32", "Mean row of the pixels.", "px"),
        n.CENTROID_X: VariableSpec((n.CELL,), "float32", "Mean column of the pixels.", "px"),
        n.MEAN_INTENSITY: VariableSpec((n.CELL, n.CHANNEL), "float32", "Mean raw intensity.", "counts"),
    },
    coords={n.CHANNEL: VariableSpec((n.CHANNEL,), "str", "Name of the image plane.")},
)

PROBABILITY_RUN: Final = DatasetSchema(
    name="probability_run",
    version=SCHEMA_VERSION,
    variables={
        n.PROBABILITY: VariableSpec(
            (n.TILE, n.Y, n.X),
            "uint16",
            "Probability that the pixel belongs to a particle.",
            scale=1 / PROBABILITY_STEPS,
            initial=0,
        ),
        n.N_CELLS: VariableSpec(
            _TILE, "int32", "Candidates picked at the run's floor; -1 where the tile is not done.", initial=-1
        ),
        **PROGRESS,
    },
    coords={n.TILE: _TILE_ID},
)

CANDIDATES: Final = DatasetSchema(
    name="candidates",
    version=SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.CELL,), "int32", "Position of the candidate's tile along images.tile."),
        n.LABEL: VariableSpec((n.CELL,), MASK_DTYPE, "Number of the candidate in its tile, the most probable first."),
        n.CENTROID_Y: VariableSpec((n.CELL,), "float32", "Row of the centre in the stored tile.", "px"),
        n.CENTROID_X: VariableSpec((n.CELL,), "float32", "Column of the centre in the stored tile.", "px"),
        n.SCORE: VariableSpec((n.CELL,), "float32", "Mean probability in a disc around the centre, 0 to 1."),
    },
)

PICKS: Final = DatasetSchema(
    name="picks",
    version=SCHEMA_VERSION,
    variables={
        n.TILE_INDEX: VariableSpec((n.PICK,), "int32", "Position of the pick's tile along images.tile."),
        n.Y: VariableSpec((n.PICK,), "float32", "Row of the centre in the stored tile.", "px"),
        n.X: VariableSpec((n.PICK,), "float32", "Column of the centre in the stored tile.", "px"),
        n.SCORE: VariableSpec((n.PICK,), "float32", "How sure the picker is; the attribute `threshold` or more."),
    },
)

PSEUDO: Final = DatasetSchema(
    name="pseudo",
    version=SCHEMA_VERSION,
    variables={
        n.TARGET: VariableSpec(
            (n.TILE, n.Y, n.X), "int8", "Labels by a network: 1 particle, 0 background, -1 unknown."
        ),
    },
    coords={n.TILE: _TILE_ID},
)

POSITIVITY: Final = DatasetSchema(
    name="positivity",
    version=SCHEMA_VERSION,
    variables={
        n.N_ALL: VariableSpec(_RULE_TILE, "int32", "All cells of the tile under the rule; -1 unknown."),
        n.N_POSITIVE: VariableSpec(_RULE_TILE, "int32", "Marker-positive cells under the rule; -1 unknown."),
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
        n.TILE: _TILE_ID,
        n.RULE: VariableSpec((n.RULE,), "str", "Name of the positivity rule."),
        n.SETTINGS: VariableSpec((n.RULE,), "str", "Settings of the rule in JSON.", required=False),
    },
)

_RDM = (n.RUN, n.DONOR, n.MARKER)
_RMO = (n.RUN, n.MARKER, n.OUTCOME)

ANALYSIS: Final = DatasetSchema(
    name="analysis",
    version=SCHEMA_VERSION,
    variables={
        n.RATIO: VariableSpec(_RDM, "float64", "Sum of positive cells over sum of all cells."),
        n.N_POSITIVE: VariableSpec(_RDM, "int64", "Marker-positive cells of the donor."),
        n.N_ALL: VariableSpec(_RDM, "int64", "All cells of the donor."),
        n.N_TILES: VariableSpec(_RDM, "int32", "Tiles that the ratio was computed from."),
        n.RHO: VariableSpec(_RMO, "float64", "Spearman correlation of donor ratio and outcome."),
        n.P: VariableSpec(_RMO, "float64", "Two-sided p-value of rho."),
        n.Q: VariableSpec(_RMO, "float64", "Benjamini-Hochberg q-value of p over the stored family."),
        n.N: VariableSpec(_RMO, "int32", "Donors with both a ratio and the outcome."),
        n.REASON: VariableSpec(_RMO, "str", "Why rho is missing, empty where it is not."),
        n.P_METHOD: VariableSpec(
            _RMO, "str", "How p was found; where the variable is absent, by Student's t.", required=False
        ),
        n.P_RESOLUTION: VariableSpec(_RMO, "float64", "Smallest p that the method can tell.", required=False),
        n.LOG_ODDS: VariableSpec(
            _RMO, "float64", "Log odds of a cell being positive per unit of the outcome.", required=False
        ),
        n.LOG_ODDS_SE: VariableSpec(_RMO, "float64", "Standard error of log_odds.", required=False),
        n.DISPERSION: VariableSpec(
            _RMO, "float64", "Variance of the donors' counts over that of the binomial.", required=False
        ),
        n.COUNT_P: VariableSpec(_RMO, "float64", "Two-sided p-value of log_odds from Student's t.", required=False),
        n.COUNT_Q: VariableSpec(
            _RMO, "float64", "Benjamini-Hochberg q-value of count_p over the stored family.", required=False
        ),
        n.COUNT_REASON: VariableSpec(_RMO, "str", "Why there is no log_odds, empty where there is.", required=False),
    },
    coords={
        n.RUN: VariableSpec((n.RUN,), "str", "Model with its weights and settings applied to the cohort."),
        n.DONOR: VariableSpec((n.DONOR,), "str", "Donor id."),
        n.MARKER: VariableSpec((n.MARKER,), "str", "Stain."),
        n.OUTCOME: VariableSpec((n.OUTCOME,), "str", "Column of the clinical table."),
    },
)

BOOTSTRAP: Final = DatasetSchema(
    name="bootstrap",
    version=SCHEMA_VERSION,
    variables={
        n.RATIO_RESAMPLED: VariableSpec((n.RESAMPLE, *_RDM), "float64", "Donor ratio in each resample."),
        n.RHO_RESAMPLED: VariableSpec((n.RESAMPLE, *_RMO), "float64", "Spearman correlation in each resample."),
        n.P_RESAMPLED: VariableSpec((n.RESAMPLE, *_RMO), "float64", "Two-sided p-value in each resample."),
        n.N_DRAWN: VariableSpec(
            (n.RESAMPLE, n.DONOR), "int32", "Times that the donor is in the resample.", required=False
        ),
    },
    coords={name: ANALYSIS.coords[name] for name in (n.RUN, n.DONOR, n.MARKER, n.OUTCOME)},
)

CLINICAL: Final = DatasetSchema(
    name="clinical",
    version=SCHEMA_VERSION,
    variables={
        n.OUTCOME_VALUE: VariableSpec(
            (n.DONOR, n.OUTCOME), "float64", "Value in the clinical table; NaN where it is missing."
        ),
        n.COVARIATE_VALUE: VariableSpec(
            (n.DONOR, n.COVARIATE), "float64", "Value to adjust for; NaN where it is missing."
        ),
        n.REASON: VariableSpec((n.OUTCOME,), "str", "Why the outcome cannot be used, empty where it can."),
    },
    coords={
        n.DONOR: ANALYSIS.coords[n.DONOR],
        n.OUTCOME: ANALYSIS.coords[n.OUTCOME],
        n.COVARIATE: VariableSpec((n.COVARIATE,), "str", "Column of the clinical table."),
        n.DIRECTION: VariableSpec((n.OUTCOME,), "str", "What a higher value of the outcome means."),
        n.MEANING: VariableSpec((n.OUTCOME,), "str", "What the outcome is."),
    },
)

_GRID = (n.POINTS_PER_SIDE, n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)
_GRID_TILE = (*_GRID, n.TILE)
_POINTS_TILE = (n.POINTS_PER_SIDE, n.TILE)

SWEEP: Final = DatasetSchema(
    name="sweep",
    version=SCHEMA_VERSION,
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
        n.TILE: _TILE_ID,
        n.DONOR: TILES[n.DONOR],
        n.MARKER: TILES[n.MARKER],
        n.THRESHOLD: VariableSpec((n.THRESHOLD,), "float64", "IoU at which an instance counts as found."),
        n.DEVICE: VariableSpec(_TILE, "str", "Where the tile was computed."),
    },
)
