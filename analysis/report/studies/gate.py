"""The post-processing study as the report shows it: what each gate does to scores and to donor ratios."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.figures.studies import grid_figure
from fintune_xr.analysis.report.contents import Note, Part, Study, Table
from fintune_xr.analysis.report.numbers import decimals, percent, probability, value_text, whole, with_interval
from fintune_xr.metrics.counts import AP50, IOU, SCORES, score_name
from fintune_xr.metrics.donor_tests import holm
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.names import ALL_MARKERS
from fintune_xr.pixels.cell_gates import UNGATED

ALPHA: Final = 0.05
_P_AP50: Final = f"{AP50}_{n.DIFFERENCE}_{n.P}"
_CORRECTED_P: Final = "difference_p"
_WITHIN_A_GATE: Final = "q-values are adjusted within a gate, not over the gates: run `gate` again."
GATE: Final = (n.Q_LO, n.Q_HI, n.MIN_AREA)
_NAMES: Final = [score_name(score, way) for score in SCORES for way in (n.IMAGE_MEAN, n.POOLED)]


def gate_study(found: xr.Dataset) -> Study:
    """The study of one run from its stored dataset, `metrics/gate_<run>`."""
    run = str(found.attrs[n.RUN])
    table = gate_table(found)
    lost = [Note(line, "doubtful") for line in left_out_lines(found)]
    more: tuple[Part, ...] = (*lost, _ratio_table(found, run), *_association_tables(found, run))
    finding = Note(_best(table))
    return Study(
        "gate", _text(found, table), table, _figure(found), name=run, page=gate_page(table), more=more, finding=finding
    )


def gate_words(q_lo: float, q_hi: float, min_area: float) -> str:
    """A gate as people say it, in place of the code by which it is stored."""
    parts = [] if (q_lo, q_hi) == (0, 100) else [f"intensity between percentiles {q_lo:g} and {q_hi:g}"]
    parts += [f"at least {min_area:g} px"] if min_area > 0 else []
    return ", ".join(parts) or "no gate"


def gate_table(found: xr.Dataset) -> pd.DataFrame:
    """One row per gate: cells kept, scores at IoU 0.5 over all markers with intervals, agreement of donor ratios.

    `<score>_low` and `_high` are the stored interval, `difference` is that of AP50 to no gate; `rank_agreement` is
    the lowest over markers, `rho_change` the largest change of any correlation with an outcome.
    """
    at = found.sel({n.GROUP: ALL_MARKERS}).sel({n.THRESHOLD: IOU}, method="nearest")
    columns: dict[str, Any] = {n.SETTING: [str(name) for name in found[n.SETTING].values]}
    columns |= {name: found[name].values for name in (*GATE, n.N_KEPT)}
    for name in _NAMES:
        columns |= _with_ends(at, name, name)
    columns |= _with_ends(at, f"{AP50}_{n.DIFFERENCE}", n.DIFFERENCE)
    if _P_AP50 in at:
        columns[_CORRECTED_P] = _corrected(at)
    columns[n.RANK_AGREEMENT] = found[n.RANK_AGREEMENT].min(n.MARKER).values
    if n.RHO in found:
        change = abs(found[n.RHO] - found[n.RHO].sel({n.SETTING: UNGATED.name}))
        columns["rho_change"] = change.max((n.MARKER, n.OUTCOME)).values
    return pd.DataFrame(columns)


def _corrected(at: xr.Dataset) -> NDArray[np.float64]:
    """P (setting,) that a gate changes nothing, corrected for the number of gates; NaN of no gate itself."""
    is_gate = np.array([str(name) != UNGATED.name for name in at[n.SETTING].values])
    return holm(np.where(is_gate, at[_P_AP50].values, np.nan))


def _with_ends(at: xr.Dataset, name: str, column: str) -> dict[str, Any]:
    """A score with the ends of its interval; nothing of what was not stored."""
    if name not in at:
        return {}
    interval = f"{name}_{n.INTERVAL}"
    if interval not in at:
        return {column: at[name].values}
    low, high = at[interval].transpose(n.QUANTILE, ...).values
    return {column: at[name].values, f"{column}_low": low, f"{column}_high": high}


def gate_page(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `gate_table` that people compare, as text where they have an interval."""
    page = pd.DataFrame({
        "percentiles": [f"{low:g}–{high:g}" for low, high in zip(table[n.Q_LO], table[n.Q_HI], strict=True)],
        "smallest area, px": table[n.MIN_AREA],
        "cells kept": [percent(kept / table[n.N_KEPT].iloc[0]) for kept in table[n.N_KEPT]],
        "AP50": _texts(table, AP50),
    })  # fmt: skip
    if n.DIFFERENCE in table:
        page["against no gate"] = _texts(table, n.DIFFERENCE, signed=True)
    for name in (n.PRECISION, n.RECALL, n.F1):
        page[name] = _rounded(table[score_name(name, n.POOLED)])
    page["ratio ranks agree"] = _rounded(table[n.RANK_AGREEMENT])
    if "rho_change" in table:
        page["largest change of rho"] = _rounded(table["rho_change"])
    return page


