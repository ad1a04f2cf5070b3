"""What cohorts of stained tissue do in the steps that all cohorts go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, EvaluateRequest, Export, TrainingTiles
from fintune_xr.store.annotations.semantic import ClassMasksReport
from fintune_xr.store.cohort import Cohort


def annotate(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> ClassMasksReport:
    """Class masks with the legend of their codes."""
    from fintune_xr.pipelines.semantic.annotate import annotate_tissue

    return annotate_tissue(cohort, source, request)


def training_tiles(
    cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]  # noqa: ARG001
) -> TrainingTiles:  # fmt: skip
    """Patches of the parts train and val; settings with the classes stated, which fit the legend."""
    from fintune_xr.finetune.semantic.tiles import with_class_pixels
    from fintune_xr.pipelines.semantic.patches import patches_for_training, require_classes, stated_class_map

    class_map = stated_class_map(cohort, settings.classes)
    parts = {part: patches_for_training(cohort, part, markers) for part in (n.TRAIN, n.VAL)}
    require_classes(parts, class_map)
    return dict(parts), with_class_pixels(settings.model_copy(update={n.CLASSES: class_map}), parts[n.TRAIN])


def after_training(cohort: Cohort, folder: Path) -> None:
    """Nothing: the folder of a training says all there is."""


def evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (run, class) of the maps of classes of runs."""
    from fintune_xr.pipelines.semantic.evaluate import evaluate_classes

    return evaluate_classes(cohort, request)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per run."""
    from fintune_xr.pipelines.semantic.evaluate import class_table

    return class_table(scores)


def score_lines(scores: xr.Dataset) -> list[str]:
    """What the two kinds of score are, and under which coarser classes they are."""
    from fintune_xr.tasks.coarser import coarser_line

    told = coarser_line(scores.attrs)
    return [
        *([f"under coarser classes, and no score of the finer ones: {told}"] if told else []),
        "perclass: mean over the classes that the truth holds; foreground: any class against none, which tells nothing "
        "of the classes",
    ]


def exports() -> Mapping[str, Export]:
    """Maps of classes of runs."""
    from fintune_xr.pipelines.semantic.exports import EXPORTS

    return EXPORTS
