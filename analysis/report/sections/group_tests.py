"""The section on groups of donors: whether the ratio, or another readout, differs between them."""

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
from fintune_xr.analysis.group_tests import MIN_FOR_INTERVAL
from fintune_xr.analysis.report.contents import Drawing, Gallery, Note, Part, Section, Table, fold
from fintune_xr.analysis.report.numbers import Format, count_text, decimals, probability, whole, with_interval
from fintune_xr.analysis.report.sections.findings import ALPHA
from fintune_xr.text import texts

COMMAND: Final = "fintune-xr associate STORE --clinical CSV --group COLUMN"
TITLE: Final = "Groups of donors"
MOST_SHOWN: Final = 6
_RMO: Final = (n.RUN, n.MARKER, n.OUTCOME)
_TOLD: Final = (
    n.RANK_TEST, n.TEST_STATISTIC, n.EFFECT, n.EFFECT_LOW, n.EFFECT_HIGH, n.EFFECT_MEASURE, n.N, n.P, n.Q, n.P_METHOD,
    n.REASON,
)  # fmt: skip
_EFFECT_TEXT: Final = "effect [interval]"
_ABOUT: Final = (
    "Two groups: Mann–Whitney, and the rank-biserial correlation: the share of pairs of donors in which the second "
    "group is higher less the share in which it is lower. More: Kruskal–Wallis, and epsilon squared, 0 to 1. Groups "
    "that are times of the same subjects: Wilcoxon's signed ranks, or Friedman and Kendall's W."
)

_Row = Mapping[Hashable, Any]


def group_section(tests: Mapping[str, xr.Dataset]) -> Section:
    """Each readout, by what was asked for, between the groups of each column; GROUP_TESTS has what a dataset holds."""
    if not tests:
        return Section("groups", TITLE, command=COMMAND)
    table = group_rows(tests)
    rows = table[table[n.RANK_TEST] != ""].to_dict("records")
    shown = [row for row in rows if row[n.Q] < ALPHA][:MOST_SHOWN] or rows[:1]
    drawings = tuple(_drawing(tests[str(row[n.READOUT])], row) for row in shown)
    parts: list[Part] = [Note(_ABOUT), Note(_family_text(len(tests)))]
    parts += [Gallery(drawings)] if drawings else []
    parts += fold("All groups in numbers", [_listed(table), _medians(tests)])
    return Section("groups", TITLE, tuple(parts), findings=tuple(_findings(table)))


