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
from fintune_xr.pipelines.requests import AnnotateRequest, EvaluateRequest, Export, TrainingTiles
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.cohort import Cohort


def annotate(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> LabelReport:
    """Labels by the study groups of participants; the layout names the classes."""
    if request.reading != Reading() or request.pattern is not None:
        raise FintuneValueError("--pattern, --diameter, --frame and --scale are not for volumes, which have labels")
    return label_tiles(cohort, source, request.layout or DEFAULT_CLASSES, restart=request.restart)


def training_tiles(
    cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]  # noqa: ARG001
) -> TrainingTiles:  # fmt: skip
    """Raises FintuneValueError: nothing is trained on volumes yet."""
    raise FintuneValueError(f"{cohort.url} holds volumes, and nothing is trained on volumes in this release")


def evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:  # noqa: ARG001
    """Raises FintuneValueError: runs on volumes are not scored yet."""
    raise FintuneValueError(f"{cohort.url} holds volumes, and runs on volumes are not scored in this release")


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per run."""
    return pd.DataFrame({"run": scores["run"].values})


def score_lines(scores: xr.Dataset) -> list[str]:  # noqa: ARG001
    """Nothing."""
    return []


def exports() -> Mapping[str, Export]:
    """None yet."""
    return {}
