"""Candidates and picks of a run: what a picker found in every micrograph, and which of it counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, StoreDamagedError, unknown_name
from fintune_xr.pixels.peaks import Peaks
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.groups import subgroups
from fintune_xr.tasks.detection import CANDIDATES, PICKS
from fintune_xr.tasks.product import PROBABILITIES

CANDIDATES_SHA256: Final = "candidates_sha256"


def picker_names(cohort: Cohort) -> list[str]:
    """Runs and pickers of the store that have candidates, sorted."""
    runs = [run for run in cohort.run_names() if cohort.run_product(run) is PROBABILITIES]
    return sorted({*runs, *subgroups(cohort.location, n.CANDIDATES)})


def picked_names(cohort: Cohort) -> list[str]:
    """Runs and pickers whose picks are stored, sorted."""
    return subgroups(cohort.location, n.PICKS)


def open_candidates(cohort: Cohort, run: str) -> xr.Dataset:
    """All candidates of a run, or of a picker that is none, ordered by tile and falling score; in memory.

    Raises UnknownNameError for a name that has none, StoreNotFoundError while the run has not come to its end.
    """
    if run not in picker_names(cohort):
        raise unknown_name("run with candidates", run, picker_names(cohort))
    if run in cohort.run_names():
        return cohort.cells(run, lazy=False).load()
    return cohort.read(f"{n.CANDIDATES}/{run}", CANDIDATES).load()


def write_candidates(cohort: Cohort, run: str, found: Iterable[Peaks], *, facts: Mapping[str, Any]) -> None:
    """Stores the candidates of every tile, in order of tiles, of a picker that is no run."""
    peaks = list(found)
    counts = [len(one) for one in peaks]
    columns: dict[str, NDArray[Any]] = {
        n.TILE_INDEX: np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        n.LABEL: np.concatenate([np.empty(0, np.uint32), *(np.arange(1, c + 1, dtype=np.uint32) for c in counts)]),
        n.CENTROID_Y: np.concatenate([np.empty(0, np.float32), *(one.y for one in peaks)]),
        n.CENTROID_X: np.concatenate([np.empty(0, np.float32), *(one.x for one in peaks)]),
        n.SCORE: np.concatenate([np.empty(0, np.float32), *(one.score for one in peaks)]),
    }
    table = _table(columns, n.CELL, CANDIDATES.variables).assign_attrs({**facts, n.N_TILES: len(peaks)})
    cohort.write(f"{n.CANDIDATES}/{run}", table, CANDIDATES)


def peaks_of(candidates: xr.Dataset, tile: int) -> Peaks:
    """Candidates of the tile at this position along `images.tile`, the highest score first."""
    rows = _rows(candidates[n.TILE_INDEX].values, tile)
    return Peaks(*(candidates[name].values[rows] for name in (n.CENTROID_Y, n.CENTROID_X, n.SCORE)))


def picks_of(picks: xr.Dataset, tile: int) -> Peaks:
    """Picks of the tile at this position along `images.tile`, the highest score first."""
    rows = _rows(picks[n.TILE_INDEX].values, tile)
    return Peaks(*(picks[name].values[rows] for name in (n.Y, n.X, n.SCORE)))


def candidates_digest(candidates: xr.Dataset) -> str:
    """SHA-256 of what picks are made of; another one as soon as a run has other candidates."""
    whole = hashlib.sha256()
    for name in (n.TILE_INDEX, n.CENTROID_Y, n.CENTROID_X, n.SCORE):
        whole.update(np.ascontiguousarray(candidates[name].values).tobytes())
    return whole.hexdigest()


def picks_table(kept: xr.Dataset) -> xr.Dataset:
    """Picks (pick,) made of the rows of candidates that count."""
    columns = {
        n.TILE_INDEX: kept[n.TILE_INDEX].values, n.Y: kept[n.CENTROID_Y].values,
        n.X: kept[n.CENTROID_X].values, n.SCORE: kept[n.SCORE].values,
    }  # fmt: skip
    return _table(columns, n.PICK, PICKS.variables)


def open_picks(cohort: Cohort, run: str) -> xr.Dataset:
    """Picks of a run, in memory, with the threshold and how it was chosen as attributes.

    Raises UnknownNameError where there are none, FintuneValueError where the run has other candidates by now.
    """
    known = picked_names(cohort)
    if run not in known:
        raise unknown_name("picks of a run", run, known, f"Make them: fintune-xr pick {cohort.url} --run {run}")
    found = cohort.read(f"{n.PICKS}/{run}", PICKS).load()
    reason = stale_reason(cohort, run, found)
    if reason:
        raise FintuneValueError(f"{cohort.url}: {reason}. Pick again: fintune-xr pick {cohort.url} --run {run}")
    return found


def stale_reason(cohort: Cohort, run: str, picks: xr.Dataset) -> str:
    """Why `picks` are not those of the run as it is now, or an empty string."""
    if run not in picker_names(cohort):
        return f"picks of {run!r} are left, the run is gone"
    if run in cohort.run_names() and not cohort.has(f"{n.CELLS}/{run}"):
        return f"run {run!r} is being made anew"
    if candidates_digest(open_candidates(cohort, run)) != picks.attrs.get(CANDIDATES_SHA256):
        return f"picks of {run!r} were made of other candidates than the run has now"
    return ""


def _rows(index: NDArray[np.int32], tile: int) -> slice:
    if index.size and np.any(np.diff(index) < 0):
        raise StoreDamagedError("a table of candidates is not in order of tiles. Make it again.")
    first, last = np.searchsorted(index, [tile, tile + 1])
    return slice(int(first), int(last))


def _table(columns: Mapping[str, NDArray[Any]], dim: str, specs: Mapping[str, Any]) -> xr.Dataset:
    return xr.Dataset({name: ((dim,), values, specs[name].attrs) for name, values in columns.items()})
