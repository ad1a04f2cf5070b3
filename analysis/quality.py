"""Where a cohort drifts: how tiles were taken, which tiles, donors and batches are unusual, and what makes them alike.

A value is unusual by its modified z-score: 0.6745 times its distance from the median over the median distance, of
logarithms and among units of one marker and channel. Nothing is left out by it: that takes a rule of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.tile_quality import MEASURES, tile_quality
from fintune_xr.tasks.quality import QUALITY
from fintune_xr.text import text_array

UNUSUAL: Final = 3.5
"""Modified z-score beyond which a value is unusual. Reference: Iglewicz & Hoaglin 1993, How to Detect Outliers, 3.3."""

MIN_UNITS: Final = 5
"""Fewer tiles, donors or batches have no outliers among them: a median of four distances says little."""

SATURATED: Final = 0.01
"""Share of clipped pixels from which on a plane is saturated, whatever the others are."""

ALL_MEASURES: Final = (*MEASURES, n.CELL_SIZE_PX)
_LEAST_SPREAD: Final = 0.02  # Of logarithms: tiles that agree within 2 % are alike, however alike the rest is.
_OF_NORMAL: Final = 0.6745
_LEVELS: Final = (n.TILE, n.DONOR, n.BATCH)


def measured_tiles(images: xr.Dataset) -> xr.Dataset:
    """Intensity, background, focus and saturation (tile, channel) of `images`, lazy, a tile at a time.

    `images` are those of a cohort with `height` and `width`; what fills up smaller tiles counts for nothing.
    """
    found = xr.apply_ufunc(
        _of_tiles,
        images[n.IMAGE].reset_coords(drop=True).chunk({n.TILE: 1, n.CHANNEL: -1, n.Y: -1, n.X: -1}),
        *(images[side].reset_coords(drop=True).variable.chunk({n.TILE: 1}) for side in (n.HEIGHT, n.WIDTH)),
        input_core_dims=[[n.CHANNEL, n.Y, n.X], [], []],
        output_core_dims=[[n.CHANNEL, n.MEASURE]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {n.MEASURE: len(MEASURES)}},
    )
    parts = {name: found.isel({n.MEASURE: at}).assign_attrs(QUALITY[name].attrs) for at, name in enumerate(MEASURES)}
    return xr.Dataset(parts)


def batch_scale(quality: xr.Dataset) -> xr.DataArray:
    """What signals of a tile are divided by (tile, channel), so that the batches of its marker are equally bright.

    The median over a batch of intensity above background, over the median of those medians; 1 where a batch has none
    or there is only one. What differs between the donors of a batch stays.

    `quality` follows QUALITY, with `marker` along tile.
    """
    signal = (quality[n.INTENSITY] - quality[n.BACKGROUND]).clip(min=0).values
    groups = pd.DataFrame({name: text_array(quality[name]) for name in (n.MARKER, n.BATCH)})
    columns = {}
    for at in range(signal.shape[1]):
        of_batch = pd.Series(signal[:, at]).groupby([groups[n.MARKER], groups[n.BATCH]]).median()
        of_marker = of_batch.groupby(level=0).transform("median")
        ratio = (of_batch / of_marker).where((of_batch > 0) & (of_marker > 0), 1.0)
        columns[at] = ratio.reindex(pd.MultiIndex.from_frame(groups)).to_numpy()
    values = np.column_stack(list(columns.values())) if columns else signal
    return xr.DataArray(values, dims=(n.TILE, n.CHANNEL), attrs=QUALITY[n.SCALE].attrs)


def unusual(quality: xr.Dataset, level: str = n.TILE) -> pd.DataFrame:
    """What is unusual among tiles, donors or batches: marker, channel, measure, unit, value, usual, z.

    `quality` follows QUALITY, with `donor` and `marker` along tile; `level` is tile, donor or batch. The value of a
    donor or batch is the median of its tiles. z is NaN where the value is unusual by itself (SATURATED); of focus only
    what is blurred is named.
    """
    table = long_table(quality)
    if level not in _LEVELS:
        raise KeyError(level)
    by = [n.MARKER, n.CHANNEL, n.MEASURE]
    table = table[table[level] != ""].rename(columns={level: "unit"})
    values = table.groupby([*by, "unit"], sort=True)["value"].median().reset_index()
    parts = [_scored(part) for _, part in values.groupby(by, sort=True)]
    scored = pd.concat(parts, ignore_index=True) if parts else values.assign(usual=[], z=[])
    clipped = (scored[n.MEASURE] == n.SATURATION) & (scored["value"] > SATURATED)
    # Sharper than usual is no fault: few cells before noise look so.
    sharp = (scored[n.MEASURE] == n.FOCUS) & (scored["z"] > 0)
    return scored[clipped | ((scored["z"].abs() > UNUSUAL) & ~sharp)].reset_index(drop=True)


def long_table(quality: xr.Dataset) -> pd.DataFrame:
    """A row for each tile, channel and measure with tile, donor, batch, marker, channel, measure and value.

    Cell sizes belong to no channel: theirs is empty.
    """
    labels = {name: text_array(quality[name]) for name in (n.TILE, n.DONOR, n.BATCH, n.MARKER)}
    rows = []
    for measure in ALL_MEASURES:
        values = quality[measure].values
        planes = enumerate(text_array(quality[n.CHANNEL])) if values.ndim > 1 else [(0, "")]
        for at, channel in planes:
            column = values[:, at] if values.ndim > 1 else values
            rows.append(pd.DataFrame({**labels, n.CHANNEL: channel, n.MEASURE: measure, "value": column}))
    table = pd.concat(rows, ignore_index=True)
    return table[table["value"].notna()]


def reasons(found: pd.DataFrame, tiles: Sequence[str], measures: Sequence[str] = ALL_MEASURES) -> list[str]:
    """What is unusual about each of `tiles` by `measures`, as text, empty where nothing is; `found` is of tiles."""
    chosen = found[found[n.MEASURE].isin(list(measures))]
    told: dict[str, list[str]] = {}
    for row in chosen.to_dict("records"):
        told.setdefault(str(row["unit"]), []).append(reason(row))
    return ["; ".join(told.get(tile, [])) for tile in tiles]


def reason(row: dict[Any, Any]) -> str:
    """What is unusual in one row of `unusual`, in words."""
    what = f"{row[n.MEASURE]} of {row[n.CHANNEL]}" if row[n.CHANNEL] else str(row[n.MEASURE])
    return f"{what} {row['value']:.4g}, usual {row['usual']:.4g}"


def rule_text(measures: Sequence[str]) -> str:
    """The stated rule by which tiles are left out for being unusual by these measures."""
    clipped = f" or more than {SATURATED:.0%} of the pixels at the highest value" if n.SATURATION in measures else ""
    return f"|modified z| > {UNUSUAL} of {', '.join(measures)} among the tiles of a marker and channel{clipped}"


def _of_tiles(
    images: NDArray[Any], height: NDArray[np.integer[Any]], width: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    sizes = zip(np.atleast_1d(height), np.atleast_1d(width), strict=True)
    found = [tile_quality(one[:, :high, :wide]) for one, (high, wide) in zip(images, sizes, strict=True)]
    return np.array(found).reshape(len(images), images.shape[1], len(MEASURES))


def _scored(part: pd.DataFrame) -> pd.DataFrame:
    """`part`, values of one marker, channel and measure, with the usual value and the modified z of each."""
    measure = str(part[n.MEASURE].iloc[0])
    values = part["value"].to_numpy(np.float64)
    usual = float(np.median(values))
    if measure == n.SATURATION or values.size < MIN_UNITS:
        return part.assign(usual=usual, z=np.nan)
    logs = np.log(np.maximum(values, 1e-12)) if measure == n.FOCUS else np.log1p(np.maximum(values, 0))
    distance = logs - np.median(logs)
    spread = max(float(np.median(np.abs(distance))), _LEAST_SPREAD)
    return part.assign(usual=usual, z=_OF_NORMAL * distance / spread)
