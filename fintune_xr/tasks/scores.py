"""What is stored under `metrics` and `selftrain`: scores of runs by task, and the studies that compare trainings.

Of an array whose name ends in `_interval`, `_difference` or `_p` nothing is declared: it has the dims of its score, and
those of the interval or of the run that it is held against. Nor of one that begins with `apart_`: it is the score of
that name without groups, of what the model has seen in training and of what is new to it (exposure, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.instance import SWEEP
from fintune_xr.tasks.semantic import CLASS_BALANCE, PROMPTED_STUDY
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC

_Dims = tuple[str, ...]

# A count may be stored as a float where others are missing.
_NUMBERS: Final = "uif"
_TILE: Final = (n.TILE,)
_LABELS: Final = {
    n.TILE: VariableSpec(_TILE, "str", "Annotated tile that was scored."),
    n.DONOR: VariableSpec(_TILE, "str", "Donor of the tile."),
    n.MARKER: VariableSpec(_TILE, "str", "Stain of the tile."),
    n.SPLIT: VariableSpec(_TILE, "str", "Part of the split that the tile is in."),
}
_RUN: Final = {n.RUN: VariableSpec((n.RUN,), "str", "Run, or model of a study, that was scored.")}
_GROUP: Final = {n.GROUP: VariableSpec((n.GROUP,), "str", "Tiles of a marker, or all of them.")}
_THRESHOLD: Final = {n.THRESHOLD: VariableSpec((n.THRESHOLD,), "float64", "IoU at which an instance counts as found.")}


def _how_seen(dim: str) -> dict[str, VariableSpec]:
    meaning = "How the model of the run has seen it in training, named by `flag_values` and `flag_meanings`."
    return {n.HOW_SEEN: VariableSpec((n.RUN, dim), "int8", meaning, kinds=_NUMBERS, required=False)}


def _number(dims: _Dims, meaning: str, units: str = "1", *, required: bool = True) -> VariableSpec:
    return VariableSpec(dims, "float64", meaning, units, kinds=_NUMBERS, required=required)


def _counts(dims: _Dims, prefix: str = "") -> dict[str, VariableSpec]:
    meanings = {n.TP: "Annotated ones that were found.", n.FP: "Predicted ones that are none.", n.FN: "Missed ones."}
    return {f"{prefix}{name}": _number(dims, meaning) for name, meaning in meanings.items()}


def _mask_scores(counted: _Dims, grouped: _Dims) -> dict[str, VariableSpec]:
    """Counts (…, tile, threshold) and scores by group (…, threshold) of masks."""
    found = _counts((*counted, n.TILE, n.THRESHOLD))
    for score in (n.AVERAGE_PRECISION, n.PRECISION, n.RECALL, n.F1):
        found[f"{score}_{n.IMAGE_MEAN}"] = _number((*grouped, n.THRESHOLD), "Mean of the scores of single tiles.")
        found[f"{score}_{n.POOLED}"] = _number((*grouped, n.THRESHOLD), "Score of the counts of all tiles.")
        found[f"{score}_{n.N_IMAGES}"] = _number((*grouped, n.THRESHOLD), "Tiles that have the score.")
    for way in (n.IMAGE_MEAN, n.POOLED):
        found[f"{n.MEAN_AVERAGE_PRECISION}_{way}"] = _number(grouped, "Average precision, mean over thresholds.")
    return found


def _schema(name: str, variables: Mapping[str, VariableSpec], coords: Mapping[str, VariableSpec]) -> DatasetSchema:
    return DatasetSchema(name, datasets.SCHEMA_VERSION, variables, coords)


MASK_SCORES: Final = _schema(
    "mask_scores",
    {**_mask_scores((n.RUN,), (n.GROUP, n.RUN)), **_how_seen(n.TILE)},
    {**_RUN, **_GROUP, **_THRESHOLD, **_LABELS},
)
"""Of masks, also those that a benchmark compares."""

_DONOR_RATIO: Final = (n.SETTING, n.DONOR, n.MARKER)
_SETTING: Final = (n.SETTING,)

GATES: Final = _schema(
    "gates",
    {
        **_mask_scores(_SETTING, (n.GROUP, n.SETTING)),
        n.RATIO: _number(_DONOR_RATIO, "Sum of positive cells over sum of all cells under the gate."),
        n.N_POSITIVE: _number(_DONOR_RATIO, "Marker-positive cells of the donor that stay."),
        n.N_ALL: _number(_DONOR_RATIO, "Cells of the donor that stay."),
        n.N_TILES: _number(_DONOR_RATIO, "Tiles that the ratio was computed from."),
        n.N_KEPT: _number(_SETTING, "Cells of the cohort that stay."),
        n.RANK_AGREEMENT: _number((n.SETTING, n.MARKER), "Spearman correlation with the ratios without a gate."),
    },
    {
        **_GROUP,
        **_THRESHOLD,
        n.TILE: _LABELS[n.TILE],
        n.SETTING: VariableSpec(_SETTING, "str", "Name of the gate."),
        n.DONOR: VariableSpec((n.DONOR,), "str", "Donor id."),
        n.MARKER: VariableSpec((n.MARKER,), "str", "Stain."),
        n.Q_LO: _number(_SETTING, "Lowest percentile of mean marker intensities that stays.", "%"),
        n.Q_HI: _number(_SETTING, "Highest percentile that stays.", "%"),
        n.MIN_AREA: _number(_SETTING, "Smallest area that stays.", "px"),
    },
)

_FIT: Final = (n.BUDGET, n.SEED)

MASK_BUDGET: Final = _schema(
    "mask_budget",
    {
        **_mask_scores(_FIT, (*_FIT, n.GROUP)),
        n.N_TRAIN: _number((*_FIT, n.GROUP), "Tiles of the group trained on; -1 where the fit is not done."),
        n.SECONDS: _number(_FIT, "Training and scoring.", "s"),
        n.CHECKPOINT_SHA256: VariableSpec(_FIT, "str", "SHA-256 of the weights; empty where the fit is not done."),
        n.ASYMPTOTE: _number((n.GROUP,), "Score that the fitted curve nears.", required=False),
        n.BUDGET_MEAN: _number((n.BUDGET, n.GROUP), "Mean score over seeds.", required=False),
        n.BUDGET_SD: _number((n.BUDGET, n.GROUP), "Standard deviation of the score over seeds.", required=False),
    },
    {
        **_GROUP,
        **_THRESHOLD,
        n.TILE: _LABELS[n.TILE],
        n.BUDGET: VariableSpec((n.BUDGET,), "int64", "Annotated tiles trained on."),
        n.SEED: VariableSpec((n.SEED,), "int64", "Seed of the order of tiles and of the training."),
    },
)

_SUBSET: Final = (*_FIT, n.GROUP)
_OF_MASKS: Final = frozenset(_mask_scores(_FIT, _SUBSET))

CLASS_BUDGET: Final = _schema(
    "class_budget",
    {
        n.CONFUSION: _number((*_FIT, n.TILE, n.TRUTH, n.PREDICTED), "Valid pixels by true and predicted class.", "px"),
        f"{n.DICE}_{n.IMAGE_MEAN}": _number((*_SUBSET, n.CLASS), "Mean Dice of the tiles that hold the class."),
        f"{n.DICE}_{n.POOLED}": _number((*_SUBSET, n.CLASS), "Dice of the pixels of all tiles."),
        f"{n.PERCLASS}_{n.DICE}_{n.IMAGE_MEAN}": _number(_SUBSET, "Mean of the former over the classes."),
        **{name: spec for name, spec in MASK_BUDGET.variables.items() if name not in _OF_MASKS},
    },
    {
        **{name: spec for name, spec in MASK_BUDGET.coords.items() if name != n.THRESHOLD},
        n.CLASS: VariableSpec((n.CLASS,), "str", "Name of the class."),
    },
)

BUDGETS: Final[Mapping[str, DatasetSchema]] = {INSTANCE: MASK_BUDGET, SEMANTIC: CLASS_BUDGET}
"""By task: the study of trainings on more and more tiles."""

_RUN_CLASS: Final = (n.RUN, n.CLASS)

CLASS_SCORES: Final = _schema(
    "class_scores",
    {
        n.CONFUSION: _number((n.RUN, n.TILE, n.TRUTH, n.PREDICTED), "Valid pixels by true and predicted class.", "px"),
        f"{n.DICE}_{n.IMAGE_MEAN}": _number(_RUN_CLASS, "Mean Dice of the tiles that hold the class."),
        f"{n.DICE}_{n.POOLED}": _number(_RUN_CLASS, "Dice of the pixels of all tiles."),
        f"{n.PERCLASS}_{n.DICE}_{n.IMAGE_MEAN}": _number((n.RUN,), "Mean of the former over the classes."),
        f"{n.FOREGROUND}_{n.DICE}_{n.IMAGE_MEAN}": _number((n.RUN,), "Mean Dice of any class against none."),
        **_how_seen(n.TILE),
    },
    {**_RUN, **_LABELS, n.CLASS: VariableSpec((n.CLASS,), "str", "Name of the class.")},
)

PARTICLE_SCORES: Final = _schema(
    "particle_scores",
    {
        **_counts((n.RUN, n.TILE), f"{n.PARTICLE}_"),
        **{
            f"{n.PARTICLE}_{score}_{way}": _number((n.RUN,), "Score of picks.")
            for score in (n.PRECISION, n.RECALL, n.F1)
            for way in (n.IMAGE_MEAN, n.POOLED)
        },
        f"{n.PARTICLE}_{n.AVERAGE_PRECISION}": _number((n.RUN,), "Area under precision over recall."),
        f"{n.PIXEL}_{n.AUC}": _number(
            (n.RUN,),
            "Area under the ROC curve of pixels, over as many bins as `auc_bins` says (4096 without it).",
            required=False,
        ),
        **_how_seen(n.TILE),
    },
    {**_RUN, **_LABELS},
)

_STAGE_PART: Final = (n.STAGE, n.PART)

STAGES: Final = _schema(
    "stages",
    {
        **_counts(_STAGE_PART, f"{n.PARTICLE}_"),
        f"{n.PARTICLE}_{n.F1}": _number(_STAGE_PART, "F1 of particles."),
        f"{n.PIXEL}_{n.F1}": _number(_STAGE_PART, "F1 of pixels."),
        f"{n.PARTICLE}_{n.THRESHOLD}": _number((n.STAGE,), "Threshold that is best on val."),
    },
    {
        n.STAGE: VariableSpec((n.STAGE,), "str", "Name of the stage."),
        n.PART: VariableSpec((n.PART,), "str", "Part of the split."),
    },
)

PARTICIPANT_SCORES: Final = _schema(
    "participant_scores",
    {
        n.BALANCED_ACCURACY: _number((n.RUN,), "Mean of the recalls of the classes."),
        n.PROBABILITY: _number((n.RUN, n.DONOR, n.CLASS), "Probability of the class."),
        n.LABEL: _number((n.DONOR,), "Class of the participant."),
        **_how_seen(n.DONOR),
    },
    {**_RUN, n.CLASS: VariableSpec((n.CLASS,), "str", "Name of the class.")},
)

PROBE_FOLDS: Final = _schema(
    "probe_folds",
    {n.BALANCED_ACCURACY: _number((n.ENCODER, n.HEAD, n.FOLD), "Balanced accuracy of participants left out.")},
    {
        n.ENCODER: VariableSpec((n.ENCODER,), "str", "Run with embeddings."),
        n.HEAD: VariableSpec((n.HEAD,), "str", "Head."),
    },
)

PART_SCORES: Final[Mapping[str, DatasetSchema]] = {
    INSTANCE: MASK_SCORES,
    SEMANTIC: CLASS_SCORES,
    DETECTION: PARTICLE_SCORES,
    CLASSIFICATION: PARTICIPANT_SCORES,
}
"""By task: scores of runs on a part of the split."""

BENCHMARKS: Final[Mapping[str, Mapping[str, DatasetSchema]]] = {
    n.BENCHMARK: {INSTANCE: MASK_SCORES, SEMANTIC: CLASS_SCORES},
    f"{n.BENCHMARK}_{n.VAL}": {INSTANCE: MASK_SCORES},
    f"{n.BENCHMARK}_{n.COARSER}": {SEMANTIC: CLASS_SCORES},
}
"""By the name of their group under `metrics` and by task: what a benchmark compares."""

STUDIES: Final[Mapping[str, DatasetSchema]] = {
    n.SWEEP: SWEEP,
    n.PROMPTS: PROMPTED_STUDY,
    n.CLASS_BALANCE: CLASS_BALANCE,
    n.PROBE: PROBE_FOLDS,
}
"""By the name of their group under `metrics`."""


def metrics_schema(name: str, task: str) -> DatasetSchema | None:
    """The schema of the group `name` under `metrics` of a cohort for `task`; None where nobody has declared one."""
    if name.startswith(n.GATE_PREFIX):
        return GATES
    if name.startswith(n.COARSER_PREFIX):
        return CLASS_SCORES
    if name in BENCHMARKS:
        return BENCHMARKS[name].get(task)
    if name == n.BUDGET:
        return BUDGETS.get(task)
    return PART_SCORES.get(task) if name in (*n.SPLITS, n.ALL_MARKERS) else STUDIES.get(name)


def declared_schema(path: str, task: str) -> DatasetSchema | None:
    """The schema of a group of scores by its path; None for other groups."""
    top, _, name = path.partition("/")
    if top == n.METRICS:
        return metrics_schema(name, task)
    return STAGES if top == n.SELFTRAIN and name else None
