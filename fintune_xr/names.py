"""The vocabulary: every dimension, array, group and state is named here and nowhere else."""

from __future__ import annotations

from typing import Final

# Dimensions, always in the order outer to inner.
TILE: Final = "tile"
CHANNEL: Final = "channel"
Y: Final = "y"
X: Final = "x"
DONOR: Final = "donor"
MARKER: Final = "marker"
CELL: Final = "cell"
RUN: Final = "run"
OUTCOME: Final = "outcome"
RESAMPLE: Final = "resample"
THRESHOLD: Final = "threshold"
RULE: Final = "rule"
ITEM: Final = "item"
QUANTILE: Final = "quantile"
REFERENCE: Final = "reference"
COVARIATE: Final = "covariate"
BIN: Final = "bin"
GROUP: Final = "group"
SETTING: Final = "setting"
BUDGET: Final = "budget"
SEED: Final = "seed"
POINT: Final = "point"
STAGE: Final = "stage"
PART: Final = "part"
PICK: Final = "pick"
LEVEL: Final = "level"

# Dims of a sweep of SAM's automatic mask generation; the settings have the same names.
POINTS_PER_SIDE: Final = "points_per_side"
PRED_IOU_THRESH: Final = "pred_iou_thresh"
STABILITY_SCORE_THRESH: Final = "stability_score_thresh"
BOX_NMS_THRESH: Final = "box_nms_thresh"

# Groups of a cohort store.
IMAGES: Final = "images"
ANNOTATIONS: Final = "annotations"
QUARANTINE: Final = "quarantine"
RUNS: Final = "runs"
CELLS: Final = "cells"
STAGING: Final = "staging"
POSITIVITY: Final = "positivity"
METRICS: Final = "metrics"
ANALYSIS: Final = "analysis"
BOOTSTRAP: Final = "bootstrap"
SWEEP: Final = "sweep"
PICKS: Final = "picks"
CANDIDATES: Final = "candidates"
PSEUDO: Final = "pseudo"
SELFTRAIN: Final = "selftrain"

# Arrays.
IMAGE: Final = "image"
MASK: Final = "mask"
SPLIT: Final = "split"
ANNOTATED: Final = "annotated"
HEIGHT: Final = "height"
WIDTH: Final = "width"
SOURCE: Final = "source"
PATH: Final = "path"
ROOT: Final = "root"
SHA256: Final = "sha256"
N_CELLS: Final = "n_cells"
N_ALL: Final = "n_all"
N_POSITIVE: Final = "n_positive"
N_WITHOUT_NUCLEUS: Final = "n_without_nucleus"
STATE: Final = "state"
REASON: Final = "reason"
SECONDS: Final = "seconds"
SECONDS_EMBEDDING: Final = "seconds_embedding"
SECONDS_DECODING: Final = "seconds_decoding"
PEAK_MEMORY: Final = "peak_memory"
DEVICE: Final = "device"
BACKGROUND: Final = "background"
TILE_INDEX: Final = "tile_index"
LABEL: Final = "label"
AREA_PX: Final = "area_px"
CENTROID_Y: Final = "centroid_y"
CENTROID_X: Final = "centroid_x"
MEAN_INTENSITY: Final = "mean_intensity"
FIRST_CELL: Final = "first_cell"
RATIO: Final = "ratio"
RHO: Final = "rho"
P: Final = "p"
Q: Final = "q"
N: Final = "n"
RATIO_RESAMPLED: Final = "ratio_resampled"
RHO_RESAMPLED: Final = "rho_resampled"
P_RESAMPLED: Final = "p_resampled"
N_DRAWN: Final = "n_drawn"
N_TILES: Final = "n_tiles"
RATIO_LOW: Final = "ratio_low"
RATIO_HIGH: Final = "ratio_high"
OUTCOME_VALUE: Final = "outcome_value"
COVARIATE_VALUE: Final = "covariate_value"
DIRECTION: Final = "direction"
MEANING: Final = "meaning"
SETTINGS: Final = "settings"
Q_LO: Final = "q_lo"
Q_HI: Final = "q_hi"
MIN_AREA: Final = "min_area"
N_TRAIN: Final = "n_train"
DIAMETER_PX: Final = "diameter_px"
SOURCE_HEIGHT: Final = "source_height"
SOURCE_WIDTH: Final = "source_width"
PIXEL_SIZE_A: Final = "pixel_size_a"
PROBABILITY: Final = "probability"
TARGET: Final = "target"
SCORE: Final = "score"
CHECKPOINT_SHA256: Final = "checkpoint_sha256"

