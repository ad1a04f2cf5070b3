"""The cells that a run counts, held against annotated tiles that its model has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.metrics.counts import IOU
from fintune_xr.metrics.instance import match_masks
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.provenance import provenance
from fintune_xr.store.annotations.instance import stored_marks
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.depends_on import rests_on
from fintune_xr.store.lineage.tile_counts import inputs_digest
from fintune_xr.store.lineage.training_exposure import unseen_tiles
from fintune_xr.store.split import annotated_tiles
from fintune_xr.tasks.instance import POSITIVITY
from fintune_xr.tasks.validation import ALL_CELLS, VALIDATION
from fintune_xr.text import texts

_UNKNOWN: Final = -1
_COUNTS: Final = (n.N_ALL, n.N_POSITIVE, n.TRUE_ALL, n.TRUE_POSITIVE, n.TP, n.FP, n.FN)


def validate_rules(cohort: Cohort, run: str) -> xr.Dataset | None:
    """Counts (rule, tile) of a run beside those of annotated tiles, stored under `validation/<run>`.

    Made anew where runs, rules or annotations are others than they were. None where nobody has said what the masks
    outline, or no annotated tile is new to the run's model.
    """
    marks = stored_marks(cohort)
    tiles = _tiles(cohort, run) if marks else []
    if not tiles:
        return None
    path = f"{n.VALIDATION}/{run}"
    basis = validation_basis(cohort, run, tiles)
    if cohort.has(path):
        stored = cohort.read(path, VALIDATION).load()
        if stored.attrs[n.RESTS_ON] == basis:
            return stored
    found = _counted(cohort, run, tiles, marks)
    facts = {n.MARKS: marks, n.RESTS_ON: basis, n.PROVENANCE: provenance(run=run, marks=marks)}
    cohort.write(path, found.assign_attrs(facts), VALIDATION)
    return cohort.read(path, VALIDATION).load()


def stored_validation(cohort: Cohort, run: str) -> xr.Dataset | None:
    """The stored counts where they are those of the store as it is now; None elsewhere."""
    path = f"{n.VALIDATION}/{run}"
    if not cohort.has(path) or not stored_marks(cohort):
        return None
    stored = cohort.read(path, VALIDATION).load()
    now = validation_basis(cohort, run, _tiles(cohort, run))
    return stored if stored.attrs[n.RESTS_ON] == now else None


def validation_basis(cohort: Cohort, run: str, tiles: list[str]) -> dict[str, Any]:
    """What such counts rest on: the run, annotations of `tiles`, what these outline, and the counts of the rules."""
    counts = cohort.read(f"{n.POSITIVITY}/{run}", POSITIVITY)[[n.N_ALL, n.N_POSITIVE, n.THRESHOLD]].load()
    told = {n.MARKS: stored_marks(cohort), n.COUNTED: inputs_digest(counts), "tiles": tiles}
    return {**rests_on(cohort, runs=[run], tiles=tiles, split=""), **told}


def _tiles(cohort: Cohort, run: str) -> list[str]:
    """Annotated tiles that the run is done with and that its model has neither learned from nor been chosen by."""
    stored = cohort.run(run, lazy=False)
    done = {tile for tile, state in zip(texts(stored[n.TILE]), stored[n.STATE].values, strict=True) if state == n.DONE}
    return [tile for tile in unseen_tiles(cohort, run, texts(annotated_tiles(cohort)[n.TILE])) if tile in done]


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """One annotated tile: its image (channel, y, x), both masks (y, x), and the signal of the run's cells by label."""

    image: NDArray[Any]
    true: NDArray[Any]
    found: NDArray[Any]
    label: NDArray[Any]
    signal: NDArray[np.float32]
    marker: int


def _counted(cohort: Cohort, run: str, tiles: list[str], marks: str) -> xr.Dataset:
    images, counts = cohort.images(lazy=False), cohort.read(f"{n.POSITIVITY}/{run}", POSITIVITY).load()
    rules, place = texts(counts[n.RULE]), {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    found = np.full((len(_COUNTS), len(rules), len(tiles)), _UNKNOWN, np.int64)
    for column, tile in enumerate(_read(cohort, run, [place[name] for name in tiles])):
        for row in range(len(rules)):
            one = counts.isel({n.RULE: row, n.TILE: place[tiles[column]]})
            found[:, row, column] = _of_rule(tile, one, marks)
    rows = [place[tile] for tile in tiles]
    labels = {name: (n.TILE, np.array(texts(images[name]))[rows]) for name in (n.DONOR, n.MARKER)}
    parts = {name: ((n.RULE, n.TILE), found[at], VALIDATION[name].attrs) for at, name in enumerate(_COUNTS)}
    return xr.Dataset(parts, coords={n.RULE: rules, n.TILE: tiles, **labels})


def _of_rule(tile: _Tile, counts: xr.Dataset, marks: str) -> list[int]:
    """The counts of one tile under one rule, in the order of _COUNTS."""
    n_all, n_positive, limit = int(counts[n.N_ALL]), int(counts[n.N_POSITIVE]), float(counts[n.THRESHOLD])
    if n_all < 0 or n_positive < 0:
        return [_UNKNOWN] * len(_COUNTS)
    if marks == ALL_CELLS:
        cells = measure_cells(tile.true, tile.image)
        signal = cells.mean_intensity[:, tile.marker] - cells.background[tile.marker]
        positive = _UNKNOWN if np.isnan(limit) else int((signal > limit).sum())
        return [n_all, n_positive, cells.n_cells, positive, *[_UNKNOWN] * 3]
    annotated = int(np.unique(tile.true[tile.true > 0]).size)
    matched = [_UNKNOWN] * 3 if np.isnan(limit) else _matched(tile, limit)
    return [n_all, n_positive, n_all, annotated, *matched]


def _matched(tile: _Tile, limit: float) -> list[int]:
    """tp, fp, fn of the run's positive cells against the annotated ones, at IoU 0.5."""
    called = np.where(np.isin(tile.found, tile.label[tile.signal > limit]), tile.found, 0)
    counts = match_masks(tile.true, called, thresholds=(IOU,))
    return [int(counts.tp[0]), int(counts.fp[0]), int(counts.fn[0])]


def _read(cohort: Cohort, run: str, rows: list[int]) -> Iterator[_Tile]:
    """The tiles at these positions, one in memory at a time."""
    images, stored = cohort.images(lazy=False), cohort.run(run, lazy=False)
    truth, cells = cohort.annotations(lazy=False), cohort.cells(run, lazy=False)
    marker = texts(images[n.CHANNEL]).index(n.MARKER_CHANNEL)
    first = np.concatenate([[0], np.cumsum(np.maximum(stored[n.N_CELLS].values, 0))])
    place = {tile: at for at, tile in enumerate(texts(truth[n.TILE]))}
    names = texts(images[n.TILE])
    for at in rows:
        image = tile_pixels(images, at)
        high, wide = image.shape[1:]
        own = cells.isel({n.CELL: slice(int(first[at]), int(first[at + 1]))}).load()
        signal = own[n.MEAN_INTENSITY].values[:, marker] - stored[n.BACKGROUND].values[at, marker]
        true = truth[n.MASK].isel({n.TILE: place[names[at]]}).values[:high, :wide]
        yield _Tile(image, true, tile_pixels(stored, at, n.MASK), own[n.LABEL].values, signal, marker)
