"""What OCT volumes, the people behind them, their labels and what runs say of them look like in a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.provenance import settings_digest
from fintune_xr.schema import DatasetSchema, VariableSpec
from fintune_xr.tasks.task import CLASSIFICATION, Task
from fintune_xr.text import texts

HEALTHY: Final = "healthy"
PRE_DIABETES: Final = "pre_diabetes_lifestyle_controlled"
ORAL_MEDICATION: Final = "oral_medication_and_or_non_insulin_injectable_medication_controlled"
INSULIN: Final = "insulin_dependent"
STUDY_GROUPS: Final = (HEALTHY, PRE_DIABETES, ORAL_MEDICATION, INSULIN)
# Other releases of the study use this word for the same group.
GROUP_ALIASES: Final[Mapping[str, str]] = {"insulin_controlled": INSULIN}


@dataclass(frozen=True, slots=True)
class GroupClasses:
    """Classes of participants in the order of their labels 0, 1, …, each a name and the study groups in it."""

    name: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        listed = [group for _, groups in self.classes for group in groups]
        if len(self.classes) < 2 or sorted(listed) != sorted(STUDY_GROUPS):
            raise FintuneValueError(
                f"classes {self.name!r}: expected two or more, with each of {', '.join(STUDY_GROUPS)} in just one of "
                f"them, got {dict(self.classes)}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(name for name, _ in self.classes)

    def label_of(self, study_group: str) -> int:
        """The label of a study group."""
        return next(label for label, (_, groups) in enumerate(self.classes) if study_group in groups)


GROUP_CLASSES: Final[Mapping[str, GroupClasses]] = {
    made.name: made
    for made in (
        GroupClasses(
            "oct_groups",
            (
                ("healthy", (HEALTHY,)),
                ("pre_diabetes", (PRE_DIABETES,)),
                ("oral_medication", (ORAL_MEDICATION,)),
                ("insulin_dependent", (INSULIN,)),
            ),
        ),
        GroupClasses("oct_binary", (("healthy", (HEALTHY,)), ("diabetes", (PRE_DIABETES, ORAL_MEDICATION, INSULIN)))),
    )
}


def group_classes(name: str) -> GroupClasses:
    """Raises UnknownNameError naming the classes that ship with the package."""
    if name not in GROUP_CLASSES:
        raise unknown_name("classes of participants", name, list(GROUP_CLASSES))
    return GROUP_CLASSES[name]


_TILE = (n.TILE,)
_DONOR = (n.DONOR,)


def _column(dtype: str, meaning: str, units: str = "1") -> VariableSpec:
    return VariableSpec(_TILE, dtype, meaning, units, required=False)


VOLUMES: Final = DatasetSchema(
    name="images",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.IMAGE: VariableSpec(
            (n.TILE, n.CHANNEL, n.Z, n.Y, n.X),
            "uint8",
            "B-scans along z, depth into the retina along y, the scan along x, resampled to the attribute `grid`; "
            "times value_step plus value_offset it is what the file holds.",
        ),
    },
    coords={
        **datasets.TILES,
        n.DEPTH: _column("int32", "B-scans that hold pixels of the tile.", "px"),
        n.SOURCE_DEPTH: _column("int32", "B-scans of the file.", "px"),
        n.SOURCE_HEIGHT: _column("int32", "Rows of the file's B-scans.", "px"),
        n.SOURCE_WIDTH: _column("int32", "Columns of the file's B-scans.", "px"),
        n.SPACING_Z: _column("float64", "Distance of B-scans in the file; 0 where it is not known.", "mm"),
        n.SPACING_Y: _column("float64", "Distance of rows in the file; 0 where it is not known.", "mm"),
        n.SPACING_X: _column("float64", "Distance of columns in the file; 0 where it is not known.", "mm"),
        n.LATERALITY: _column("str", "R, L, or empty where the eye is not known."),
        n.ORIENTATION: _column(
            "str",
            "Where z, y and x of the file point to, as far as it tells: SPL is superior, posterior, left. NIfTI of "
            "another orientation than the attribute `orientation` were turned to that one.",
        ),
        n.PROTOCOL: _column("str", "How was scanned, where it is known."),
        n.VALUE_OFFSET: _column("float64", "Value of the file that is stored as 0."),
        n.VALUE_STEP: _column("float64", "Difference of values of the file between stored ones; 0: a constant volume."),
        n.VALUE_MEAN: _column("float64", "Mean of the values on the grid, as the file counts them."),
        n.VALUE_SD: _column("float64", "Standard deviation of the values on the grid; 0: a constant volume."),
    },
)  # fmt: skip

PARTICIPANTS: Final = DatasetSchema(
    name="participants",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.STUDY_GROUP: VariableSpec(_DONOR, "str", "Group of the study."),
        n.RECOMMENDED_SPLIT: VariableSpec(_DONOR, "str", "Part that the study recommends: train, val or test."),
        n.RETINAL_OCT: VariableSpec(_DONOR, "bool", "Whether the study has OCT volumes of the participant."),
        n.AGE: VariableSpec(_DONOR, "float64", "Age; NaN where it is not told.", "a", required=False),
        n.CLINICAL_SITE: VariableSpec(_DONOR, "str", "Where the participant was seen.", required=False),
    },
    coords={n.DONOR: VariableSpec(_DONOR, "str", "Id of the participant, as text.")},
)

LABELS: Final = DatasetSchema(
    name="labels",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.LABEL: VariableSpec(
            _TILE, "int8", "Class of the tile, named by `flag_values` and `flag_meanings`; -1 where there is none."
        )
    },
    coords={n.TILE: datasets.TILES[n.TILE]},
)

SCORE_RUN: Final = DatasetSchema(
    name="score_run",
    version=datasets.SCHEMA_VERSION,
    variables={
        n.LOGITS: VariableSpec(
            (n.TILE, n.CLASS), "float32", "Logit of each class; NaN where the tile is not done.",
            required=False, initial=float("nan"),
        ),
        n.EMBEDDING: VariableSpec(
            (n.TILE, n.FEATURE), "float32", "What the encoder makes of the tile; NaN where it is not done.",
            required=False, initial=float("nan"),
        ),
        **{name: datasets.PROGRESS[name] for name in (n.STATE, n.REASON, n.SECONDS)},
    },
    coords={
        n.TILE: datasets.TILE_ID,
        n.CLASS: VariableSpec((n.CLASS,), "str", "Name of the class, in the order of the labels.", required=False),
    },
)  # fmt: skip


def labels_digest(annotations: xr.Dataset, tiles: Sequence[str]) -> str:
    """A digest of the labels of some tiles and of what they mean."""
    labels = dict(zip(texts(annotations[n.TILE]), annotations[n.LABEL].values.tolist(), strict=True))
    meanings = annotations[n.LABEL].attrs.get("flag_meanings", "")
    return settings_digest({"meanings": meanings, "labels": {tile: int(labels[tile]) for tile in tiles}})


CLASSIFICATION_TASK: Final = Task(CLASSIFICATION, LABELS, "participants.tsv", digest=labels_digest)
