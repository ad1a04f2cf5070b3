"""What cohorts of cells do in the steps that all cohorts go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.mask_placement import annotated_placements, placement_lines
from fintune_xr.pipelines.task_parts.requests import (
    AnnotateRequest,
    EvaluateRequest,
    Export,
    MaskReading,
    TrainingTiles,
)
from fintune_xr.store.annotations.corrected_masks import CorrectedRun
from fintune_xr.store.annotations.instance import (
    AnnotateReport,
    Taken,
    annotate_tiles,
    note_marks,
    plan_masks,
    stored_marks,
)
from fintune_xr.store.annotations.instance_layouts import DEFAULT_MASK_LAYOUT, choose_mask_layout, layout_of_folder
from fintune_xr.store.cohort import Cohort


def annotate(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> AnnotateReport:
    """Masks, of which binary ones become instances by 8-connected components."""
    marks = request.masks.marks
    known = "" if request.restart else stored_marks(cohort)
    if marks and known not in ("", marks):
        raise FintuneValueError(
            f"--marks {marks}: the masks in {cohort.url} outline {known} cells. One store holds one kind; "
            "--restart throws the stored ones away."
        )
    layout = request.layout or _found_layout(source, request)
    chosen = choose_mask_layout(layout, pattern=request.pattern, join=request.masks.join)
    taken = _taken(cohort, request.masks)
    if request.dry_run:
        report = plan_masks(cohort, source, chosen, taken=taken)
    else:
        report = annotate_tiles(cohort, source, chosen, restart=request.restart, taken=taken, command=request.command)
        if marks and cohort.has(n.ANNOTATIONS):
            note_marks(cohort, marks)
        if cohort.has(n.ANNOTATIONS):
            placed = placement_lines(annotated_placements(cohort))
            report = replace(report, told=(*report.told, *placed))
    if report.from_components:
        say(f"annotate: {len(report.from_components)} binary masks became instances by 8-connected components")
    for line in report.told:
        say(f"annotate: {line}")
    for line in _correction_lines(report, request.masks.corrects):
        say(f"annotate: {line}")
    return report


def _taken(cohort: Cohort, how: MaskReading) -> Taken:
    corrects = None
    if how.accept_unchanged and how.corrects is None:
        raise FintuneValueError("--accept-unchanged is about masks of a run: name it with --corrects")
    if how.corrects is not None:
        corrects = CorrectedRun.of(cohort, how.corrects, accepts_unchanged=how.accept_unchanged)
    return Taken(how.pieces, how.drawn, how.join, corrects)


def _correction_lines(report: AnnotateReport, run: str | None) -> list[str]:
    """What was changed in the masks of a run, over all tiles that came back."""
    found = list(report.corrected.values())
    if not found:
        return []
    totals = {name: sum(getattr(one, name) for one in found) for name in ("n_px", "n_reshaped", "n_added", "n_removed")}
    return [
        f"{len(found)} tile(s) corrected from run {run}: {totals['n_px']:,} px of other objects than before; objects "
        f"added: {totals['n_added']:,}, removed: {totals['n_removed']:,}, reshaped: {totals['n_reshaped']:,}, left as "
        f"they were: {sum(one.n_kept for one in found):,}"
    ]


def _found_layout(source: str | Path, request: AnnotateRequest) -> str:
    """The layout of label images, or that of another tool where the folder holds files of it and no label image."""
    if request.pattern is not None:
        return DEFAULT_MASK_LAYOUT
    found = layout_of_folder(source)
    if found.name != DEFAULT_MASK_LAYOUT:
        say(f"annotate: no label images there; read with layout {found.name}: {found.about}")
    return found.name


def training_tiles(
    cohort: Cohort, settings: Any, start: Checkpoint | None, markers: Sequence[str]  # noqa: ARG001
) -> TrainingTiles:  # fmt: skip
    """Images and masks of the parts train and val; the settings as they are."""
    from fintune_xr.pipelines.instance.training import tiles_for_training

    return {part: tiles_for_training(cohort, part, markers) for part in (n.TRAIN, n.VAL)}, settings


def after_training(cohort: Cohort, folder: Path) -> None:
    """Nothing: the folder of a training says all there is."""


def evaluate(cohort: Cohort, request: EvaluateRequest) -> xr.Dataset:
    """Scores (group, run, threshold) of the masks of runs."""
    from fintune_xr.pipelines.instance.evaluate import evaluate_masks

    return evaluate_masks(cohort, request)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """A row per group and run."""
    from fintune_xr.pipelines.instance.evaluate import mask_table

    return mask_table(scores)


def score_lines(scores: xr.Dataset) -> list[str]:
    """Where no cell is annotated, so that there is nothing to find; intervals are over donors throughout."""
    if int((scores[n.TP] + scores[n.FN]).sum()):
        return []
    return [
        f"none of the {scores.sizes[n.TILE]} scored tiles holds an annotated cell: there is nothing to find, and "
        "scores are nan, or 0 where a run has masks there. Score another part, or split anew"
    ]


def exports() -> Mapping[str, Export]:
    """Masks and tables of runs, and the annotated tiles as Cellpose trains on them."""
    from fintune_xr.pipelines.instance.exports import EXPORTS

    return EXPORTS
