"""Which instances of a tile stay when those of odd brightness or small area are dropped; plain arrays only.

A gate keeps an instance where `low <= mean intensity <= high` and `area >= min_area`. Low and high are percentiles
of the mean intensities of all instances of the same tile, before any was dropped, interpolated linearly between
neighbouring ranks as NumPy does by default. So 0-100 keeps every brightness, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fintune_xr.errors import FintuneValueError
from fintune_xr.settings import Settings

WHOLE_RANGE: Final = (0.0, 100.0)


class Gate(NamedTuple):
    """One setting: percentiles of the tile's mean intensities and an area in px, all inclusive."""

    q_lo: float
    q_hi: float
    min_area: int

    @property
    def name(self) -> str:
        """Value of the coordinate `setting`."""
        return f"q{self.q_lo:g}-{self.q_hi:g}_a{self.min_area}"


UNGATED: Final = Gate(*WHOLE_RANGE, 0)


class GateSettings(Settings):
    """The grid of gates: every range of percentiles with every area."""

    q_ranges: tuple[tuple[float, float], ...] = Field(
        default=(WHOLE_RANGE, (2.0, 98.0), (5.0, 95.0)), min_length=1, description="Percentile ranges that stay."
    )
    min_areas: tuple[int, ...] = Field(
        default=(0, 50, 60, 80), min_length=1, description="Smallest areas that stay, in px."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> GateSettings:
        for low, high in self.q_ranges:
            if not 0 <= low < high <= 100:
                raise ValueError(f"q_ranges: expected 0 <= q_lo < q_hi <= 100, got {low:g} and {high:g}")
        if min(self.min_areas) < 0:
            raise ValueError(f"min_areas: expected 0 or more px, got {min(self.min_areas)}")
        return self

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The grid row by row, each gate once; the gate that drops nothing comes first, asked for or not."""
        grid = [Gate(float(low), float(high), area) for low, high in self.q_ranges for area in self.min_areas]
        return tuple(dict.fromkeys([UNGATED, *grid]))


def intensity_bounds(
    intensity: NDArray[Any], first: NDArray[np.int64], q_ranges: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """Bounds (q_range, tile, 2) of the mean intensities that stay; NaN for a tile without instances.

    `intensity` (cell,) lists the instances tile by tile; those of tile `i` lie at `first[i]` to `first[i + 1]`.

    Raises FintuneValueError where `first` does not span `intensity`.
    """
    if first.size == 0 or first[0] != 0 or first[-1] != intensity.size or np.any(np.diff(first) < 0):
        raise FintuneValueError(
            f"first: expected ascending positions from 0 to {intensity.size}, the number of instances, got "
            f"{first[:3]} ... {first[-1:]}. Take the running sum of the cells per tile."
        )
    levels = np.array(q_ranges, np.float64).reshape(-1)
    bounds = np.full((first.size - 1, levels.size), np.nan)
    values = intensity.astype(np.float64)
    for tile in np.flatnonzero(np.diff(first)):
        bounds[tile] = np.percentile(values[first[tile] : first[tile + 1]], levels)
    return np.moveaxis(bounds.reshape(-1, len(q_ranges), 2), 0, 1)


def is_kept(
    intensity: NDArray[Any], area_px: NDArray[Any], bounds: NDArray[np.float64], min_area: int
) -> NDArray[np.bool_]:
    """Whether each instance (cell,) stays, with the `bounds` (cell, 2) of its tile; both ends belong to the range."""
    kept: NDArray[np.bool_] = (bounds[..., 0] <= intensity) & (intensity <= bounds[..., 1]) & (area_px >= min_area)
    return kept
