"""The declared schemas of groups that all cohorts have; those of a task are in its module of `tasks`."""

from __future__ import annotations

from typing import Final

from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec

SCHEMA: Final = "fintune-xr-cohort"
SCHEMA_VERSION: Final = 1

_TILE = (n.TILE,)

TILE_ID: Final = VariableSpec(_TILE, "str", "Unique id of the tile.")
CHANNEL: Final = VariableSpec((n.CHANNEL,), "str", "Name of the image plane.")
ANNOTATED: Final = {
    n.TILE: TILE_ID,
    n.SOURCE: VariableSpec(_TILE, "str", "File of the annotation."),
    n.SHA256: VariableSpec(_TILE, "str", "SHA-256 of that file."),
    n.TRUTH_PROFILE: VariableSpec(
        _TILE, "int64", "Digest of rows and columns of the mask, however turned; 0 where it was not taken.",
        required=False,
    ),
}  # fmt: skip
"""Coordinates of annotations, whatever they are."""

# What is 0 in the optional columns was not recorded: the file had as many rows and columns as are stored.
SOURCE_SIDES: Final = {
    n.SOURCE_HEIGHT: VariableSpec(_TILE, "int32", "Rows of the file, before binning.", "px", required=False),
    n.SOURCE_WIDTH: VariableSpec(_TILE, "int32", "Columns of the file, before binning.", "px", required=False),
}

TILES: Final = {
    n.TILE: TILE_ID,
    n.CHANNEL: CHANNEL,
    n.DONOR: VariableSpec(_TILE, "str", "Independent biological unit that the tile comes from."),
    n.MARKER: VariableSpec(_TILE, "str", "Stain seen in the marker channel."),
    n.SPLIT: VariableSpec(_TILE, "str", "train, val or test; unassigned is stored as an empty string."),
    n.HEIGHT: VariableSpec(_TILE, "int32", "Rows that hold pixels of the tile.", "px"),
    n.WIDTH: VariableSpec(_TILE, "int32", "Columns that hold pixels of the tile.", "px"),
    n.SOURCE: VariableSpec((n.TILE, n.CHANNEL), "str", "File of the plane, relative to the ingested folder."),
    n.SHA256: VariableSpec((n.TILE, n.CHANNEL), "str", "SHA-256 of that file."),
    n.PIXELS_SHA256: VariableSpec(
        _TILE,
        "str",
        "SHA-256 of the tile's pixels, or that they show nothing; empty where it was not taken.",
        required=False,
    ),
    n.PROFILE: VariableSpec(
        _TILE, "int64", "Digest of the tile's rows and columns, however turned; 0 where it was not taken.",
        required=False,
    ),
}  # fmt: skip
"""What every cohort knows of its tiles, whatever they are."""

MPP: Final = VariableSpec(_TILE, "float64", "Side of a pixel; 0 where it is not known.", "um", required=False)

OF_STACKS: Final = {
    n.Z_PLANE: VariableSpec(
        _TILE, "int32", "Plane of the z-stack that is stored, from 0 on; -1 where planes were joined.", required=False
    ),
    n.Z_PLANES: VariableSpec(_TILE, "int32", "Planes of the z-stack that the tile was made of.", required=False),
}
"""Of cohorts whose tiles were stacks along z; other stores are made without these columns."""

OF_FIELDS: Final = {
    n.FIELD: VariableSpec(
        _TILE, "str", "What the donor's tiles of the same field show together, in register; empty where it was not "
        "told.", required=False,
    ),
}  # fmt: skip
"""Of cohorts whose files were told to be of fields; other stores are made without this column."""

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
    coords={**TILES, n.MPP: MPP, **OF_STACKS, **OF_FIELDS},
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
        n.RATIO_CORRECTED: VariableSpec(
            _RDM, "float64", "Ratio with the mean error of annotated donors added.", required=False
        ),
        n.RATIO_CORRECTED_LOW: VariableSpec(_RDM, "float64", "Lower end of its 95 % interval.", required=False),
        n.RATIO_CORRECTED_HIGH: VariableSpec(_RDM, "float64", "Upper end of its 95 % interval.", required=False),
        n.MEAN_CORRECTED: VariableSpec(
            (n.RUN, n.MARKER), "float64", "Mean donor ratio, prediction-powered (PPI++).", required=False
        ),
        n.MEAN_CORRECTED_LOW: VariableSpec((n.RUN, n.MARKER), "float64", "Lower end, 95 %.", required=False),
        n.MEAN_CORRECTED_HIGH: VariableSpec((n.RUN, n.MARKER), "float64", "Upper end, 95 %.", required=False),
        n.RECTIFIER: VariableSpec(
            (n.RUN, n.MARKER), "float64", "True less counted ratio, mean over annotated donors.", required=False
        ),
        n.RELIABILITY: VariableSpec(
            (n.RUN, n.MARKER),
            "float64",
            "Share of the variance of donor ratios that is not the model's error.",
            required=False,
        ),
        n.N_ANNOTATED: VariableSpec(
            (n.RUN, n.MARKER), "int64", "Donors with annotated tiles that the model has not seen.", required=False
        ),
        n.RHO_CORRECTED: VariableSpec(_RMO, "float64", "Rho of the true ratios, disattenuated.", required=False),
        n.RHO_CORRECTED_LOW: VariableSpec(_RMO, "float64", "Lower end of its 95 % interval.", required=False),
        n.RHO_CORRECTED_HIGH: VariableSpec(_RMO, "float64", "Upper end of its 95 % interval.", required=False),
        n.FIRST_RHO: VariableSpec(
            _RMO, "float64", "Rho by the rule stated first, where another was chosen after looking.", required=False
        ),
        n.FIRST_P: VariableSpec(_RMO, "float64", "Two-sided p-value of first_rho.", required=False),
        n.FIRST_Q: VariableSpec(_RMO, "float64", "Benjamini-Hochberg q-value of first_p.", required=False),
        n.FIRST_N: VariableSpec(_RMO, "float64", "Donors with a ratio by that rule and the outcome.", required=False),
        n.RHO_OF_ALL_TILES: VariableSpec(_RMO, "float64", "Rho of all tiles, whatever is left out.", required=False),
        n.RHO_WITHOUT_DRIFT: VariableSpec(_RMO, "float64", "Rho without tiles taken unusually.", required=False),
    },
    coords={
        n.RUN: VariableSpec((n.RUN,), "str", "Model with its weights and settings applied to the cohort."),
        n.DONOR: VariableSpec((n.DONOR,), "str", "Donor id."),
        n.MARKER: VariableSpec((n.MARKER,), "str", "Stain."),
        n.OUTCOME: VariableSpec((n.OUTCOME,), "str", "Column of the clinical table."),
    },
)

