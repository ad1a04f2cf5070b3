"""Section about which cells count as positive, and how the results depend on that choice."""

from __future__ import annotations

import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.statistics import ratio_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.report.contents import Note, Part, Picture, Section, Table
from fintune_xr.analysis.report.numbers import decimals
from fintune_xr.analysis.report.sections.statistics import Statistics

_TITLE = "Which cells are positive"
_UNVALIDATED = Note(
    "The shares are unvalidated: annotations say where cells are, not which of them are positive, and no rule was "
    "held against the eyes of an expert. Look at some tiles before you trust a share; how far the rules differ is "
    "shown below.",
    "doubtful",
)


def positivity_section(contents: Statistics) -> Section:
    """The rules that were applied, the ratio of each donor and rho under every rule."""
    parts: list[Part] = [
        Note(f"Donor ratios of the run {run} use the rule {rule}.") for run, rule in contents.active_rules.items()
    ]
    if contents.positivity:
        parts += [_UNVALIDATED, _rules_table(contents)]
    if contents.ratio_by_rule is not None:
        parts += [_ratio_picture(contents.ratio_by_rule, run) for run in contents.ratio_by_rule[n.RUN].values]
    if contents.rho_by_rule is not None:
        parts.append(_rho_table(contents.rho_by_rule))
    return Section("positivity", _TITLE, tuple(parts), "fintune-xr positivity STORE --run RUN")


def _rules_table(contents: Statistics) -> Table:
    frames = [_rules(one).assign(**{n.RUN: run}) for run, one in contents.positivity.items()]
    table = pd.concat(frames, ignore_index=True)
    table = table[[n.RUN, *table.columns.drop(n.RUN)]]
    thresholds = ["lowest_threshold", "highest_threshold"]
    caption = "Cells under each rule, and the range of its threshold in background-subtracted counts"
    return Table("positivity", caption, table, dict.fromkeys(thresholds, decimals(0)))


def _rules(positivity: xr.Dataset) -> pd.DataFrame:
    """Sums over the tiles in which the rule knows its cells, per rule and marker."""
    names = [n.N_ALL, n.N_POSITIVE, n.N_WITHOUT_NUCLEUS, n.THRESHOLD]
    markers = positivity[n.MARKER].to_series().rename(n.MARKER)
    frame = positivity[names].reset_coords(drop=True).to_dataframe().join(markers, on=n.TILE).reset_index()
    frame = frame[(frame[n.N_POSITIVE] >= 0) & (frame[n.N_ALL] >= 0)]
    grouped = frame.groupby([n.RULE, n.MARKER], sort=True)
    return grouped.agg(
        tiles=(n.TILE, "count"), all_cells=(n.N_ALL, "sum"), positive_cells=(n.N_POSITIVE, "sum"),
        without_nucleus=(n.N_WITHOUT_NUCLEUS, "sum"), lowest_threshold=(n.THRESHOLD, "min"),
        highest_threshold=(n.THRESHOLD, "max"),
    ).reset_index()  # fmt: skip


def _ratio_picture(ratio: xr.DataArray, run: str) -> Picture:
    figure = ratio_figure(ratio.sel({n.RUN: run}, drop=True), over=n.RULE)
    alt = f"Strip plot of the ratio of each donor under each positivity rule, run {run}"
    return Picture(data_uri(figure, "svg"), alt, f"Run {run}: the same cells under every stored rule.")


def _rho_table(rho: xr.DataArray) -> Table:
    """Rho with a column per rule."""
    data = rho.rename(n.RHO).reset_coords(drop=True).to_dataframe().reset_index()
    rows = [n.RUN, n.MARKER, n.OUTCOME]
    page = data.pivot_table(index=rows, columns=n.RULE, values=n.RHO, sort=False, dropna=False).reset_index()
    page.columns.name = None
    formats = dict.fromkeys(map(str, rho[n.RULE].values), decimals(2, signed=True))
    return Table("rho_by_rule", "Rho under each rule", data, formats, page, (n.OUTCOME,))
