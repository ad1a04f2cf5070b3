"""How every tile was taken, which are unusual, and which a stored rule leaves out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.quality import ALL_MEASURES, batch_scale, measured_tiles, reasons, rule_text, unusual
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import progress, say
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pixels.tile_quality import MEASURES
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import run_digests
from fintune_xr.store.lineage.tile_counts import require_finished
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import text_array, texts
from fintune_xr.text_tables import read_text_table

TILES_AT_ONCE: Final = 64
SECONDS_BETWEEN_COMMITS: Final = 30.0
INCLUDE: Final = "nothing"
"""Given in place of measures, it takes the stored rule back."""


@gives_named_labels
def qc(
    store: str | Path,
    *,
    run: str = "",
    batches: str | Path | None = None,
    exclude: Sequence[str] = (),
    restart: bool = False,
) -> xr.Dataset:
    """Intensity, background, focus, saturation (tile, channel) and cell size (tile), stored under `qc`.

    Tiles are measured once, and again where their files are others; what was measured before a kill stays. `run` gives
    the sizes of cells. `batches` is a table with a column `batch` and one of `tile` or `donor`; both stay until others
    are named. `exclude` names measures: tiles that are unusual by them are left out of ratios from then on, until
    another rule is given, or `nothing`, which takes it back. `restart` measures all tiles anew.

    Raises UnknownNameError for a run or a measure, FintuneValueError for a table without those columns, or that names
    donors or tiles of another cohort alone; RunBusyError where another process measures.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("qc")
    _check_measures(exclude)
    if run:
        cohort.require_run(run)
    with cohort.hold(n.QC, what="measuring tiles"):
        stored = cohort.read(n.QC, QUALITY).load() if cohort.has(n.QC) else None
        measured = _measured(cohort, None if restart else stored)
        told = _told(cohort, stored, run=run, batches=batches, exclude=exclude)
        result = _judged(cohort, measured, told)
        cohort.write(n.QC, result, QUALITY)
    return cohort.read(n.QC, QUALITY)


def drift_table(store: str | Path, quality: xr.Dataset) -> pd.DataFrame:
    """Rows level, marker, channel, measure, unit, value, usual, z of unusual batches, donors and tiles."""
    labelled = labelled_quality(open_cohort(store), quality)
    parts = [unusual(labelled, level).assign(level=level) for level in (n.BATCH, n.DONOR, n.TILE)]
    found = pd.concat(parts, ignore_index=True)
    return found[["level", *found.columns.drop("level")]]


def left_out_line(quality: xr.Dataset) -> str:
    """How many tiles are unusual, and which rule leaves how many out."""
    n_odd = sum(bool(text) for text in texts(quality[n.REASON]))
    told = f"{n_odd} of {quality.sizes[n.TILE]} tiles are unusual; "
    rule = quality.attrs[n.EXCLUDED]
    if not rule:
        return f"{told}no rule leaves any out of ratios"
    return f"{told}{rule['n_tiles']} are left out of ratios: {rule['text']}. Take it back: --exclude {INCLUDE}"


def _check_measures(exclude: Sequence[str]) -> None:
    for name in exclude:
        if name not in (*ALL_MEASURES, INCLUDE):
            raise unknown_name("measure of tiles", name, (*ALL_MEASURES, INCLUDE))
    if INCLUDE in exclude and len(exclude) > 1:
        raise FintuneValueError(f"--exclude {INCLUDE} takes the rule back and stands alone, got {', '.join(exclude)}")


def labelled_quality(cohort: Cohort, quality: xr.Dataset) -> xr.Dataset:
    """`quality` with donor and marker of its tiles."""
    images = cohort.images(lazy=False)
    place = {tile: at for at, tile in enumerate(texts(images[n.TILE]))}
    rows = [place[tile] for tile in texts(quality[n.TILE])]
    return quality.assign_coords({name: (n.TILE, text_array(images[name])[rows]) for name in (n.DONOR, n.MARKER)})


