"""Ground truth into a cohort store, in the form of its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import Annotated, AnnotateRequest
from fintune_xr.pipelines.tasks import steps_of
from fintune_xr.store.annotations.instance_labels import PIECES, Pieces
from fintune_xr.store.annotations.micrograph_frames import Reading, Unit
from fintune_xr.store.annotations.unused import note_unused, told_unused
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.raw.passed_over import told
from fintune_xr.store.raw.readers.drawn.painting import OVERLAPS, Overlap
from fintune_xr.tasks.task import DETECTION, INSTANCE
from fintune_xr.tasks.validation import MARKS


def annotate(
    source: str | Path,
    store: str | Path,
    *,
    layout: str | None = None,
    pattern: str | None = None,
    restart: bool = False,
    diameter: float | None = None,
    frame: Frame | None = None,
    scale: float = 1.0,
    unit: Unit | None = None,
    drop_outside: bool = False,
    legend: str | Path | None = None,
    ignore: Sequence[int] | None = None,
    pieces: Pieces | None = None,
    overlap: Overlap | None = None,
    join: bool = False,
    marks: Literal["all", "positive"] | None = None,
    dry_run: bool = False,
) -> Annotated:
    """Stores the masks under `source` as annotations of the tiles that they are named after; particles of micrographs.

    Binary masks become instances by 8-connected components, which the store records. Labels in several pieces are
    refused unless `pieces` says that they are kept, or split into one instance for each piece. With `join`
    each file, or each page of one, is one cell, and those of one tile are its mask together. `marks` says whether the
    masks outline all cells of a tile or its marker-positive cells alone, without which no share is held against them.
    What other tools draw (layouts seg, rois, geojson, labelme, coco) is painted; pixels of two objects are refused, or
    belong to the `overlap` first or last. With `dry_run` everything is read and nothing is written. `restart` throws
    stored annotations away first. In a cohort of micrographs `source` is a folder or file of particle coordinates (CSV,
    STAR, BOX, JSON, CS): `diameter` in the `unit` of the coordinates where they tell none, `frame` image or file where
    rows are not counted as usual for the format, `scale` pixels of the micrograph's file per pixel of the coordinates;
    with `drop_outside` points outside a micrograph are left away, otherwise its file is left out. In a
    cohort of stained tissue `source` holds class masks, `legend` is a table of what their codes mean (label, tab, code;
    built in for the layouts bcss and ebhi), and `ignore` lists the codes of pixels of which nothing is known.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits it or a diameter is missing.
    """
    if pieces not in (None, *PIECES):
        raise FintuneValueError(f"--pieces: expected {' or '.join(PIECES)}, got {pieces!r}")
    if marks not in (None, *MARKS):
        raise FintuneValueError(f"--marks: expected {' or '.join(MARKS)}, got {marks!r}")
    cohort = open_cohort(store)
    if overlap not in (None, *OVERLAPS):
        raise FintuneValueError(f"--overlap: expected {' or '.join(OVERLAPS)}, got {overlap!r}")
    reading = Reading(frame, scale, diameter, unit, drop_outside)
    of_masks, of_points = join or bool(pieces or overlap or marks), reading != Reading()
    _check_options(cohort, of_masks=of_masks, of_points=of_points, dry_run=dry_run)
    request = AnnotateRequest(
        layout=layout,
        pattern=pattern,
        restart=restart,
        reading=reading,
        legend=None if legend is None else Path(legend),
        ignore=None if ignore is None else tuple(ignore),
        pieces=pieces,
        overlap=overlap,
        join=join,
        marks=marks or "",
        dry_run=dry_run,
    )
    report = steps_of(cohort).annotate(cohort, source, request)
    # Not every task looks through a folder: labels of scans come from a table.
    ignored = getattr(report, "ignored", {})
    for line in told(ignored, products=True):
        say(f"annotate: {line}")
    if not dry_run:
        note_unused(cohort, source, told_unused(ignored, report.left_out))
    return report


def _check_options(cohort: Cohort, *, of_masks: bool, of_points: bool, dry_run: bool) -> None:
    """Refuses options that the cohort's task does not know, rather than leave them without effect."""
    task = cohort.task.name
    if of_masks and task != INSTANCE:
        raise FintuneValueError(
            f"--pieces, --overlap, --join and --marks are about masks of cells; this cohort is of the task {task!r}"
        )
    if of_points and task != DETECTION:
        raise FintuneValueError(
            "--diameter, --frame, --scale, --unit and --drop-outside are about particles; this cohort is of the task "
            f"{task!r}"
        )
    if dry_run and task not in (INSTANCE, DETECTION):
        raise FintuneValueError(f"--dry-run is not known for the task {task!r}. Annotate a copy of the store.")
