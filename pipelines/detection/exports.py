"""Formats that picks are written in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.pipelines.task_parts.run_exports import OF_RUNS
from fintune_xr.pipelines.task_parts.tile_exports import OF_IMAGES
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.picks import PARTICLE_FORMATS, write_particles
from fintune_xr.store.runs.picks import picked_names


def _picks(cohort: Cohort, request: ExportRequest) -> list[Path]:
    names = list(request.runs) or picked_names(cohort)
    if not names:
        raise FintuneValueError(f"{cohort.url} has no picks to export. Run: fintune-xr pick {cohort.url} --run R")
    return [path for name in names for path in _picks_of_run(cohort, name, request)]


def _picks_of_run(cohort: Cohort, run: str, request: ExportRequest) -> Iterator[Path]:
    yield from write_particles(
        cohort, run, request.out / run, to=request.to, frame=request.frame, pixel_size_a=request.pixel_size_a
    )


EXPORTS: Final[Mapping[str, Export]] = {
    **OF_RUNS,
    **{name: Export("the picks of each run in px of the micrographs' files", _picks) for name in PARTICLE_FORMATS},
    **OF_IMAGES,
}
