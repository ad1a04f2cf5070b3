"""What is asked of a donor's cells besides the ratio of positive ones: how many, how dense, how large, how bright."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SettingsError, nearest

RATIO: Final = n.RATIO
COUNT: Final = "count"
DENSITY: Final = "density"
STATISTICS: Final = ("mean", "median")
# What may be said for short, and the columns that a table of cells has for it.
_COLUMNS: Final[Mapping[str, str]] = {"area": n.AREA_PX, n.AREA_PX: n.AREA_PX, n.MEAN_INTENSITY: n.MEAN_INTENSITY}
_KNOWN: Final = (RATIO, COUNT, DENSITY, "mean:area", "median:area", "median:mean_intensity.marker")


@dataclass(frozen=True, slots=True)
class Readout:
    """A number for each donor: `statistic` of the `column` of its cells, in a `channel` where the column has several.

    `count` is cells per tile, `density` cells per mm²; they have no column.
    """

    statistic: str
    column: str = ""
    channel: str = ""

    @property
    def name(self) -> str:
        """What it is stored under."""
        return "_".join(part for part in (self.statistic, self.column, self.channel) if part)

    @property
    def units(self) -> str:
        """Units of its values."""
        if self.statistic == DENSITY:
            return "mm-2"
        return {n.AREA_PX: "px", n.MEAN_INTENSITY: "counts"}.get(self.column, "1")


def parse_readout(text: str) -> Readout:
    """The readout that `text` says: count, density, or STATISTIC:COLUMN, as median:mean_intensity.marker.

    Raises SettingsError for anything else, naming what is nearest.
    """
    if text in (COUNT, DENSITY):
        return Readout(text)
    statistic, _, column = text.partition(":")
    column, _, channel = column.partition(".")
    if statistic not in STATISTICS or column not in _COLUMNS or bool(channel) != (column == n.MEAN_INTENSITY):
        raise SettingsError(
            f"--readout {text!r}: expected one of {', '.join(_KNOWN)}, or another channel's "
            f"mean_intensity.CHANNEL.{nearest(text, _KNOWN)}"
        )
    return Readout(statistic, _COLUMNS[column], channel)


def ranges(rows: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[slice]:
    """Cells of the tiles `rows`, ascending, as slices; tiles that follow each other are one."""
    start = stop = -1
    for row in rows.tolist():
        if first[row] != stop:
            if stop > start:
                yield slice(start, stop)
            start = int(first[row])
        stop = int(last[row])
    if stop > start:
        yield slice(start, stop)


def statistic_of(values: NDArray[Any], statistic: str) -> float:
    """Mean or median of the values that are numbers, NaN where there are none."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return float("nan")
    return float(np.mean(known) if statistic == "mean" else np.median(known))
