"""Sections about the question: donor ratios, their association with outcomes, and how stable it is."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis import comparison, outcomes, ratio_intervals
from fintune_xr.analysis.association import MIN_DONORS_FOR_Q
from fintune_xr.analysis.bootstrap import OVER_DONORS
from fintune_xr.analysis.figures.statistics import SIGNIFICANT, association_figure, bootstrap_figure, ratio_figure
from fintune_xr.analysis.figures.style import data_uri
from fintune_xr.analysis.ratio_intervals import mean_ratio, ratio_differences
from fintune_xr.analysis.report.contents import Fold, Note, Part, Picture, Section, Table, fold
from fintune_xr.analysis.report.numbers import (
    Format,
    decimals,
    percent,
    probability,
    share_interval,
    whole,
    with_interval,
)
from fintune_xr.analysis.report.sections.findings import ALPHA, covariates_of, findings
from fintune_xr.analysis.report.sections.first_rule import by_first_rules, rule_notes
from fintune_xr.analysis.report.sections.scatters import scatter_parts
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.analysis.report.sections.validation import corrected_parts, corrected_rho_parts

ASSOCIATE: Final = "fintune-xr associate STORE --clinical CSV"
BOOTSTRAP: Final = "fintune-xr bootstrap STORE --resamples 1000"
_WITHIN_DONORS: Final = Note(
    "Tiles were drawn within donors: this shows how rho depends on which tiles were taken, not what other donors would "
    "give. It is no interval, has no level, and says of no two runs that they differ. For intervals: resample donors.",
    "doubtful",
    "fintune-xr bootstrap STORE --scheme donors",
)
_SAME_RHO: Final = 1e-9
_MEDIAN_TEXT: Final = "median [interval]"
_STANDARD_ERROR: Final = "standard error"
_RMO: Final = (n.RUN, n.MARKER, n.OUTCOME)


def ratio_section(contents: Statistics) -> Section:
    """The positive ratio of every donor, as a picture and a table."""
    if contents.analysis is None:
        return Section("ratios", "Donor ratios", command=ASSOCIATE)
    analysis = contents.analysis
    names = [n.RATIO, n.N_POSITIVE, n.N_ALL, n.N_TILES]
    table = analysis[names].to_dataframe().reset_index()[[n.MARKER, n.DONOR, n.RUN, *names]]
    table = table[table[n.N_TILES] > 0].sort_values([n.MARKER, n.DONOR, n.RUN])
    caption = "Marker-positive cells over all cells, summed over the tiles of each donor"
    listed = Table("ratios", caption, table, {n.RATIO: percent}, code=(n.DONOR,))
    picture = Picture(
        data_uri(ratio_figure(analysis[n.RATIO]), "svg"),
        "Strip plot of the marker-positive ratio of each donor, per marker and run",
        "A point is a donor, lines join the same donor, the wide line is the median.",
    )
    hidden = fold("Means, differences between runs, and the ratio of every donor", [*_mean_tables(contents), listed])
    return Section("ratios", "Donor ratios", (picture, *corrected_parts(analysis), *hidden))


def _mean_tables(contents: Statistics) -> list[Table]:
    """Mean ratio of each run and marker, and paired differences to the baseline, with intervals over donors."""
    if contents.analysis is None:
        return []
    ratio = contents.analysis[n.RATIO]
    caption = "Mean of the donor ratios; in brackets the 95 % interval over donors (Student's t, none below 4 donors)"
    found = [_mean_table("ratio_means", caption, mean_ratio(ratio), signed=False)]
    runs = [str(run) for run in ratio[n.RUN].values]
    if contents.baseline in runs and len(runs) > 1:
        caption = (
            f"Difference of the ratio to {contents.baseline}, paired by donor; p from flipping the signs of donors, "
            "not corrected for the number of rows: exploratory"
        )
        found.append(
            _mean_table("ratio_differences", caption, ratio_differences(ratio, baseline=contents.baseline), signed=True)
        )
    return found


def _mean_table(key: str, caption: str, means: xr.Dataset, *, signed: bool) -> Table:
    data = means.reset_coords(drop=True).to_dataframe().reset_index()
    rows = data[[n.MARKER, n.RUN]]
    ends = zip(data[ratio_intervals.MEAN], data[ratio_intervals.LOW], data[ratio_intervals.HIGH], strict=True)
    page = rows.copy()
    mean = f"mean [interval], {'% points' if signed else '%'}"
    page[mean] = [share_interval(*one, signed=signed) for one in ends]
    page[n.N] = data[n.N]
    formats: dict[str, Format] = {mean: str}
    if n.P in data:
        page, formats = page.assign(**{n.P: data[n.P]}), {**formats, n.P: probability}
    return Table(key, caption, data, formats, page)


def association_section(contents: Statistics) -> Section:
    """Rho of every ratio and outcome: heat map and a table that begins with the smallest q."""
    if contents.analysis is None:
        return Section("associations", "Association with outcomes", command=ASSOCIATE)
    table = association_table(contents.analysis, contents.clinical)
    family = contents.analysis.attrs.get("family", [])
    family_text = " and ".join(map(str, list(family))) or "the stored family"
    text = (
        f"{_adjusted(contents.analysis)} of the donor ratio with each outcome, over the donors that have both. "
        f"{_methods_text(contents.analysis)} q is the Benjamini–Hochberg value, adjusted jointly over {family_text}; "
        f"below {MIN_DONORS_FOR_Q} donors there is none."
    )
    picture = Picture(
        data_uri(association_figure(contents.analysis), "svg"),
        "Heat map of Spearman correlations of donor ratios with outcomes",
        "Red: the ratio rises with the outcome's value; blue: it falls. Hatched: no correlation exists.",
    )
    formats = {n.RHO: decimals(2, signed=True), n.P: probability, n.Q: probability}
    listed = Table(
        "associations", "All associations, smallest q first", table, formats, _page(table), (n.OUTCOME,),
        frozenset(np.flatnonzero(table[n.Q] < ALPHA).tolist()),
    )  # fmt: skip
    parts: list[Part] = [*rule_notes(contents.analysis), *_reversed_scales(table)]
    parts += [*scatter_parts(contents), picture, Note(text), *corrected_rho_parts(contents.analysis)]
    parts += fold("All associations in numbers", [listed])
    parts += fold("The counts as counts: a second look without ranks", _count_parts(contents.analysis))
    parts += _lost_parts(contents.analysis, contents.rho_if_lost)
    told = tuple(findings(contents, association_table(by_first_rules(contents.analysis), contents.clinical)))
    return Section("associations", "Association with outcomes", tuple(parts), findings=told, leads=True)


def _count_parts(analysis: xr.Dataset) -> list[Part]:
    """The regression of the counts, where the store holds one: a second look that needs no ranks."""
    if n.LOG_ODDS not in analysis:
        return []
    names = [n.LOG_ODDS, n.LOG_ODDS_SE, n.DISPERSION, n.COUNT_P, n.COUNT_Q, n.COUNT_REASON]
    table = analysis[names].reset_coords(drop=True).to_dataframe().reset_index()[[*_RMO, *names]]
    table = table.sort_values([n.COUNT_Q, n.COUNT_P], kind="stable", na_position="last")
    adjusted = f", adjusted for {covariates_of(analysis)}" if covariates_of(analysis) else ""
    caption = (
        f"Counts as counts: log odds of a cell being positive per unit of the outcome{adjusted}, by binomial "
        "regression whose variance is the dispersion times the binomial one; exploratory beside rho"
    )
    formats: dict[str, Format] = {n.COUNT_P: probability, n.COUNT_Q: probability, n.DISPERSION: decimals(1)}
    formats |= {n.LOG_ODDS: decimals(3, signed=True), _STANDARD_ERROR: decimals(3)}
    table = table.reset_index(drop=True)
    # A column of reasons without any says nothing.
    silent = [n.COUNT_REASON] if (table[n.COUNT_REASON] == "").all() else []
    page = table.drop(columns=silent).rename(columns={n.LOG_ODDS_SE: _STANDARD_ERROR})
    return [Table("count_model", caption, table, formats, page, code=(n.OUTCOME,))]


def _adjusted(dataset: xr.Dataset) -> str:
    names = covariates_of(dataset)
    return f"Partial Spearman correlation, adjusted for {names}," if names else "Spearman correlation"


def _methods_text(analysis: xr.Dataset) -> str:
    """How the p-values of this table were found; stores without the variable hold those of Student's t."""
    if n.P_METHOD not in analysis:
        return "p is from Student's t."
    names, times = np.unique(analysis[n.P_METHOD].values[analysis[n.P].notnull().values], return_counts=True)
    told = [f"{name} ({whole(count)})" for name, count in zip(map(str, names), times.tolist(), strict=True)]
    return f"p is two-sided, by {', '.join(told)}." if told else "No p exists."


