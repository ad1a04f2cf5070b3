"""Section about which cells count as positive, and how the results depend on that choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.figures.positivity import judged_figure, signal_figure
from fintune_xr.analysis.figures.statistics import ratio_figure
from fintune_xr.analysis.figures.style import PICTURE_DPI, data_uri
from fintune_xr.analysis.positivity.doubts import doubt_lines
from fintune_xr.analysis.report.contents import Note, Part, Picture, Section, Table, fold
from fintune_xr.analysis.report.numbers import decimals
from fintune_xr.analysis.report.sections.first_rule import rule_notes
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.analysis.report.sections.validation import validation_parts
from fintune_xr.text import texts

_TITLE = "Which cells are positive"
_FIXED = "fixed_"
_RULES = {
    "otsu": "signal above Otsu's threshold, one for each marker of the cohort",
    "otsu_donor": "signal above Otsu's threshold, one for each donor and marker",
    "mixture": "signal where the brighter of two fitted populations is likelier, for each marker of the cohort",
    "detected": "every cell of the marker that holds a nucleus of another run",
}
_ONE_CHANNEL = Note(
    "No cell is called positive: that takes a marker beside the channel that all cells are seen in, and this cohort "
    "has one channel.",
)


def positivity_section(contents: Statistics) -> Section:
    """The rules that were applied, what annotations say of them, the ratio of each donor and rho under every rule."""
    if not contents.has_marker:
        return Section("positivity", _TITLE, (_ONE_CHANNEL,))
    parts: list[Part] = [Note(text) for text in _rules_in_words(contents.active_rules)]
    parts += rule_notes(contents.analysis)
    unvalidated = [run for run in contents.positivity if run not in contents.validation]
    findings = (*_doubtful(contents), *((_unvalidated(unvalidated),) if unvalidated else ()))
    parts += [*findings, *validation_parts(contents)]
    for run, counts in contents.signals.items():
        parts += _cells_of(contents, run, counts)
    hidden: list[Part] = [_rules_table(contents)] if contents.positivity else []
    if contents.ratio_by_rule is not None:
        hidden += [_ratio_picture(contents.ratio_by_rule, run) for run in contents.ratio_by_rule[n.RUN].values]
    if contents.rho_by_rule is not None:
        hidden.append(_rho_table(contents.rho_by_rule))
    parts += fold("The same cells under every stored rule: counts, ratios and rho", hidden)
    return Section("positivity", _TITLE, tuple(parts), "fintune-xr positivity STORE --run RUN", findings=findings)


def _doubtful(contents: Statistics) -> list[Note]:
    """What speaks against the thresholds that shares rest on, run by run; of older counts nothing is known."""
    told = []
    for run, counts in contents.positivity.items():
        doubts = counts.attrs.get(n.THRESHOLD_DOUBTS, {})
        told += [Note(f"{run}: {line}.", "doubtful") for line in doubt_lines(doubts, contents.active_rules[run])]
    return told


def _unvalidated(runs: Sequence[str]) -> Note:
    return Note(
        f"The shares of positive cells of {', '.join(runs)} are unvalidated: no annotation that is new to the model "
        "says which cells are positive, and no rule was held against the eyes of an expert. Look at some tiles before "
        "you trust a share. Where masks outline all cells, or the positive ones, say so:",
        "doubtful",
        "fintune-xr annotate MASKS STORE --marks positive",
    )


def rule_words(rule: str) -> str:
    """A rule as people say it, with the code by which it is stored."""
    if rule.startswith(_FIXED):
        return f"a fixed threshold of {rule.removeprefix(_FIXED)} counts ({rule})"
    return f"{_RULES[rule]} ({rule})" if rule in _RULES else rule


def _rules_in_words(rules: Mapping[str, str]) -> list[str]:
    """A sentence for each rule in use, with the runs that use it."""
    runs: dict[str, list[str]] = {}
    for run, rule in rules.items():
        runs.setdefault(rule, []).append(run)
    return [f"Positive cells of {', '.join(names)}: {rule_words(rule)}." for rule, names in runs.items()]


def _cells_of(contents: Statistics, run: str, counts: xr.DataArray) -> list[Part]:
    """Signals of all cells of a run with the threshold, and tiles with the verdict on each cell."""
    rule = contents.active_rules[run]
    at = contents.positivity[run].sel({n.RULE: rule})
    limits = pd.Series(at[n.THRESHOLD].values).groupby(texts(at[n.MARKER]))
    known = [found.reindex(texts(counts[n.MARKER])).to_numpy() for found in (limits.min(), limits.max())]
    ends = [xr.DataArray(values, dims=n.MARKER) for values in known]
    alt = f"Histograms of the marker signal of all cells of {run}, with the threshold"
    caption = f"Run {run}: marker signal of every cell on a logarithmic scale; right of the threshold it is positive."
    if not ends[0].equals(ends[1]):
        caption += " Thresholds differ between donors: the band is their range, and colours change at its middle."
    parts: list[Part] = [Picture(data_uri(signal_figure(counts, *ends), "svg"), alt, caption)]
    if contents.judged.get(run):
        uri = data_uri(judged_figure(contents.judged[run]), "jpeg", dpi=PICTURE_DPI)
        alt = f"Tiles with the outlines of positive and negative cells of {run}"
        caption = f"Run {run}: of each marker the tile with the median share of positive cells; the marker in grey."
        parts.append(Picture(uri, alt, caption))
    return parts


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
    rules, markers = texts(positivity[n.RULE]), texts(positivity[n.MARKER])
    columns = {name: positivity[name].transpose(n.RULE, n.TILE).values.ravel() for name in names}
    labels = {n.RULE: np.repeat(rules, len(markers)), n.MARKER: np.tile(markers, len(rules))}
    frame = pd.DataFrame({**labels, **columns})
    frame = frame[(frame[n.N_POSITIVE] >= 0) & (frame[n.N_ALL] >= 0)]
    grouped = frame.groupby([n.RULE, n.MARKER], sort=True)
    return grouped.agg(
        tiles=(n.N_ALL, "count"), all_cells=(n.N_ALL, "sum"), positive_cells=(n.N_POSITIVE, "sum"),
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