def _rounded(column: pd.Series[Any]) -> list[str]:
    """As many digits as AP50 has beside them: the table is as wide as a page."""
    return [value_text(value, decimals(2)) for value in column]


def _texts(table: pd.DataFrame, name: str, *, signed: bool = False) -> list[str]:
    missing = pd.Series(np.nan, table.index)
    ends = (table.get(f"{name}_low", missing), table.get(f"{name}_high", missing))
    return [with_interval(*row, signed=signed) for row in zip(table[name], *ends, strict=True)]


def _ratio_table(found: xr.Dataset, run: str) -> Table:
    names = [n.RATIO, n.N_POSITIVE, n.N_ALL, n.N_TILES]
    data = found[names].drop_vars(GATE).to_dataframe().reset_index()[[n.SETTING, n.MARKER, n.DONOR, *names]]
    data = data[data[n.N_TILES] > 0]
    page = pd.DataFrame({"median ratio": found[n.RATIO].median(n.DONOR).to_series()})
    page["ranks agree"] = found[n.RANK_AGREEMENT].to_series()
    gates = zip(*(found[name].values.tolist() for name in GATE), strict=True)
    words = dict(zip(found[n.SETTING].values.tolist(), [gate_words(*gate) for gate in gates], strict=True))
    page = page.reset_index().rename(columns={n.SETTING: "cells that stay"})
    page["cells that stay"] = page["cells that stay"].map(words)
    caption = "Donor ratios under each gate: median over donors, and rank agreement with no gate"
    formats = {"median ratio": percent}
    return Table(f"gate_ratios_{run}", caption, data, formats, page)


def _association_tables(found: xr.Dataset, run: str) -> list[Table]:
    """How far each correlation moves over the gates; every one of them in the TSV."""
    if n.RHO not in found:
        return []
    names = [n.RHO, n.P, n.Q, n.N, n.REASON]
    keys = [n.MARKER, n.OUTCOME]
    data = found[names].drop_vars(GATE).reset_coords(drop=True).to_dataframe().reset_index()
    rho = found[n.RHO]
    columns = {
        "without a gate": rho.sel({n.SETTING: UNGATED.name}, drop=True),
        "lowest rho": rho.min(n.SETTING),
        "highest rho": rho.max(n.SETTING),
        f"gates with q < {ALPHA}": (found[n.Q] < ALPHA).sum(n.SETTING),
    }
    page = xr.Dataset({name: array.reset_coords(drop=True) for name, array in columns.items()})
    formats = dict.fromkeys(list(columns)[:3], decimals(2, signed=True))
    caption = "Correlation of donor ratios with outcomes over all gates"
    data = data[[n.SETTING, *keys, *names]]
    return [Table(f"gate_associations_{run}", caption, data, formats, page.to_dataframe().reset_index(), (n.OUTCOME,))]


