"""What is wrong with a store: one fault, where it is, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import StoreDamagedError, StoreUnreachableError, UnreadableFileError
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.zarr_io.location import BARE, explain_read_errors
from fintune_xr.tasks.cell_measures import cell_measure, is_measured

_UNREAD: Final = (
    "`--repair` leaves it as it is. See `dmesg`, or ask after the file server, and check again. If that file is lost, "
    "remove it, and check says what to do"
)
WRITTEN_AGAIN: Final = "Run the step that writes it again"

Fault: TypeAlias = tuple[str, str, str]
"""Group, what is wrong with it, and what to do."""
TileFault: TypeAlias = tuple[str, str, str, tuple[int, ...]]
"""Group, what is wrong with it, what to do, and the tiles that are hit."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: the array or group, what is wrong with it, what to do, and the tiles that are hit."""

    where: str
    what: str
    remedy: str
    tiles: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.what.removesuffix('.')}. {self.remedy}"


def first_few(what: Sequence[Any], most: int = 5) -> str:
    """The first names or numbers of `what`, and how many more there are."""
    more = f" and {len(what) - most} more" if len(what) > most else ""
    return ", ".join(map(str, what[:most])) + more


def remedy_of(path: str) -> str:
    """What to do about a fault of the array or group `path`."""
    if path.startswith(f"{n.MEASUREMENTS}/"):
        _, run, *column = path.split("/")
        asked = f" --columns {cell_measure(column[0]).name}" if column and is_measured(column[0]) else ""
        return f"Set it back with `fintune-xr check --repair`, then `fintune-xr measure --run {run}{asked}`"
    run = path.split("/")[1] if path.startswith((f"{n.RUNS}/", f"{n.CELLS}/")) else ""
    if run and (path.startswith(n.CELLS) or path.rpartition("/")[2] in (n.TILE, n.CHANNEL)):
        return f"Make it again: `fintune-xr infer --run {run} --model MODEL --restart`"
    if run:
        return f"Set the tiles back with `fintune-xr check --repair`, then `fintune-xr infer --run {run}`"
    if path.startswith(n.IMAGES):
        return "Ingest the raw files into a new store; results of this one cannot be trusted for these tiles"
    return WRITTEN_AGAIN


@contextlib.contextmanager
def explain_faults(cohort: Cohort, what: str) -> Iterator[None]:
    """Lets a check go on after one file that its disk cannot give: it is an UnreadableFileError, damage an error as
    `explain_read_errors` words it, and a store that does not answer around the file a StoreUnreachableError.
    """
    try:
        with explain_read_errors(what, BARE):
            yield
    except UnreadableFileError as error:
        if cohort.location.answers():
            raise
        raise StoreUnreachableError(str(error)) from error


def problem_of(error: Exception, where: str, path: str, said: str = "", tiles: Sequence[int] = ()) -> Problem:
    """The fault `where`, of the array or group `path`, that `error` tells of: `said`, and the error.

    `tiles` may be set back where they are damaged. Of a file that its disk cannot give nobody knows whether they are:
    none is, before somebody has taken it away.
    """
    before = f"{said}: " if said else ""
    if isinstance(error, UnreadableFileError):
        return Problem(where, before + error.fault, _UNREAD)
    return Problem(where, f"{before}{error}", remedy_of(path), tuple(tiles))


def array_at(cohort: Cohort, path: str) -> zarr.Array[Any]:
    """The array under `path`, as plain zarr reads it. Raises StoreDamagedError where it cannot be opened."""
    with explain_read_errors(f"{cohort.url}/{path}", BARE):
        return cohort.location.array(path)


def values_at(array: zarr.Array[Any] | xr.Variable, place: Any) -> NDArray[Any] | None:
    """What an array holds at `place`, None where that does not decode: the check of chunks names it.

    Raises StoreUnreachableError where storage does not answer, of which no check says anything.
    """
    try:
        with explain_read_errors(f"what lies at {place}", BARE):
            return np.asarray(array[place])
    except StoreDamagedError:
        return None
