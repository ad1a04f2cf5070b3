"""What each task does in the steps that all cohorts go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import pandas as pd
import xarray as xr

from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.classification import steps as classification
from fintune_xr.pipelines.detection import steps as detection
from fintune_xr.pipelines.instance import steps as instance
from fintune_xr.pipelines.semantic import steps as semantic
from fintune_xr.pipelines.task_parts.requests import (
    Annotated,
    AnnotateRequest,
    EvaluateRequest,
    Export,
    TrainingTiles,
)
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.task import CLASSIFICATION, DETECTION, INSTANCE, SEMANTIC


class TaskSteps(Protocol):
    """The steps of one task. A module is an implementation of it; it imports inside its functions what is slow to."""

    def annotate(self, cohort: Cohort, source: str | Path, request: AnnotateRequest) -> Annotated:
        """Stores what is annotated under `source`, and says what people must know of how it was read."""

    def training_tiles(
        self, cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]
    ) -> TrainingTiles:
        """Tiles of the parts train and val, of these markers or of all.

        Raises UnknownNameError for a marker without annotated tiles, SplitError where a part has none.
        """

    def after_training(self, cohort: Cohort, folder: Path) -> None:
        """Adds to the folder of a finished training what people expect beside the weights."""

    def evaluate(self, cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
        """Scores of the runs against the annotations, to be stored as `metrics/<split>`."""

    def score_table(self, scores: xr.Dataset) -> pd.DataFrame:
        """Scores for people, with their intervals."""

    def score_lines(self, scores: xr.Dataset) -> list[str]:
        """What must be known to read that table."""

    def exports(self) -> Mapping[str, Export]:
        """Formats that a cohort of this task is written in, by name."""


STEPS: Final[Mapping[str, TaskSteps]] = {
    INSTANCE: instance,
    SEMANTIC: semantic,
    DETECTION: detection,
    CLASSIFICATION: classification,
}


def steps_of(cohort: Cohort) -> TaskSteps:
    """The steps of the task that the cohort is for."""
    return STEPS[cohort.task.name]
