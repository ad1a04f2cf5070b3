"""What a worker does with a block of rows of the table of cells: read their masks, measure them, store the values."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneError, FintuneValueError, StoreDamagedError
from fintune_xr.pixels.cell_shapes import measure_shapes
from fintune_xr.store.cohort import Location
from fintune_xr.store.runs.mask_run import MaskRun, open_mask_run
from fintune_xr.store.runs.measurement_writer import CellBlock, write_measured
from fintune_xr.tasks.cell_measures import REGION_MEASURE, CellMeasure, cell_measure

_OPENING = threading.Lock()


@dataclass(frozen=True, slots=True)
class MeasureContext:
    """What every block of a measurement needs; `creations` is what its columns are written with."""

    location: Location
    run: str
    creations: Mapping[str, str] = field(hash=False)


def measure_block(block: CellBlock, context: MeasureContext) -> CellBlock:
    """The block itself, once the values of its columns are durable on disk.

    Raises StoreDamagedError where masks and the table of cells disagree, FintuneValueError where a tile cannot be
    measured; the message names it.
    """
    measures = [cell_measure(column) for column in block.columns]
    creation = "".join(context.creations.values())
    names = (context.run, *sorted({one.to for one in measures if one.to}))
    # Threads that begin together would each open them.
    with _OPENING:
        runs = {name: _opened(context.location, name, creation) for name in names}
    tile_index, label = runs[context.run].rows(slice(block.first, block.last))
    first = np.flatnonzero(np.diff(tile_index, prepend=-1))
    parts = []
    for start, stop in zip(first, [*first[1:], tile_index.size], strict=True):
        with _naming_tile(int(tile_index[start]), context):
            parts.append(_measured(runs, context.run, int(tile_index[start]), label[start:stop], measures))
    values = {name: np.concatenate([part[name] for part in parts]) for name in block.columns}
    write_measured(context.location, context.run, block, values, context.creations)
    return block


def _measured(
    runs: Mapping[str, MaskRun], run: str, tile: int, label: NDArray[np.uint32], measures: Sequence[CellMeasure]
) -> dict[str, NDArray[np.float32]]:
    others = {name: one.mask(tile) for name, one in runs.items()}
    has_regions = any(one is REGION_MEASURE for one in measures)
    regions = runs[run].regions(tile) if has_regions else None
    return measure_shapes(others[run], runs[run].image(tile), label, measures, others, regions)


@contextlib.contextmanager
def _naming_tile(tile: int, context: MeasureContext) -> Iterator[None]:
    """Says of which tile an error is."""
    where = f"tile {tile} of run {context.run!r} of {context.location.url}"
    try:
        yield
    except FintuneValueError as error:
        raise StoreDamagedError(f"{where}: {error}. Look with `fintune-xr check`.") from error
    except (FintuneError, MemoryError):
        raise
    except Exception as error:
        raise FintuneValueError(
            f"{where} cannot be measured: {type(error).__name__}: {error}. What was committed stays; name other "
            "--columns, or mend the mask."
        ) from error


@functools.lru_cache(maxsize=8)
def _opened(location: Location, run: str, creation: str) -> MaskRun:  # noqa: ARG001 - told apart by it
    """The run as it was opened last in this process for columns made at this time."""
    return open_mask_run(location, run)
