"""What cohorts of micrographs do in the steps that all cohorts go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.detection.point_placement import annotated_point_placements, point_placement_lines
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, EvaluateRequest, Export, TrainingTiles
from fintune_xr.store.annotations.detection import PointsReport, annotate_points
from fintune_xr.store.annotations.detection_layouts import choose_point_layout
from fintune_xr.store.cohort import Cohort


def annotate(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> PointsReport:
    """Particles of coordinate files."""
    layout = choose_point_layout(request.layout or "coordinates", pattern=request.pattern)
    report = annotate_points(
        cohort, source, layout, reading=request.particles, restart=request.restart, dry_run=request.dry_run,
        command=request.command,
    )  # fmt: skip
    for meaning, count in report.meanings.items():
        say(f"annotate: {count} {'table holds' if count == 1 else 'tables hold'} {meaning}")
    if report.lowest_score == report.lowest_score:
        say(f"annotate: particles have scores, the lowest {report.lowest_score:g}: all of them are taken for true")
    if report.n_outside:
        say(f"annotate: {report.n_outside} points lie outside their micrograph, and are left away")
    if report.n_twice:
        say(f"annotate: {report.n_twice} points are in their file twice, and are stored once")
    if report.n_merged:
        say(f"annotate: {report.n_merged} points lie closer to another than asked, and are left away")
    if report.n_close:
        say(
            f"annotate: {report.n_close} points lie closer to another than half their diameter, the closest "
            f"{report.closest:.2g} diameters: each counts as a particle. Where they are picks of one particle: "
            "--merge-closer D keeps one of those closer than D"
        )
    if report.n_cut:
        say(f"annotate: {report.n_cut} points lie on rows or columns that binning left out, and are not stored")
    if request.dry_run or not cohort.has(n.ANNOTATIONS):
        return report
    placed = point_placement_lines(annotated_point_placements(cohort))
    for line in placed:
        say(f"annotate: {line}")
    return replace(report, told=tuple(placed))


def training_tiles(
    cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]
) -> TrainingTiles:  # fmt: skip
    """Micrographs and particles of the parts train and val; settings with the diameter of a particle stated."""
    from fintune_xr.pipelines.detection.training import annotated_micrographs, with_diameter

    parts = {part: annotated_micrographs(cohort, part, markers) for part in (n.TRAIN, n.VAL)}
    return dict(parts), with_diameter(settings, parts[n.TRAIN], start)


def after_training(cohort: Cohort, folder: Path) -> None:
    """Nothing: the folder of a training says all there is."""


def evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (run) of the picks of runs, of single pixels too."""
    from fintune_xr.pipelines.detection.evaluate import evaluate_particles

    return evaluate_particles(cohort, request)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per run."""
    from fintune_xr.pipelines.detection.evaluate import particle_table

    return particle_table(scores)


def score_lines(scores: xr.Dataset) -> list[str]:
    """What the intervals are over."""
    from fintune_xr.analysis.report.detection.intervals import interval_line

    return [interval_line(scores)]


def exports() -> Mapping[str, Export]:
    """Masks and tables of runs, and picks in the formats of cryo-EM programs."""
    from fintune_xr.pipelines.detection.exports import EXPORTS

    return EXPORTS
