"""Masks, tables and training folders for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.export.cellpose import write_training_folders
from fintune_xr.store.export.masks import write_masks
from fintune_xr.store.export.picks import PARTICLE_FORMATS, write_particles
from fintune_xr.store.export.tables import write_cells, write_tiles
from fintune_xr.store.raw.coordinates import Frame
from fintune_xr.store.runs.picks import picked_names
from fintune_xr.store.runs.writer import require_known_run
from fintune_xr.store.split import require_split
from fintune_xr.tasks.product import PROBABILITIES
from fintune_xr.tasks.task import DETECTION, INSTANCE

MASKS = "masks"
OF_A_RUN = (MASKS, "tables")
CELLPOSE = "cellpose"
KINDS = (*OF_A_RUN, CELLPOSE, *PARTICLE_FORMATS)


def export(
    store: str | Path,
    *,
    to: str,
    out: str | Path,
    runs: Sequence[str] = (),
    frame: Frame | None = None,
    pixel_size_a: float | None = None,
) -> list[Path]:
    """Paths of the files written under `out/<run>/`, for each of `runs` (all by default), or under `out`.

    `masks`: one `<tile>_pred.tif` per done tile. `tables`: `cells.parquet` and `tiles.tsv`. `cellpose`: the
    annotated tiles in `train_cells`, `val_cells` and `test_cells`, which belong to no run. `star`, `relion`,
    `box`, `csv`: the picks of each run in px of the micrographs' files; `frame` and `pixel_size_a` as in
    `write_particles`.

    Raises UnknownNameError for a run or kind that does not exist, FintuneValueError where there is no run or
    where runs make no sense, SplitError for `cellpose` without a valid split.
    """
    cohort = open_cohort(store)
    if to not in KINDS:
        raise unknown_name("kind of export", to, KINDS)
    if to == CELLPOSE:
        cohort.require(f"export --to {to}", tasks=(INSTANCE,))
        return _cellpose(cohort, Path(out), runs)
    if to in PARTICLE_FORMATS:
        cohort.require(f"export --to {to}", tasks=(DETECTION,))
        return _particles(cohort, Path(out), runs, to=to, frame=frame, pixel_size_a=pixel_size_a)
    names = list(runs) or cohort.run_names()
    if not names:
        raise FintuneValueError(
            f"{cohort.url} has no run to export. Run: fintune-xr infer {cohort.url} --run R --model M"
        )
    require_known_run(cohort, names)
    if to == MASKS:
        _require_masks(cohort, names)
    write = write_masks if to == MASKS else _tables
    return [path for name in names for path in write(cohort, name, Path(out) / name)]


def _require_masks(cohort: Cohort, names: Sequence[str]) -> None:
    maps = [name for name in names if cohort.run_product(name) is PROBABILITIES]
    if maps:
        raise FintuneValueError(
            f"run {maps[0]!r} holds maps of probability and no masks. Export its picks: --to star, relion, box or csv."
        )


def _cellpose(cohort: Cohort, out: Path, runs: Sequence[str]) -> list[Path]:
    if runs:
        raise FintuneValueError(
            f"--to {CELLPOSE} writes annotated tiles, which belong to no run; leave out --run {' '.join(runs)}"
        )
    require_split(cohort)
    return list(write_training_folders(cohort, out))


def _particles(cohort: Cohort, out: Path, runs: Sequence[str], **how: Any) -> list[Path]:
    names = list(runs) or picked_names(cohort)
    if not names:
        raise FintuneValueError(f"{cohort.url} has no picks to export. Run: fintune-xr pick {cohort.url} --run R")
    return [path for name in names for path in write_particles(cohort, name, out / name, **how)]


def _tables(cohort: Cohort, run: str, folder: Path) -> Iterator[Path]:
    if cohort.has(f"{n.CELLS}/{run}"):
        yield write_cells(cohort, run, folder / "cells.parquet")
    yield write_tiles(cohort, run, folder / "tiles.tsv")