def association_table(analysis: xr.Dataset, clinical: xr.Dataset | None) -> pd.DataFrame:
    """Rows run, marker, outcome, rho, n, p, q, mark, direction of the outcome, reason, method; smallest q first."""
    names = [n.RHO, n.N, n.P, n.Q, n.REASON, *(name for name in (n.P_METHOD,) if name in analysis)]
    table = analysis[names].to_dataframe().reset_index()[[*_RMO, *names]]
    table = table.sort_values([n.Q, n.P], kind="stable", na_position="last")
    directions = _directions(clinical)
    marks = [next((mark for limit, mark in SIGNIFICANT if q < limit), "") for q in table[n.Q]]
    table.insert(7, "mark", marks)
    table.insert(8, n.DIRECTION, [directions.get(name, "not stated") for name in table[n.OUTCOME]])
    return table.reset_index(drop=True)


def _lost_parts(analysis: xr.Dataset, bounds: xr.Dataset | None) -> list[Part]:
    """Where quarantined tiles could change rho, and by how much."""
    if bounds is None:
        return []
    names = {comparison.LOW: "if_lost_negative", comparison.HIGH: "if_lost_positive"}
    table = bounds.rename(names).assign({n.RHO: analysis[n.RHO]}).to_dataframe().reset_index()
    table = table[[*_RMO, n.RHO, *names.values()]].sort_values(list(_RMO))
    moved = (table[list(names.values())].sub(table[n.RHO], axis=0).abs() > _SAME_RHO).any(axis=1)
    if not moved.any():
        return [Note("No correlation would change if the quarantined tiles had been read.", "good")]
    caption = "Rho if every cell of the quarantined tiles were negative, or positive; only where it changes"
    formats = dict.fromkeys([n.RHO, *names.values()], decimals(2, signed=True))
    listed = Table("quarantine_sensitivity", caption, table[moved], formats, code=(n.OUTCOME,))
    return [Fold("What the quarantined tiles could change", (listed,))]


