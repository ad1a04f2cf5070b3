"""The main picture of a report on donors: the ratio of each donor against an outcome, with what rho rests on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis import comparison
from fintune_xr.analysis.bootstrap import OF_DONORS
from fintune_xr.analysis.figures.points import Axis, Points, scatter_svg
from fintune_xr.analysis.figures.style import colour_of
from fintune_xr.analysis.report.contents import Drawing, Gallery, Note, Part, fold
from fintune_xr.analysis.report.numbers import count_text, percent, probability, whole, with_interval
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.text import texts

SHOWN_BELOW: Final = 0.1
MOST_SHOWN: Final = 12
SHOWN_OF_NONE: Final = 3
# Circles under the fold: each takes some 200 bytes of the page.
MOST_CIRCLES: Final = 20_000
_LONGEST_DIRECTION: Final = 40

_Row = Mapping[Hashable, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Ratios (run, donor, marker) and outcomes (donor, outcome)."""

    analysis: xr.Dataset
    clinical: xr.Dataset


def scatter_parts(contents: Statistics) -> list[Part]:
    """Scatter plots of every marker and outcome with q < SHOWN_BELOW, of all runs but the baseline, smallest q first.

    All others are folded away, those of the baseline first; beyond MOST_CIRCLES points it is said how many are not
    drawn. Where nothing has such a q, the smallest p are shown and that is said.
    """
    analysis, clinical = contents.analysis, contents.clinical
    if analysis is None or clinical is None or n.OUTCOME_VALUE not in clinical:
        return []
    rows = _rows(contents, analysis)
    shown, others = _chosen(rows, contents.baseline)
    room = max(MOST_CIRCLES // max(analysis.sizes[n.DONOR], 1), 1)
    parts: list[Part] = [Note(text) for text in _told(rows, contents, analysis)]
    pair = _Pair(analysis, clinical)
    parts += _gallery(pair, shown)
    what = f"The other {whole(min(len(others), room))} pairs of ratio and outcome"
    if len(others) > room:
        what = f"{whole(room)} of the other {whole(len(others))} pairs of ratio and outcome, smallest p first"
    return [*parts, *fold(what, _gallery(pair, others[:room]))]


def _rows(contents: Statistics, analysis: xr.Dataset) -> list[_Row]:
    """Every association that exists, smallest q and p first, with the interval over donors where one is stored."""
    kept = analysis[[n.RHO, n.N, n.P, n.Q]]
    if contents.stability is not None and _over_donors(contents):
        kept = kept.assign({name: contents.stability[name] for name in (comparison.LOW, comparison.HIGH)})
    table = kept.reset_coords(drop=True).to_dataframe().reset_index()
    table = table[table[n.RHO].notna()].sort_values([n.Q, n.P], kind="stable", na_position="last")
    return list(table.to_dict("records"))


def _chosen(rows: list[_Row], baseline: str) -> tuple[list[_Row], list[_Row]]:
    """What is seen at once, and what is folded away."""
    runs = {row[n.RUN] for row in rows}
    pairs = {(row[n.MARKER], row[n.OUTCOME]) for row in rows if row[n.Q] < SHOWN_BELOW}
    leading = [row for row in rows if row[n.RUN] != baseline or runs == {baseline}]
    wanted = [row for row in leading if (row[n.MARKER], row[n.OUTCOME]) in pairs][:MOST_SHOWN]
    shown = wanted or leading[:SHOWN_OF_NONE]
    rest = [row for row in rows if row not in shown]
    return shown, sorted(rest, key=lambda row: (row[n.MARKER], row[n.OUTCOME]) not in pairs)


def _told(rows: list[_Row], contents: Statistics, analysis: xr.Dataset) -> list[str]:
    told = []
    if not any(row[n.Q] < SHOWN_BELOW for row in rows):
        told.append(f"No association has q < {SHOWN_BELOW}; those with the smallest p are shown.")
    names = ", ".join(map(str, list(analysis.attrs.get("covariates", []))))
    if names:
        told.append(f"Rho is adjusted for {names}; the points are not.")
    if _over_donors(contents):
        told.append("A point is a donor. In brackets stands the 95 % interval of rho over resamples of the donors.")
    else:
        told.append("A point is a donor. No rho has an interval: there are no resamples of the donors.")
    return told


def _over_donors(contents: Statistics) -> bool:
    return contents.bootstrap is not None and contents.bootstrap.attrs.get("scheme") == OF_DONORS


def _gallery(pair: _Pair, rows: list[_Row]) -> list[Part]:
    drawings = tuple(_drawing(pair, row) for row in rows)
    return [Gallery(drawings)] if drawings else []


def _drawing(pair: _Pair, row: _Row) -> Drawing:
    x, y = Axis(_outcome(pair, str(row[n.OUTCOME]))), Axis(f"{row[n.MARKER]}-positive share", is_share=True)
    svg = scatter_svg(_points(pair, row), x=x, y=y, colour=colour_of(texts(pair.analysis[n.RUN]))[row[n.RUN]])
    return Drawing(svg, f"{row[n.MARKER]} and {row[n.OUTCOME]}, {row[n.RUN]}", _caption(row))


def _outcome(pair: _Pair, name: str) -> str:
    """Name of an outcome with its direction, where that is short enough to stand on an axis."""
    if n.DIRECTION not in pair.clinical.coords:
        return name
    direction = str(pair.clinical[n.DIRECTION].sel({n.OUTCOME: name}).item())
    return f"{name} ({direction})" if direction and len(direction) <= _LONGEST_DIRECTION else name


def _caption(row: _Row) -> str:
    ends = (float(row.get(name, np.nan)) for name in (comparison.LOW, comparison.HIGH))
    rho = with_interval(float(row[n.RHO]), *ends, signed=True)
    parts = [f"rho {rho}", count_text(int(row[n.N]), "donor", "donors")]
    parts += [f"{name}\u00a0{probability(row[name])}" for name in (n.P, n.Q) if np.isfinite(row[name])]
    return ", ".join(parts)


def _points(pair: _Pair, row: _Row) -> Points:
    """Donors that have both numbers, each with its counts."""
    at = {name: row[name] for name in (n.RUN, n.MARKER)}
    here = pair.analysis[[n.RATIO, n.N_POSITIVE, n.N_ALL, n.N_TILES]].sel(at)
    outcome = pair.clinical[n.OUTCOME_VALUE].sel({n.OUTCOME: row[n.OUTCOME]}).reset_coords(drop=True)
    frame = here.reset_coords(drop=True).to_dataframe().join(outcome.to_series().rename(n.OUTCOME_VALUE))
    frame = frame.dropna(subset=[n.RATIO, n.OUTCOME_VALUE])
    names = [_name(donor, one, str(row[n.OUTCOME])) for donor, one in frame.iterrows()]
    return Points(frame[n.OUTCOME_VALUE].to_numpy(), frame[n.RATIO].to_numpy(), names)


def _name(donor: Hashable, one: pd.Series[Any], outcome: str) -> str:
    cells = f"{whole(one[n.N_POSITIVE])} of {whole(one[n.N_ALL])} cells"
    tiles = count_text(int(one[n.N_TILES]), "tile", "tiles")
    return f"{donor}: {percent(one[n.RATIO])} ({cells}, {tiles}), {outcome} {one[n.OUTCOME_VALUE]:g}"
