"""What is asked of a donor's cells besides the ratio of positive ones: how many, how dense, how large, how bright."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError, UnknownNameError, nearest
from fintune_xr.tasks.cell_measures import BY_COLUMN, MEASURES, cell_measure, column_in_um, is_measured

RATIO: Final = n.RATIO
COUNT: Final = "count"
DENSITY: Final = "density"
SHARE: Final = n.SHARE
ACROSS: Final = n.ACROSS
STATISTICS: Final = ("mean", "median")
IN_REGION: Final = "@"
_AND: Final = "+"
_LEAST: Final = {SHARE: 1, ACROSS: 2}
"""How many channels, or markers, such a readout has at least."""
_ABOVE: Final = ">"
_DISTANCE_UM: Final = column_in_um(n.DISTANCE_TO_PX)
_STORED: Final[Mapping[str, str]] = {"area": n.AREA_PX, n.AREA_PX: n.AREA_PX, n.MEAN_INTENSITY: n.MEAN_INTENSITY}
"""What may be said for the columns that every run has."""
_BY_CHANNEL: Final = (n.MEAN_INTENSITY, *(name for name, one in BY_COLUMN.items() if one.by_channel))
_KNOWN: Final = (
    RATIO, COUNT, DENSITY, "share:marker+CHANNEL", "across:MARKER+MARKER", "mean:area", "median:area", "mean:area_um2",
    "median:mean_intensity.marker", "median:distance:RUN",
    *(f"mean:{name}" + (".marker" if one.by_channel else "") for name, one in MEASURES.items()),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Readout:
    """A number for each donor: `statistic` of the `column` of its cells, in a `channel` where the column has several.

    `count` is cells per tile, `density` cells per mm²; they have no column. With a `region` of tissue, cells are those
    whose centre lies in it, tiles those whose regions are known, and the density is per mm² of it. Lengths and areas
    are stored in px; `in_um` says whether they are wanted in um, and is None where that is left to whether the size of
    pixels is known. `share` is of the cells that are positive under all
    `conditions`: a channel, and a threshold above background in counts, None for Otsu's. `across` is the same of the
    markers of several tiles of one field: of the cells of the first.
    """

    statistic: str
    column: str = ""
    channel: str = ""
    in_um: bool | None = False
    region: str = ""
    conditions: tuple[tuple[str, float | None], ...] = ()

    @property
    def name(self) -> str:
        """What it is stored under."""
        said = self._said_conditions.replace(_ABOVE, "_above_")
        words = [part for part in (self.statistic, self._shown, self.channel, said) if part]
        return "_".join(words) + (f"{IN_REGION}{self.region}" if self.region else "")

    @property
    def text(self) -> str:
        """What is asked for to get it."""
        short = "area" if self.column == n.AREA_PX and not self.in_um else self._shown
        of = ":".join(filter(None, (self.statistic, short, self._said_conditions)))
        said = ".".join(filter(None, (of, self.channel)))
        return said + (f"{IN_REGION}{self.region}" if self.region else "")

    @property
    def units(self) -> str:
        """Units of its values."""
        if self.statistic == DENSITY:
            return "mm-2"
        if self.in_um:
            return "um2" if self.column == n.AREA_PX else "um"
        if is_measured(self.column):
            return cell_measure(self.column).units
        return {n.AREA_PX: "px", n.MEAN_INTENSITY: "counts"}.get(self.column, "1")

    @property
    def power(self) -> int:
        """Power of the side of a pixel that stored values are multiplied with."""
        return (2 if self.column == n.AREA_PX else 1) if self.in_um else 0

    @property
    def _said_conditions(self) -> str:
        """The conditions as they are asked for."""
        said = [channel + ("" if limit is None else f"{_ABOVE}{limit:.15g}") for channel, limit in self.conditions]
        return _AND.join(said)

    @property
    def _shown(self) -> str:
        """The column, called as it is in its units."""
        if not self.in_um:
            return self.column
        return n.AREA_UM2 if self.column == n.AREA_PX else column_in_um(self.column)


def parse_readout(text: str) -> Readout:
    """The readout that `text` says: count, density, or STATISTIC:COLUMN, as median:mean_intensity.marker.

    Columns are those that every run has and those that `measure` adds, by the name that it takes or by their own, as
    mean:eccentricity, mean:perimeter_um or median:distance:RUN. A share is share:CHANNEL, or of cells that are positive
    in several channels share:marker+IBA1; CHANNEL>250 is a threshold. What follows @ is the region of tissue, as
    density@cortex.

    Raises SettingsError for anything else, naming what is nearest.
    """
    whole, is_part, region = text.partition(IN_REGION)
    if whole in (COUNT, DENSITY) and bool(is_part) == bool(region):
        return Readout(whole, region=region)
    statistic, _, said = whole.partition(":")
    conditions = _conditions(said) if statistic in _LEAST else ()
    if conditions and len(conditions) >= _LEAST[statistic] and bool(is_part) == bool(region):
        return Readout(statistic, region=region, conditions=conditions)
    column = _said_column(said) if statistic in STATISTICS else None
    if column is None or bool(is_part) != bool(region):
        raise SettingsError(
            f"--readout {text!r}: expected one of {', '.join(_KNOWN)}, or another channel's "
            f"mean_intensity.CHANNEL.{nearest(text, _KNOWN)}"
        )
    return Readout(statistic, *column, region=region)


def in_region(readout: str, region: str) -> str:
    """`readout` of the cells in a `region` of tissue, as `parse_readout` takes it; as it is without a region.

    Raises SettingsError for the ratio, which is of whole tiles.
    """
    if region and readout == RATIO:
        raise SettingsError(
            f"--region {region}: the ratio of positive cells is of whole tiles. Name another --readout, as "
            "share:marker or density."
        )
    return f"{readout}{IN_REGION}{region}" if region else readout


def settled_readout(readout: Readout, sides: NDArray[np.float64]) -> Readout:
    """`readout` in um where that was left open and every tile tells the size of its pixels, in px where none does.

    `sides` (tile,) are in um, 0 where they are not known. Raises FintuneValueError where some tell it and some do not.
    """
    known = sides > 0
    if readout.in_um is None and known.any() != known.all():
        raise FintuneValueError(
            f"--readout {readout.text}: {int((~known).sum())} of {known.size} tiles do not tell the size of their "
            f"pixels, so that um and px would be mixed. Ask for {readout.text} in px, as {readout.column}."
        )
    return replace(readout, in_um=bool(known.all())) if readout.in_um is None else readout


def _conditions(said: str) -> tuple[tuple[str, float | None], ...]:
    """Channels and thresholds, as of marker+IBA1>90; nothing where that is not what is said."""
    found = [re.fullmatch(r"([^>]+)(?:>(\d+(?:\.\d+)?))?", part) for part in said.split(_AND)]
    told = tuple((one[1], None if one[2] is None else float(one[2])) for one in found if one is not None)
    is_whole = len(told) == len(found) == len({channel for channel, _ in told})
    return told if is_whole else ()


def _said_column(said: str) -> tuple[str, str, bool | None] | None:
    """Stored column, channel, and whether it is wanted in um; None for what is no column."""
    name, dot, channel = said.partition(".")
    if name in _STORED or (name in MEASURES and MEASURES[name].by_channel) or name in _BY_CHANNEL:
        column = _STORED.get(name) or cell_measure(name).column
        return (column, channel, False) if bool(channel) == (column in _BY_CHANNEL) == bool(dot) else None
    if said == n.AREA_UM2:
        return n.AREA_PX, "", True
    in_px = {column_in_um(column): column for column in BY_COLUMN if column_in_um(column)}
    if said in in_px or said.startswith(_DISTANCE_UM):
        return in_px.get(said) or said.replace(n.IN_UM, n.IN_PX, 1), "", True
    try:
        column = cell_measure(said).column
    except UnknownNameError:
        return None
    if column == n.REGION_CODE:
        return None
    return column, "", None if column_in_um(column) and said != column else False


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
