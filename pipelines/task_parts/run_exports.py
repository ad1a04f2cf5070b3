"""Formats of runs that any task may have: their masks, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError
from fintune_xr.pipelines.task_parts.requests import Export, ExportRequest
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.export.masks import write_masks
from fintune_xr.store.export.tables import write_cells, write_tiles
from fintune_xr.store.runs.run import require_known_run

Write = Callable[[Cohort, str, Path], Iterator[Path]]


def of_runs(cohort: Cohort, request: ExportRequest, write: Write) -> list[Path]:
    """What `write` writes of each run that is asked for, into a folder of its name.

    Raises FintuneValueError where there is no run, UnknownNameError for one that does not exist.
    """
    names = list(request.runs) or cohort.run_names()
    if not names:
        raise FintuneValueError(
            f"{cohort.url} has no run to export. Run: fintune-xr infer {cohort.url} --run R --model M"
        )
    require_known_run(cohort, names)
    return [path for name in names for path in write(cohort, name, request.out / name)]


def _masks(cohort: Cohort, request: ExportRequest) -> list[Path]:
    for name in request.runs or cohort.run_names():
        if name in cohort.run_names() and cohort.run_product(name).array != n.MASK:
            raise FintuneValueError(
                f"run {name!r} holds maps of probability and no masks. Export its picks: --to star, relion, box or csv."
            )
    return of_runs(cohort, request, write_masks)


def _tables(cohort: Cohort, request: ExportRequest) -> list[Path]:
    return of_runs(cohort, request, _tables_of_run)


def _tables_of_run(cohort: Cohort, run: str, folder: Path) -> Iterator[Path]:
    if cohort.has(f"{n.CELLS}/{run}"):
        yield write_cells(cohort, run, folder / "cells.parquet")
    yield write_tiles(cohort, run, folder / "tiles.tsv")


MASKS: Final = Export("one `<tile>_pred.tif` per done tile of each run", _masks)
TABLES: Final = Export("`cells.parquet` and `tiles.tsv` of each run", _tables)
OF_RUNS: Final[Mapping[str, Export]] = {"masks": MASKS, "tables": TABLES}
