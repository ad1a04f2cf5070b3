"""Formats that cells are written in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.pipelines.task_parts.run_exports import OF_RUNS
from fintune_xr.pipelines.task_parts.tile_exports import OF_CELLS
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.cellpose import write_training_folders
from fintune_xr.store.split import require_split


def _cellpose(cohort: Cohort, request: ExportRequest) -> list[Path]:
    if request.runs:
        raise FintuneValueError(
            f"--to {request.to} writes annotated tiles, which belong to no run; leave out --run "
            f"{' '.join(request.runs)}"
        )
    require_split(cohort)
    return list(write_training_folders(cohort, request.out))


EXPORTS: Final[Mapping[str, Export]] = {
    **OF_RUNS,
    "cellpose": Export("the annotated tiles in `train_cells`, `val_cells` and `test_cells`", _cellpose),
    **OF_CELLS,
}