def _measured(cohort: Cohort, stored: xr.Dataset | None) -> xr.Dataset:
    """The measures (tile, channel) of all tiles of the cohort; what is measured now is committed as it comes."""
    images = cohort.images()
    digests = _digests(images)
    values = {name: np.full((digests.size, images.sizes[n.CHANNEL]), np.nan) for name in MEASURES}
    known = np.zeros(digests.size, bool)
    if stored is not None:
        known = _taken_over(values, stored, texts(images[n.TILE]), digests)
    whole = _blank(images, digests)
    todo = np.flatnonzero(~known)
    said = time.monotonic()
    with progress("qc", todo.size) as advance:
        for rows in _blocks(todo):
            found = measured_tiles(images.isel({n.TILE: rows})).compute()
            for name, array in values.items():
                array[rows] = found[name].values
            known[rows] = True
            advance(rows.size)
            if time.monotonic() - said > SECONDS_BETWEEN_COMMITS:
                said = time.monotonic()
                done = _with(whole, values).isel({n.TILE: np.flatnonzero(known)})
                cohort.write(n.QC, done.assign_attrs({} if stored is None else stored.attrs), QUALITY)
    return _with(whole, values)


def _blocks(todo: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    yield from (todo[first : first + TILES_AT_ONCE] for first in range(0, todo.size, TILES_AT_ONCE))


def _digests(images: xr.Dataset) -> NDArray[np.str_]:
    files = text_array_2d(images[n.SHA256])
    return np.array([hashlib.sha256("\n".join(row).encode()).hexdigest()[:16] for row in files], np.str_)


def text_array_2d(labels: xr.DataArray) -> list[list[str]]:
    """Rows of a two-dimensional label array as Python strings."""
    return [[str(value) for value in row] for row in labels.values.tolist()]


def _taken_over(
    values: dict[str, NDArray[np.float64]], stored: xr.Dataset, tiles: list[str], digests: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Puts what is stored of the same files into `values`; returns which tiles that are."""
    place = {pair: at for at, pair in enumerate(zip(texts(stored[n.TILE]), texts(stored[n.DIGEST]), strict=True))}
    rows = np.array([place.get(pair, -1) for pair in zip(tiles, digests.tolist(), strict=True)], np.int64)
    known = rows >= 0
    for name, array in values.items():
        array[known] = stored[name].values[rows[known]]
    return known


def _blank(images: xr.Dataset, digests: NDArray[np.str_]) -> xr.Dataset:
    """A dataset of QUALITY in which nothing is measured, nothing unusual and nothing left out."""
    tiles, channels = texts(images[n.TILE]), texts(images[n.CHANNEL])
    plane = (len(tiles), len(channels))
    return xr.Dataset(
        {
            **{name: ((n.TILE, n.CHANNEL), np.full(plane, np.nan), QUALITY[name].attrs) for name in MEASURES},
            n.CELL_SIZE_PX: (n.TILE, np.full(len(tiles), np.nan), QUALITY[n.CELL_SIZE_PX].attrs),
            n.EXCLUDED: (n.TILE, np.zeros(len(tiles), bool), QUALITY[n.EXCLUDED].attrs),
            n.REASON: (n.TILE, np.full(len(tiles), "", object), QUALITY[n.REASON].attrs),
        },
        coords={
            n.TILE: tiles,
            n.CHANNEL: channels,
            n.BATCH: (n.TILE, np.full(len(tiles), "", object)),
            n.DIGEST: (n.TILE, digests.astype(object)),
            n.SCALE: ((n.TILE, n.CHANNEL), np.ones(plane), QUALITY[n.SCALE].attrs),
        },
    )


def _with(whole: xr.Dataset, values: dict[str, NDArray[np.float64]]) -> xr.Dataset:
    return whole.assign({name: whole[name].copy(data=array) for name, array in values.items()})


def _told(
    cohort: Cohort, stored: xr.Dataset | None, *, run: str, batches: str | Path | None, exclude: Sequence[str]
) -> dict[str, Any]:
    """What was asked for now, and else before: the run, the batch of each tile, the measures of the rule."""
    before = {} if stored is None else stored.attrs
    rule = before.get(n.EXCLUDED, {})
    measures = list(exclude) or (list(rule["measures"]) if rule else [])
    name = run or str(before.get(n.RUN, ""))
    if name:
        cohort.require_run(name)
        require_finished(cohort, name)
    return {
        n.RUN: name,
        n.BATCH: _batches(cohort, stored, batches),
        "measures": [] if measures == [INCLUDE] else measures,
        n.VERSION: dict(before.get(n.VERSION, {}) or {}),
    }


def _batches(cohort: Cohort, stored: xr.Dataset | None, table: str | Path | None) -> list[str]:
    images = cohort.images(lazy=False)
    if table is None:
        known = {} if stored is None else dict(zip(texts(stored[n.TILE]), texts(stored[n.BATCH]), strict=True))
        return [known.get(tile, "") for tile in texts(images[n.TILE])]
    frame = read_text_table(table, "table of batches")
    by = next((name for name in (n.TILE, n.DONOR) if name in frame.columns), "")
    if not by or n.BATCH not in frame.columns:
        raise FintuneValueError(
            f"{table}: expected a column batch, and one of tile or donor; found {', '.join(frame.columns)}"
        )
    if frame[by].duplicated().any():
        raise FintuneValueError(f"{table}: {by} {frame[by][frame[by].duplicated()].iloc[0]!r} stands there twice")
    of_unit = dict(zip(frame[by], frame[n.BATCH], strict=True))
    found = [of_unit.get(unit, "") for unit in texts(images[by])]
    missing = sorted({unit for unit, batch in zip(texts(images[by]), found, strict=True) if not batch})
    if not any(found):
        raise FintuneValueError(f"{table}: none of its {len(frame)} rows names a {by} of {cohort.url}")
    if missing:
        say(f"qc: {len(missing)} {by}s have no batch, e.g. {missing[0]}")
    return found


def _judged(cohort: Cohort, measured: xr.Dataset, told: dict[str, Any]) -> xr.Dataset:
    """`measured` with cell sizes, batches, what is unusual, the rule, and the scale of each batch with its version."""
    name = told[n.RUN]
    sizes = _cell_sizes(cohort, name, measured.sizes[n.TILE]) if name else measured[n.CELL_SIZE_PX].values
    found = measured.assign({n.CELL_SIZE_PX: measured[n.CELL_SIZE_PX].copy(data=sizes)})
    found = labelled_quality(cohort, found.assign_coords({n.BATCH: (n.TILE, np.array(told[n.BATCH], object))}))
    odd, tiles = unusual(found), texts(found[n.TILE])
    left_out = np.array([bool(text) for text in reasons(odd, tiles, told["measures"])], bool)
    rule = {}
    if told["measures"]:
        rule = {"measures": told["measures"], "text": rule_text(told["measures"]), "n_tiles": int(left_out.sum())}
    scale = batch_scale(found)
    made = found.assign(
        {
            n.EXCLUDED: found[n.EXCLUDED].copy(data=left_out),
            n.REASON: found[n.REASON].copy(data=np.array(reasons(odd, tiles), object)),
        }
    ).assign_coords({n.SCALE: scale})
    return made.drop_vars([n.DONOR, n.MARKER]).assign_attrs(
        {
            n.RUN: name,
            n.RESTS_ON: {"runs": run_digests(cohort, [name] if name else [])},
            n.EXCLUDED: rule,
            n.VERSION: _version(told[n.VERSION], scale),
            n.PROVENANCE: provenance(run=name, exclude=told["measures"]),
        }
    )


def _version(before: dict[str, Any], scale: xr.DataArray) -> dict[str, Any]:
    """Number and digest of the scale: another number wherever a value is another one."""
    digest = hashlib.sha256(np.ascontiguousarray(scale.values).tobytes()).hexdigest()[:16]
    if before.get(n.DIGEST) == digest:
        return before
    return {"number": int(before.get("number", 0)) + 1, n.DIGEST: digest}


def _cell_sizes(cohort: Cohort, run: str, n_tiles: int) -> NDArray[np.float64]:
    """Median area (tile,) of the cells of a run in px; blocks of cells come in order, so that one tile is open."""
    found = np.full(n_tiles, np.nan)
    rest = pd.DataFrame({n.TILE_INDEX: [], n.AREA_PX: []})
    for block in cell_blocks(cohort, run, [n.TILE_INDEX, n.AREA_PX])():
        fresh = pd.DataFrame({name: block[name].values for name in (n.TILE_INDEX, n.AREA_PX)})
        whole = pd.concat([rest, fresh], ignore_index=True) if len(rest) else fresh
        is_open = whole[n.TILE_INDEX] == whole[n.TILE_INDEX].iloc[-1]
        medians = whole[~is_open].groupby(n.TILE_INDEX)[n.AREA_PX].median()
        found[medians.index.to_numpy(np.int64)] = medians.to_numpy()
        rest = whole[is_open]
    if len(rest):
        found[int(rest[n.TILE_INDEX].iloc[0])] = float(rest[n.AREA_PX].median())
    return found
