"""Ground truth into a cohort store: masks, or particles of micrographs."""

from __future__ import annotations

from pathlib import Path

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.console import say
from fintune_xr.store.annotations.detection import PointsReport, annotate_points
from fintune_xr.store.annotations.detection_layouts import choose_point_layout
from fintune_xr.store.annotations.instance import AnnotateReport, annotate_tiles
from fintune_xr.store.annotations.instance_layouts import choose_mask_layout
from fintune_xr.store.annotations.micrograph_frames import Reading
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.raw.layouts import Layout
from fintune_xr.tasks.task import DETECTION


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
) -> AnnotateReport | PointsReport:
    """Stores the masks under `source` as annotations of the tiles that they are named after; particles of micrographs.

    Binary masks become instances by 8-connected components, which the store records. `restart` throws
    stored annotations away first. In an EM cohort `source` is a folder or file of particle coordinates (CSV, STAR, BOX,
    JSON): `diameter` in pixels of the coordinates where they tell none, `frame` image or file where rows are not
    counted as usual for the format, `scale` pixels of the micrograph's file per pixel of the coordinates.

    Raises UnknownNameError for a layout, FintuneValueError where nothing fits it or a diameter is missing.
    """
    cohort = open_cohort(store)
    reading = Reading(frame, scale, diameter)
    if cohort.task.name == DETECTION:
        return _points(cohort, source, choose_point_layout(layout or "coordinates", pattern=pattern), reading, restart)
    if reading != Reading():
        raise FintuneValueError("--diameter, --frame and --scale are about particles; this cohort has masks")
    chosen = choose_mask_layout(layout or "rosmap", pattern=pattern)
    report = annotate_tiles(cohort, source, chosen, restart=restart)
    if report.from_components:
        say(f"annotate: {len(report.from_components)} binary masks became instances by 8-connected components")
    return report


def _points(cohort: Cohort, source: str | Path, layout: Layout, reading: Reading, restart: bool) -> PointsReport:
    report = annotate_points(cohort, source, layout, reading=reading, restart=restart)
    if report.n_cut:
        say(f"annotate: {report.n_cut} points lie on rows or columns that binning left out, and are not stored")
    return report