# Counts of matched instances and the scores made of them. A score is stored under its name and the way images
# were brought together, e.g. `precision_pooled`; its interval and its difference between runs have suffixes.
TP: Final = "tp"
FP: Final = "fp"
FN: Final = "fn"
AVERAGE_PRECISION: Final = "average_precision"
MEAN_AVERAGE_PRECISION: Final = "mean_average_precision"
PRECISION: Final = "precision"
RECALL: Final = "recall"
F1: Final = "f1"
IOU: Final = "iou"
AUC: Final = "auc"
IMAGE_MEAN: Final = "image_mean"
POOLED: Final = "pooled"
N_IMAGES: Final = "n_images"
INTERVAL: Final = "interval"
DIFFERENCE: Final = "difference"

# Channels of an IF tile; the stain's own name is the coordinate `marker`.
DAPI: Final = "DAPI"
MARKER_CHANNEL: Final = "marker"

# The channel of an EM tile.
MICROGRAPH: Final = "micrograph"

# Channels of an HE tile, what stains it, and where it was cut from.
RED: Final = "R"
GREEN: Final = "G"
BLUE: Final = "B"
HE_STAIN: Final = "HE"
ORIGIN_Y: Final = "origin_y"
ORIGIN_X: Final = "origin_x"
MPP: Final = "mpp"

# Maps of classes: arrays, dims, attributes (the first two are CF's), and the class of whatever is none of the others.
CLASSES: Final = "classes"
CLASS: Final = "class"
CLASS_PX: Final = "class_px"
FLAG_VALUES: Final = "flag_values"
FLAG_MEANINGS: Final = "flag_meanings"
IGNORE_CODES: Final = "ignore_codes"
LEGEND: Final = "legend"
LEGEND_SHA256: Final = "legend_sha256"
CLASS_MAP: Final = "class_map"
PROTOCOL: Final = "protocol"
AUTOMATIC: Final = "automatic"
PROMPTED: Final = "prompted"
REST: Final = "rest"

# Scores of classes; `perclass` is the mean over classes, `foreground` is any class against none.
TRUTH: Final = "truth"
PREDICTED: Final = "predicted"
CONFUSION: Final = "confusion"
DICE: Final = "dice"
PERCLASS: Final = "perclass"
FOREGROUND: Final = "foreground"
PAIR_MEAN: Final = "pair_mean"
SIZE_BIN: Final = "size_bin"
N_PIECES: Final = "n_pieces"
N_FOUND: Final = "n_found"
N_VALID: Final = "n_valid"
CLASS_BALANCE: Final = "class_balance"
SHARE: Final = "share"
WEIGHT: Final = "weight"

# Values of `split`; an empty string means that the tile has not been assigned.
TRAIN: Final = "train"
VAL: Final = "val"
TEST: Final = "test"
SPLITS: Final = (TRAIN, VAL, TEST)

# The group of scores that holds the tiles of all markers.
ALL_MARKERS: Final = "all"

# Values of `state` in a run.
PENDING: Final = 0
DONE: Final = 1
QUARANTINED: Final = 2
STATE_MEANINGS: Final = {PENDING: "pending", DONE: "done", QUARANTINED: "quarantined"}

# Kinds of cohort.
COHORT_KINDS: Final = ("if", "he", "oct", "em")
