"""Ground-truth masks into a cohort store."""

from __future__ import annotations

from pathlib import Path

from fintune_xr.pipelines.progress import say
from fintune_xr.store.annotate import AnnotateReport, annotate_tiles
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.mask_layouts import choose_mask_layout


def annotate(
    source: str | Path,
    store: str | Path,
    *,
    layout: str = "rosmap",
    pattern: str | None = None,
    restart: bool = False,
) -> AnnotateReport:
    """Stores the masks under `source` as annotations of the tiles that they are named after.

    Binary masks become instances by 8-connected components, which the store records. `restart` throws
    stored annotations away first.

    Raises UnknownNameError for a layout, FintuneValueError where no mask fits it.
    """
    cohort = open_cohort(store)
    report = annotate_tiles(cohort, source, choose_mask_layout(layout, pattern=pattern), restart=restart)
    if report.from_components:
        say(f"annotate: {len(report.from_components)} binary masks became instances by 8-connected components")
    return report