def _text(found: xr.Dataset, table: pd.DataFrame) -> str:
    run, split = found.attrs[n.RUN], found.attrs[n.PROVENANCE]["split"]
    head = (
        f"Run {run}: {whole(len(table))} gates on its stored masks and cells. A gate drops a cell whose mean marker "
        "intensity lies outside the percentile range of its tile's cells, or whose area is below the smallest; both "
        f"limits stay in. Scores: annotated tiles of part {split}, precision, recall and F1 pooled. Ratios: the whole "
        f"cohort, rule {found.attrs[n.RULE]} applied again to the cells that stay; the ranks of donors are compared "
        "with those without a gate, the lowest marker shown."
    )
    return " ".join(filter(None, [head, _best(table), _caution(found, table)]))


def _best(table: pd.DataFrame) -> str:
    if table[AP50].isna().all():
        return "No gate has an AP50 on these tiles."
    best = table.iloc[int(np.nanargmax(table[AP50]))]
    number, before = (decimals(3)(value) for value in (best[AP50], table[AP50].iloc[0]))
    if best[n.SETTING] == UNGATED.name:
        return f"No gate raises AP50 above the {before} without one."
    low, high = (best.get(f"{n.DIFFERENCE}_{end}", np.nan) for end in ("low", "high"))
    change = with_interval(best.get(n.DIFFERENCE, best[AP50] - table[AP50].iloc[0]), low, high, digits=3, signed=True)
    p = float(best.get(_CORRECTED_P, np.nan))
    is_shown = low > 0 and p <= ALPHA
    told = f"p {probability(p)} corrected for {len(table) - 1} gates" if not np.isnan(p) else "without a p"
    shown = f"{told}, {'a gain' if is_shown else 'not shown to be a gain'}"
    return (
        f"Highest AP50: {number} with percentiles {best[n.Q_LO]:g}–{best[n.Q_HI]:g} and {best[n.MIN_AREA]:g} px, "
        f"{before} without a gate; difference {change}, {shown}."
    )


def _caution(found: xr.Dataset, table: pd.DataFrame) -> str:
    flatters = f"The best of {len(table)} was picked on the tiles it is judged by, so its score flatters it."
    said = [flatters] if table[AP50].max() > table[AP50].iloc[0] else []
    over = n.Q in found and n.RUN in list(found[n.Q].attrs.get("family", []))
    told = "q-values are adjusted over all gates, markers and outcomes." if over else _WITHIN_A_GATE
    return " ".join([*said, *([told] if n.RHO in found else [])])


def _figure(found: xr.Dataset) -> Any:
    """AP50 over ranges and areas; none where the grid has a single cell or no score."""
    score = found[AP50].sel({n.GROUP: ALL_MARKERS}).sel({n.THRESHOLD: IOU}, method="nearest").to_pandas()
    ranges = [f"{low:g}–{high:g}" for low, high in zip(found[n.Q_LO].values, found[n.Q_HI].values, strict=True)]
    frame = pd.DataFrame({"q": ranges, "area": found[n.MIN_AREA].values, "score": score.to_numpy()})
    grid = frame.pivot(index="q", columns="area", values="score").reindex(index=list(dict.fromkeys(ranges)))
    if grid.isna().to_numpy().all() or grid.size < 2:
        return None
    shown = xr.DataArray(grid.to_numpy(), dims=("q_range", n.MIN_AREA), attrs={"long_name": "AP50, image mean"})
    shown = shown.assign_coords({"q_range": list(grid.index), n.MIN_AREA: [str(area) for area in grid.columns]})
    shown["q_range"].attrs["long_name"] = "percentiles kept"
    shown[n.MIN_AREA].attrs["long_name"] = "smallest area (px)"
    return grid_figure(shown)
