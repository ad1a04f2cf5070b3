"""Formats that cohorts of volumes with labels are written in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fintune_xr.pipelines.classification.artefacts import write_artefacts
from fintune_xr.pipelines.classification.ingest import quarantine_list, write_errors
from fintune_xr.pipelines.classification.leaderboard import write_leaderboard
from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.pipelines.task_parts.run_exports import TABLES
from fintune_xr.pipelines.task_parts.tile_exports import OF_IMAGES, OF_TABLES
from fintune_xr.store.cohort import Cohort


def _tables(cohort: Cohort, request: ExportRequest) -> list[Path]:
    request.out.mkdir(parents=True, exist_ok=True)
    of_runs = TABLES.write(cohort, request) if cohort.run_names() else []
    return [*of_runs, write_errors(request.out / "data_errors.csv", quarantine_list(cohort))]


EXPORTS: Final[Mapping[str, Export]] = {
    "tables": Export("`tiles.tsv` of each run, and `data_errors.csv` of what was left out", _tables),
    "leaderboard": Export("runs beside each other, as a table and as figures", write_leaderboard),
    "artefacts": Export("predictions, head, settings and manifest of each run", write_artefacts),
    **OF_IMAGES,
    **OF_TABLES,
}