READOUTS: Final = DatasetSchema(
    name="readouts",
    version=SCHEMA_VERSION,
    variables={
        n.READOUT: VariableSpec(_RDM, "float64", "What was asked of the donor's cells; NaN without any."),
        **{name: ANALYSIS[name] for name in (n.RHO, n.P, n.Q, n.N, n.REASON, n.P_METHOD, n.P_RESOLUTION)},
        n.OUTCOME_VALUE: VariableSpec(
            (n.DONOR, n.OUTCOME), "float64", "Value in the clinical table; NaN where it is missing.", required=False
        ),
    },
    coords=ANALYSIS.coords,
)
"""Of one readout; earlier versions stored no outcomes beside it."""

_RMOG = (*_RMO, n.GROUP)

GROUP_TESTS: Final = DatasetSchema(
    name="group_tests",
    version=SCHEMA_VERSION,
    variables={
        n.READOUT: READOUTS[n.READOUT],
        n.LABEL: VariableSpec((n.DONOR, n.OUTCOME), "str", "Group of the donor; empty where it is not known."),
        n.SUBJECT: VariableSpec((n.DONOR,), "str", "Whom the donor's tiles are of, where several are of one."),
        n.RANK_TEST: VariableSpec(_RMO, "str", "Name of the test; empty where there is none."),
        n.TEST_STATISTIC: VariableSpec(_RMO, "float64", "Its statistic, corrected for ties."),
        n.P: VariableSpec(_RMO, "float64", "Two-sided p-value of the test."),
        n.Q: VariableSpec(_RMO, "float64", "Benjamini-Hochberg q-value of p over the stored family."),
        n.P_METHOD: VariableSpec(_RMO, "str", "How p was found."),
        n.P_RESOLUTION: VariableSpec(_RMO, "float64", "Smallest p that the method can tell."),
        n.EFFECT: VariableSpec(_RMO, "float64", "Size of the effect by effect_measure."),
        n.EFFECT_LOW: VariableSpec(_RMO, "float64", "Lower end of its 95 % interval over donors or subjects."),
        n.EFFECT_HIGH: VariableSpec(_RMO, "float64", "Upper end of its 95 % interval over donors or subjects."),
        n.EFFECT_MEASURE: VariableSpec(_RMO, "str", "What the effect is."),
        n.N: VariableSpec(_RMO, "int32", "Donors, or subjects that have all times."),
        n.REASON: VariableSpec(_RMO, "str", "Why there is no test, empty where there is one."),
        n.N_IN_GROUP: VariableSpec(_RMOG, "int32", "Donors of the group that take part."),
        n.MEDIAN: VariableSpec(_RMOG, "float64", "Median of the readout over them."),
    },
    coords={
        **ANALYSIS.coords,
        n.GROUP: VariableSpec((n.GROUP,), "int32", "Place of a group among those of its column."),
        n.GROUP_LABEL: VariableSpec((n.OUTCOME, n.GROUP), "str", "What the table calls it; empty beyond the last."),
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

CLINICAL_COLUMNS: Final = DatasetSchema(
    name="clinical_columns",
    version=SCHEMA_VERSION,
    variables={
        n.DIGEST: VariableSpec((n.COLUMN,), "str", "Digest of what the column says of the donors of the cohort."),
        n.CLINICAL: VariableSpec((n.COLUMN,), "str", "File name of the clinical table that it was last given in."),
    },
    coords={n.COLUMN: VariableSpec((n.COLUMN,), "str", "Column of a clinical table.")},
)
"""Of the clinical tables that were given, the last word on each column."""
