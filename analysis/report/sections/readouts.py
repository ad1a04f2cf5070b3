"""The section on other numbers of donors than the ratio: how many cells, how dense, how large, how bright."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.association import MIN_DONORS_FOR_Q
from fintune_xr.analysis.figures.points import Axis, Points, scatter_svg
from fintune_xr.analysis.figures.style import colour_of
from fintune_xr.analysis.report.contents import Drawing, Gallery, Note, Part, Section, Table, fold
from fintune_xr.analysis.report.numbers import Format, count_text, decimals, probability, whole
from fintune_xr.analysis.report.sections.findings import ALPHA, covariates_of
from fintune_xr.text import texts

COMMAND: Final = "fintune-xr associate STORE --clinical CSV --readout density"
TITLE: Final = "Other readouts of donors"
MOST_SHOWN: Final = 6
_VALUES: Final = (n.RHO, n.N, n.P, n.Q, n.REASON)
_SHORT: Final = {"mm-2": "per mm²", "px": "px", "counts": "counts", "1": ""}

_Row = Mapping[Hashable, Any]


def readout_section(readouts: Mapping[str, xr.Dataset]) -> Section:
    """Each readout, by what was asked for, against each outcome; READOUTS has what a dataset holds."""
    if not readouts:
        return Section("readouts", TITLE, command=COMMAND)
    table = readout_table(readouts)
    rows = table[table[n.RHO].notna()].to_dict("records")
    shown = [row for row in rows if row[n.Q] < ALPHA][:MOST_SHOWN] or rows[:1]
    drawings = tuple(_drawing(readouts[str(row[n.READOUT])], row) for row in shown)
    parts: list[Part] = [Note(text) for text in _told(readouts, has_hits=bool(shown) and shown[0][n.Q] < ALPHA)]
    parts += [Gallery(drawings)] if drawings else []
    parts += fold("All readouts in numbers", [_listed(table), _values(readouts)])
    return Section("readouts", TITLE, tuple(parts), findings=tuple(_findings(table)))


def readout_table(readouts: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Rows readout, run, marker, outcome, rho, n, p, q, reason; smallest q first."""
    order = [n.READOUT, n.RUN, n.MARKER, n.OUTCOME, *_VALUES]
    frames = [
        one[list(_VALUES)].reset_coords(drop=True).to_dataframe().reset_index().assign(**{n.READOUT: name})[order]
        for name, one in readouts.items()
    ]
    return pd.concat(frames).sort_values([n.Q, n.P], kind="stable", na_position="last", ignore_index=True)


def _told(readouts: Mapping[str, xr.Dataset], *, has_hits: bool) -> list[str]:
    told = [
        f"Spearman correlation of each readout with each outcome. q is adjusted over the markers and outcomes of one "
        f"readout, not over the {count_text(len(readouts), 'readout', 'readouts')} that stand here; below "
        f"{MIN_DONORS_FOR_Q} donors there is none."
    ]
    adjusted = {covariates_of(one) for one in readouts.values()} - {""}
    if adjusted:
        told.append(f"Adjusted for {' or '.join(sorted(adjusted))}, as the table says; the points are not.")
    if not has_hits:
        told.append(f"No readout has q < {ALPHA}; the one with the smallest p is drawn.")
    return told


def _listed(table: pd.DataFrame) -> Table:
    formats: dict[str, Format] = {n.RHO: decimals(2, signed=True), n.P: probability, n.Q: probability}
    strong = frozenset(np.flatnonzero(table[n.Q] < ALPHA).tolist())
    return Table("readouts", "All readouts, smallest q first", table, formats, None, (n.READOUT, n.OUTCOME), strong)


def _values(readouts: Mapping[str, xr.Dataset]) -> Table:
    frames = []
    for name, one in readouts.items():
        frame = one[n.READOUT].rename("value").reset_coords(drop=True).to_dataframe().reset_index().dropna()
        frames.append(frame.assign(**{n.READOUT: name, "units": _SHORT.get(_units(one), _units(one))}))
    table = pd.concat(frames)[[n.READOUT, n.MARKER, n.DONOR, n.RUN, "value", "units"]].reset_index(drop=True)
    return Table(
        "readout_values", "The value of every donor", table, {"value": _four_digits}, None, (n.DONOR, n.READOUT)
    )


def _findings(table: pd.DataFrame) -> list[Note]:
    """One line for each readout, those that follow an outcome first."""
    told = []
    for name, rows in table.groupby(n.READOUT, sort=False):
        hits, tested = rows[rows[n.Q] < ALPHA], int(rows[n.Q].notna().sum())
        head = f"{name}: {whole(len(hits)) if len(hits) else 'none'} of {whole(tested)} associations"
        best = rows.iloc[0]
        which = f", {best[n.MARKER]} with {best[n.OUTCOME]} (rho {decimals(2, signed=True)(best[n.RHO])}) first"
        told.append(
            Note(f"Readout {head} {'have' if len(hits) > 1 else 'has'} q < {ALPHA}{which if len(hits) else ''}.")
        )
    return told


def _drawing(readout: xr.Dataset, row: _Row) -> Drawing:
    name, units = str(row[n.READOUT]), _SHORT.get(_units(readout), _units(readout))
    y = Axis(f"{row[n.MARKER]} {name}{f' ({units})' if units else ''}")
    colour = colour_of(texts(readout[n.RUN]))[row[n.RUN]]
    svg = scatter_svg(_points(readout, row), x=Axis(str(row[n.OUTCOME])), y=y, colour=colour)
    parts = [f"rho {decimals(2, signed=True)(row[n.RHO])}", count_text(int(row[n.N]), "donor", "donors")]
    parts += [f"{key} {probability(row[key])}" for key in (n.P, n.Q) if np.isfinite(row[key])]
    title = f"{name}, {row[n.MARKER]} and {row[n.OUTCOME]}, {row[n.RUN]}"
    return Drawing(svg, title, ", ".join(parts))


def _points(readout: xr.Dataset, row: _Row) -> Points:
    """Donors that have both numbers."""
    values = readout[n.READOUT].sel({n.RUN: row[n.RUN], n.MARKER: row[n.MARKER]}).values
    outcome = readout[n.OUTCOME_VALUE].sel({n.OUTCOME: row[n.OUTCOME]}).values
    donors = np.array(texts(readout[n.DONOR]))
    both = np.isfinite(values) & np.isfinite(outcome)
    rows = zip(donors[both], values[both], outcome[both], strict=True)
    names = [f"{donor}: {_four_digits(value)}, {row[n.OUTCOME]} {other:g}" for donor, value, other in rows]
    return Points(outcome[both], values[both], names)


def _units(readout: xr.Dataset) -> str:
    return str(readout[n.READOUT].attrs.get("units", ""))


def _four_digits(value: Any) -> str:
    return f"{float(value):.4g}"
