"""What cohorts of volumes do in the steps that all cohorts go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.classification.annotate import DEFAULT_CLASSES, LabelReport, label_tiles
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, EvaluateRequest, Export, TrainingTiles
from fintune_xr.store.cohort import Cohort


def annotate(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> LabelReport:
    """Labels by the study groups of participants; the layout names the classes."""
    if request.pattern is not None:
        raise FintuneValueError("--pattern is not for volumes, whose labels come from a table of participants")
    classes = request.layout or DEFAULT_CLASSES
    return label_tiles(cohort, source, classes, restart=request.restart, command=request.command)


def training_tiles(
    cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]
) -> TrainingTiles:  # fmt: skip
    """Scans with a class of the parts train and val; settings with the names of the classes."""
    from fintune_xr.pipelines.classification.training import volumes_for_training

    return volumes_for_training(cohort, settings, start, markers)


def after_training(cohort: Cohort, folder: Path) -> None:
    """Predictions for val, head, classes, settings, manifest and environment."""
    from fintune_xr.pipelines.classification.beside_training import write_training_artefacts

    write_training_artefacts(cohort, folder)


def evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (run) of participants, of eyes and scans, and of groups of participants."""
    from fintune_xr.pipelines.classification.evaluate import evaluate_classes

    return evaluate_classes(cohort, request)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per run, with its rank."""
    from fintune_xr.pipelines.classification.evaluate import class_table

    return class_table(scores)


def score_lines(scores: xr.Dataset) -> list[str]:
    """Who was scored, and how ranks are shared."""
    from fintune_xr.pipelines.classification.evaluate import class_lines

    return class_lines(scores)


def exports() -> Mapping[str, Export]:
    """Tables of runs, the leaderboard, and what belongs beside each probe or training."""
    from fintune_xr.pipelines.classification.exports import EXPORTS

    return EXPORTS
