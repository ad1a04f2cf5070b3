"""Masks, tables and training folders for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, StoreWriteError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import ExportRequest
from fintune_xr.pipelines.tasks import STEPS, steps_of
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.measurements import left_out_columns
from fintune_xr.store.raw.coordinates import Frame

_COPIED: Final = "copied to a system that does not tell upper from lower case (macOS, Windows), one replaces the other"


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
    or where runs, donors or tiles make no sense, or `out` lies in the store, SplitError for `cellpose` without a valid
    split, StoreWriteError where names of tiles are one name to the system of `out`.
    """
    cohort = open_cohort(store).opened_once()
    tasks = [task for task, steps in STEPS.items() if to in steps.exports()]
    if not tasks:
        raise unknown_name("kind of export", to, known_formats())
    cohort.require(f"export --to {to}", tasks=tasks)
    _refuse_inside(cohort, Path(out))
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
    paths = chosen.write(cohort, request)
    for line in _names_alike(paths):
        say(f"export: {line}")
    return paths


def _refuse_inside(cohort: Cohort, out: Path) -> None:
    """Raises FintuneValueError for a folder in the store, which holds nothing but its arrays."""
    if cohort.location.is_local and out.resolve().is_relative_to(cohort.location.path.resolve()):
        raise FintuneValueError(f"--out {out} lies in the store {cohort.url}. Name a folder beside it.")


def _names_alike(paths: Sequence[Path]) -> list[str]:
    """A line on paths that differ in upper and lower case alone.

    Raises StoreWriteError where their system takes them for one, so that the last has replaced the others.
    """
    alike = _spelt_alike(paths)
    if not alike:
        return []
    one, other, *_ = alike[0]
    if one.samefile(other):
        raise StoreWriteError(
            f"{one} and {other} are one file to this system, which does not tell upper from lower case: of "
            f"{len(alike)} such name(s) the last tile alone is there. Write to a system that tells them apart."
        )
    return [f"{len(alike)} name(s) are there in several spellings, {one.name} and {other.name} among them: {_COPIED}"]


def _spelt_alike(paths: Sequence[Path]) -> list[list[Path]]:
    """Paths that are one without upper and lower case."""
    spelt: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths):
        spelt.setdefault(str(path).casefold(), []).append(path)
    return [found for found in spelt.values() if len(found) > 1]


def known_formats() -> tuple[str, ...]:
    """Names of all formats that cohorts of some task are written in."""
    return tuple(dict.fromkeys(name for steps in STEPS.values() for name in steps.exports()))
