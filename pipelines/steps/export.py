"""Masks, tables and training folders for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import ExportRequest
from fintune_xr.pipelines.tasks import STEPS, steps_of
from fintune_xr.store.cohort import open_cohort
from fintune_xr.store.labels.measurements import left_out_columns
from fintune_xr.store.raw.coordinates import Frame


def export(
    store: str | Path,
    *,
    to: str,
    out: str | Path,
    runs: Sequence[str] = (),
    donors: Sequence[str] = (),
    tiles: Sequence[str] = (),
    frame: Frame | None = None,
    pixel_size_a: float | None = None,
) -> list[Path]:
    """Paths of the files written under `out/<run>/`, for each of `runs` (all by default), or under `out`.

    `masks`: one `<tile>_pred.tif` per done tile. `tables`: `cells.parquet` and `tiles.tsv`. `cellpose`: the
    annotated tiles in `train_cells`, `val_cells` and `test_cells`, which belong to no run. `star`, `relion`,
    `box`, `csv`: the picks of each run in px of the micrographs' files; `frame` and `pixel_size_a` as in
    `write_particles`. Formats for other tools (docs/how-to/exchange.md) are also written of `donors` and `tiles` alone.

    Raises UnknownNameError for a run, donor, tile or kind that does not exist, FintuneValueError where there is no run
    or where runs, donors or tiles make no sense, SplitError for `cellpose` without a valid split.
    """
    cohort = open_cohort(store).opened_once()
    tasks = [task for task, steps in STEPS.items() if to in steps.exports()]
    if not tasks:
        raise unknown_name("kind of export", to, known_formats())
    cohort.require(f"export --to {to}", tasks=tasks)
    chosen = steps_of(cohort).exports()[to]
    if (donors or tiles) and not chosen.of_tiles:
        raise FintuneValueError(f"--to {to} is written of all tiles; leave --donor and --tile out")
    request = ExportRequest(
        to=to, out=Path(out), runs=tuple(runs), donors=tuple(donors), tiles=tuple(tiles), frame=frame,
        pixel_size_a=pixel_size_a,
    )  # fmt: skip
    for run in request.runs or cohort.names_under(n.MEASUREMENTS):
        for told in left_out_columns(cohort.location, run):
            say(f"export: run {run} is written without {told}. Measure it anew: fintune-xr measure")
    return chosen.write(cohort, request)


def known_formats() -> tuple[str, ...]:
    """Names of all formats that cohorts of some task are written in."""
    return tuple(dict.fromkeys(name for steps in STEPS.values() for name in steps.exports()))
