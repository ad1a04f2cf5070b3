"""Masks of regions of tissue into the store, with the legend that names their codes."""

from __future__ import annotations

from pathlib import Path

from fintune_xr.errors import SettingsError
from fintune_xr.pipelines.task_parts.requests import AnnotateRequest, CodeReading, MaskReading
from fintune_xr.store.annotations.instance_layouts import REGION_LAYOUT, choose_mask_layout, with_told_pattern
from fintune_xr.store.annotations.region_masks import RegionsReport, annotate_regions
from fintune_xr.store.cohort import Cohort
from fintune_xr.tasks.legend_files import parse_legend
from fintune_xr.tasks.legends import Legend
from fintune_xr.tasks.region_masks import region_legend
from fintune_xr.tasks.task import INSTANCE


def annotate_tissue_regions(cohort: Cohort, source: str | Path, request: AnnotateRequest) -> RegionsReport:
    """Stores the label images under `source` as regions of the tiles that they are named after.

    Raises FintuneValueError for a cohort that is not of cells, SettingsError without a legend, or for options that say
    how cells are read.
    """
    cohort.require("annotate --as regions", tasks=[INSTANCE])
    if request.dry_run or request.masks != MaskReading() or request.codes.ignore:
        raise SettingsError(
            "--as regions takes --layout, --pattern, --legend and --restart: regions have neither pieces nor marks, "
            "and what is unknown has no mask."
        )
    layout = REGION_LAYOUT if request.layout is None else choose_mask_layout(request.layout)
    if request.pattern is not None:
        layout = with_told_pattern(layout, request.pattern)
    return annotate_regions(cohort, source, layout, legend=_legend(request.codes), restart=request.restart)


def _legend(codes: CodeReading) -> Legend:
    if codes.legend is None or not Path(codes.legend).is_file():
        found = f"no file {codes.legend}" if codes.legend else "none was named"
        raise SettingsError(
            f"--as regions needs a table of what the codes mean (label, tab, code): --legend FILE.tsv; {found}."
        )
    path = Path(codes.legend)
    return region_legend(parse_legend(path.read_text(encoding="utf-8"), name=path.stem, source=path.name))