def _page(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with one remark: the direction of the outcome, or why there is no rho."""
    remark = table[n.REASON].where(table[n.RHO].isna() & (table[n.REASON] != ""), table[n.DIRECTION])
    few = table[n.P].notna() & table[n.Q].isna()
    remark = remark.where(~few, remark + f"; no q below {MIN_DONORS_FOR_Q} donors")
    return table.drop(columns=[n.DIRECTION, n.REASON, n.P_METHOD], errors="ignore").assign(remark=remark)


def bootstrap_section(contents: Statistics) -> Section:
    """Distribution of rho over resamples and its summary: intervals over donors, or stability within them."""
    analysis, bootstrap, stability = contents.analysis, contents.bootstrap, contents.stability
    if analysis is None or bootstrap is None or stability is None:
        return Section("bootstrap", "Resamples", command=BOOTSTRAP)
    facts = {key: bootstrap.attrs.get(key, "not stated") for key in ("scheme", "seed")}
    scheme = bootstrap.attrs.get("scheme_meaning", facts["scheme"])
    text = f"{whole(bootstrap.sizes[n.RESAMPLE])} resamples: {scheme}. Seed {facts['seed']}."
    if covariates_of(bootstrap):
        text += f" In each of them rho is adjusted for {covariates_of(bootstrap)}."
    over_donors = facts["scheme"] in OVER_DONORS
    line = "the line its 95 % interval over donors" if over_donors else "the line holds 95 % of the draws"
    figure = bootstrap_figure(bootstrap[n.RHO_RESAMPLED], analysis[n.RHO], stability)
    picture = Picture(
        data_uri(figure, "svg"),
        "Distributions of rho over resamples per marker, outcome and run",
        f"The shape is the distribution of rho, {line}, the mark the value of all tiles.",
    )
    notes = [Note(text)] if over_donors else [Note(text), _WITHIN_DONORS]
    table = _stability_table(analysis, stability, over_donors)
    hidden = fold("Rho over the resamples", [picture, table, *_redrawn_parts(contents)])
    return Section("bootstrap", "Resamples" if over_donors else "Stability", (*notes, *hidden))


def _redrawn_parts(contents: Statistics) -> list[Part]:
    """Intervals with the threshold of positivity found anew in each resample, beside those with the one threshold."""
    if contents.redrawn is None or contents.stability is None or contents.analysis is None:
        return []
    ends = [comparison.LOW, comparison.HIGH]
    parts = {"one threshold": contents.stability, "threshold anew": contents.redrawn}
    frames = {
        label: one[[comparison.MIDDLE, *ends]].reset_coords(drop=True).to_dataframe() for label, one in parts.items()
    }
    data = pd.concat(frames, axis=1)
    page = pd.DataFrame({label: _interval_texts(frame, comparison.MIDDLE) for label, frame in frames.items()})
    page.index = data.index
    data.columns = [f"{name} ({label})" for label in frames for name in (comparison.MIDDLE, *ends)]
    caption = (
        "Median of rho and its 95 % interval with the one threshold of the cohort, and with the threshold found anew "
        "among the cells of the donors of each resample"
    )
    formats: dict[str, Format] = dict.fromkeys(frames, str)
    return [Table("threshold_redrawn", caption, data.reset_index(), formats, page.reset_index(), (n.OUTCOME,))]


def _stability_table(analysis: xr.Dataset, stability: xr.Dataset, over_donors: bool) -> Table:
    shares = {
        "same sign": comparison.SIGN_CONSISTENCY,
        f"p ≤ {ALPHA}": comparison.SHARE_SIGNIFICANT,
        f"q ≤ {ALPHA}": comparison.SHARE_DISCOVERED,
    }
    ends = [comparison.LOW, comparison.HIGH] if over_donors else []
    names = [comparison.MIDDLE, *ends, comparison.N_RESAMPLES, *shares.values()]
    stable, measured = (part.reset_coords(drop=True) for part in (stability[names], analysis[n.RHO]))
    data = stable.assign({n.RHO: measured}).to_dataframe().reset_index()
    data = data[[*_RMO, n.RHO, *names]]
    data = data.sort_values([comparison.SHARE_DISCOVERED, comparison.SIGN_CONSISTENCY], ascending=False)
    column = _MEDIAN_TEXT if over_donors else "median"
    page = data[[*_RMO, n.RHO]].assign(**{column: _interval_texts(data, comparison.MIDDLE)})
    page = page.assign(**{label: data[name] for label, name in shares.items()})
    formats: dict[str, Format] = {n.RHO: decimals(2, signed=True), column: str}
    formats |= dict.fromkeys(shares, percent)
    caption = "Rho over the resamples; shares are of the resamples in which a rho exists"
    return Table("bootstrap", caption, data, formats, page, (n.OUTCOME,))


def comparison_section(contents: Statistics) -> Section:
    """Differences of rho between runs within the same resamples; with intervals where donors were drawn."""
    if not contents.comparisons:
        return Section("comparison", "Runs compared", command=BOOTSTRAP)
    over_donors = contents.comparisons[0].attrs.get("scheme") in OVER_DONORS
    frames = []
    for one in contents.comparisons:
        frame = one.to_dataframe().reset_index()
        frame.insert(0, "comparison", f"{one.attrs['other']} − {one.attrs['baseline']}")
        frames.append(frame)
    data = pd.concat(frames).sort_values(["comparison", n.MARKER, n.OUTCOME], ignore_index=True)
    if not over_donors:
        data = data.drop(columns=[comparison.LOW, comparison.HIGH, comparison.DIFFERS])
    column = "difference of rho [interval]" if over_donors else "median difference of rho"
    page = data[["comparison", n.MARKER, n.OUTCOME]].assign(**{column: _interval_texts(data, comparison.MIDDLE)})
    page["resamples with higher rho"] = data[comparison.SHARE_HIGHER]
    if over_donors:
        page["differs"] = data[comparison.DIFFERS]
    formats: dict[str, Format] = {column: str, "resamples with higher rho": percent}
    caption = "Median difference of rho within the resamples" + (", with its interval" if over_donors else "")
    table = Table("comparison", caption, data, formats, page=page, code=(n.OUTCOME,))
    hidden = fold("Every difference of rho", [table])
    return Section("comparison", "Runs compared", (_compared(data) if over_donors else _WITHIN_DONORS, *hidden))


def _compared(data: pd.DataFrame) -> Note:
    return Note(
        f"In {whole(int(data[comparison.DIFFERS].sum()))} of {whole(len(data))} pairs of marker and outcome the "
        "interval of the paired difference leaves out zero; not corrected for their number: exploratory."
    )


def _directions(clinical: xr.Dataset | None) -> dict[str, str]:
    if clinical is None:
        return {}
    pairs = zip(clinical[n.OUTCOME].values, clinical[n.DIRECTION].values, strict=True)
    return {str(name): str(text) for name, text in pairs}


def _reversed_scales(table: pd.DataFrame) -> list[Note]:
    turned = table[n.OUTCOME][table[n.DIRECTION] == outcomes.BETTER].unique()
    text = f"{outcomes.BETTER}, so a positive rho means less pathology."
    return [Note(f"Mind the scale of {name}: {text}", "doubtful") for name in sorted(turned)]


def _interval_texts(data: pd.DataFrame, name: str) -> list[str]:
    if comparison.LOW not in data:
        return [with_interval(value, np.nan, np.nan, signed=True) for value in data[name]]
    columns = (data[name], data[comparison.LOW], data[comparison.HIGH])
    return [with_interval(value, low, high, signed=True) for value, low, high in zip(*columns, strict=True)]
