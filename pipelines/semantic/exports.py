"""Maps of classes of runs as files: in the codes of the annotations, and as pictures in colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fintune_xr.pipelines.semantic.evaluate import class_runs
from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.pipelines.task_parts.tile_exports import OF_IMAGES, OF_REGIONS, OF_TABLES
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.class_maps import export_class_maps


def _masks(cohort: Cohort, request: ExportRequest) -> list[Path]:
    return export_class_maps(cohort, request.out, runs=request.runs or class_runs(cohort))


EXPORTS: Final[Mapping[str, Export]] = {
    "masks": Export("maps of classes of runs as PNG, in the codes of the annotations and in colours", _masks),
    **OF_IMAGES,
    **OF_REGIONS,
    **OF_TABLES,
}