def group_rows(tests: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Rows readout, run, marker, outcome and what each test gave; smallest q first."""
    order = [n.READOUT, *_RMO, *_TOLD]
    frames = [
        one[list(_TOLD)].reset_coords(drop=True).to_dataframe().reset_index().assign(**{n.READOUT: name})[order]
        for name, one in tests.items()
    ]
    return pd.concat(frames).sort_values([n.Q, n.P], kind="stable", na_position="last", ignore_index=True)


def _family_text(n_readouts: int) -> str:
    return (
        f"q is adjusted over the markers and columns of one readout and run, of which {whole(n_readouts)} "
        f"{'stands' if n_readouts == 1 else 'stand'} here; below {MIN_DONORS_FOR_Q} donors there is none. Intervals of "
        f"effects are over donors (subjects), where each group has {MIN_FOR_INTERVAL} or more."
    )


def _listed(table: pd.DataFrame) -> Table:
    page = table[[n.READOUT, *_RMO, n.RANK_TEST]].rename(columns={n.OUTCOME: "groups", n.RANK_TEST: "test"})
    ends = zip(table[n.EFFECT], table[n.EFFECT_LOW], table[n.EFFECT_HIGH], strict=True)
    page = page.assign(**{_EFFECT_TEXT: [with_interval(*one, signed=True) for one in ends]})
    page = page.assign(**{name: table[name] for name in (n.N, n.P, n.Q, n.P_METHOD, n.REASON)})
    formats: dict[str, Format] = {n.P: probability, n.Q: probability, _EFFECT_TEXT: str}
    strong = frozenset(np.flatnonzero(table[n.Q] < ALPHA).tolist())
    return Table("groups", "All tests of groups, smallest q first", table, formats, page, (n.READOUT,), strong)


def _medians(tests: Mapping[str, xr.Dataset]) -> Table:
    frames = []
    for name, one in tests.items():
        frame = one[[n.MEDIAN, n.N_IN_GROUP]].to_dataframe().reset_index()
        frames.append(frame[frame[n.GROUP_LABEL] != ""].assign(**{n.READOUT: name}))
    columns = [n.READOUT, *_RMO, n.GROUP_LABEL, n.MEDIAN, n.N_IN_GROUP]
    table = pd.concat(frames)[columns].reset_index(drop=True)
    return Table("group_medians", "Median of each group", table, {n.MEDIAN: _four_digits}, None, (n.READOUT,))


def _findings(table: pd.DataFrame) -> list[Note]:
    """One line for each readout and run."""
    told = []
    for (name, run), rows in table.groupby([n.READOUT, n.RUN], sort=False):
        hits, tested = rows[rows[n.Q] < ALPHA], int(rows[n.Q].notna().sum())
        count = whole(len(hits)) if len(hits) else "none"
        head = f"{run}: of {whole(tested)} tests between groups of donors ({name}) {count}"
        best = rows.iloc[0]
        first = f", {best[n.MARKER]} by {best[n.OUTCOME]} first ({best[n.EFFECT_MEASURE]} {_signed(best[n.EFFECT])})"
        told.append(
            Note(f"{head} {'have' if len(hits) > 1 else 'has'} q < {ALPHA}{first if len(hits) else ''}.",
                 "good" if len(hits) else "plain")
        )  # fmt: skip
    return told


def _drawing(tests: xr.Dataset, row: _Row) -> Drawing:
    """Donors of each group side by side; the line of a caption says what the test found."""
    at = {n.RUN: row[n.RUN], n.MARKER: row[n.MARKER]}
    labels = [one for one in texts(tests[n.GROUP_LABEL].sel({n.OUTCOME: row[n.OUTCOME]})) if one]
    values = tests[n.READOUT].sel(at).values
    group = np.array(texts(tests[n.LABEL].sel({n.OUTCOME: row[n.OUTCOME]})))
    here = np.isfinite(values) & np.isin(group, labels)
    places = np.array([labels.index(one) + 1 for one in group[here].tolist()], np.float64)
    rows = zip(texts(tests[n.DONOR].isel({n.DONOR: here})), group[here].tolist(), values[here].tolist(), strict=True)
    names = [f"{donor} ({one}): {_four_digits(value)}" for donor, one, value in rows]
    across = Axis(str(row[n.OUTCOME]), names=tuple(labels))
    up = Axis(f"{row[n.MARKER]} {row[n.READOUT]}")
    svg = scatter_svg(
        Points(places, values[here], names), x=across, y=up, colour=colour_of(texts(tests[n.RUN]))[row[n.RUN]]
    )
    return Drawing(svg, f"{row[n.READOUT]}, {row[n.MARKER]} by {row[n.OUTCOME]}, {row[n.RUN]}", _caption(tests, row))


def _caption(tests: xr.Dataset, row: _Row) -> str:
    effect = with_interval(row[n.EFFECT], row[n.EFFECT_LOW], row[n.EFFECT_HIGH], signed=True)
    whose = ("subject", "subjects") if tests.attrs.get(n.SUBJECT) else ("donor", "donors")
    parts = [f"{row[n.RANK_TEST]}: {row[n.EFFECT_MEASURE]} {effect}", count_text(int(row[n.N]), *whose)]
    parts += [f"{key} {probability(row[key])}" for key in (n.P, n.Q) if np.isfinite(row[key])]
    return ", ".join(parts)


def _signed(value: Any) -> str:
    return decimals(2, signed=True)(value)


def _four_digits(value: Any) -> str:
    return f"{float(value):.4g}"
