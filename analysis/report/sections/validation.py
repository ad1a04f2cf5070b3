"""What annotated tiles say of counts: the positivity rule as experts would judge it, corrected ratios and rho."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from fintune_xr import names as n
from fintune_xr.analysis.prediction_powered import LEAST_RELIABILITY
from fintune_xr.analysis.report.contents import Note, Part, Table
from fintune_xr.analysis.report.numbers import Format, decimals, percent, share_interval, whole, with_interval
from fintune_xr.analysis.report.sections.statistics import Statistics
from fintune_xr.metrics.donor_tests import MIN_DONORS, jackknife_interval
from fintune_xr.tasks.validation import POSITIVE_CELLS

Floats = np.ndarray[Any, np.dtype[np.float64]]

_RMO: Final = (n.RUN, n.MARKER, n.OUTCOME)


def validation_parts(contents: Statistics) -> list[Part]:
    """Each rule held against annotated tiles, where these tell something."""
    frames = [rule_scores(one).assign(**{n.RUN: run}) for run, one in contents.validation.items()]
    if not frames:
        return []
    table = pd.concat(frames, ignore_index=True)
    table = table[[n.RUN, *table.columns.drop(n.RUN)]]
    bias = ["bias", "bias_low", "bias_high"]
    # Of masks of all cells no rule has a precision; columns that say nothing would push the bias out of sight.
    silent = [name for name in (n.PRECISION, n.RECALL) if table[name].isna().all()]
    page = table.drop(columns=[*bias, *silent])
    ends = zip(*(table[name] for name in bias), strict=True)
    page["counted less true, % points"] = [share_interval(*one, signed=True) for one in ends]
    formats: dict[str, Format] = dict.fromkeys(["counted_share", "true_share"], percent)
    formats |= {**dict.fromkeys([n.PRECISION, n.RECALL], decimals(2)), "counted less true, % points": str}
    caption = (
        "Rules held against annotated tiles that the model has not seen; the bias with its 95 % interval over donors, "
        f"none below {MIN_DONORS}"
    )
    return [Note(_meaning(contents)), Table("positivity_validation", caption, table, formats, page)]


def _meaning(contents: Statistics) -> str:
    marks = {str(one.attrs[n.MARKS]) for one in contents.validation.values()}
    if marks == {POSITIVE_CELLS}:
        return (
            "The annotated masks outline marker-positive cells: precision and recall are of the cells that a rule "
            "calls positive, matched at IoU 0.5, and the true share is annotated cells over all cells of the run."
        )
    return (
        "The annotated masks outline all cells and do not say which are positive: the true share is that of annotated "
        "cells above the rule's threshold. It holds the segmentation against experts, and the threshold against nobody."
    )


def rule_scores(validation: xr.Dataset) -> pd.DataFrame:
    """A row for each rule and marker: tiles, donors, both shares, bias with interval, precision and recall."""
    rows = []
    markers = np.asarray(validation[n.MARKER].values, str)
    for rule in validation[n.RULE].values:
        for marker in np.unique(markers):
            one = validation.sel({n.RULE: rule}).isel({n.TILE: np.flatnonzero(markers == marker)})
            rows.append({n.RULE: str(rule), n.MARKER: str(marker), **_scores(one)})
    return pd.DataFrame(rows)


def _scores(one: xr.Dataset) -> dict[str, Any]:
    known = (one[n.N_POSITIVE].values >= 0) & (one[n.TRUE_POSITIVE].values >= 0) & (one[n.TRUE_ALL].values >= 0)
    counts = {
        name: np.where(known, one[name].values, 0) for name in (n.N_POSITIVE, n.N_ALL, n.TRUE_POSITIVE, n.TRUE_ALL)
    }
    donors, place = np.unique(np.asarray(one[n.DONOR].values, str)[known], return_inverse=True)
    sums = {name: np.bincount(place, values[known], donors.size) for name, values in counts.items()}
    counted, true = (
        _quotient(sums[n.N_POSITIVE].sum(), sums[n.N_ALL].sum()),
        _quotient(sums[n.TRUE_POSITIVE].sum(), sums[n.TRUE_ALL].sum()),
    )
    without = {name: values.sum() - values for name, values in sums.items()}
    left = _quotients(without[n.N_POSITIVE], without[n.N_ALL]) - _quotients(
        without[n.TRUE_POSITIVE], without[n.TRUE_ALL]
    )
    ends = jackknife_interval(np.array(counted - true), left, ~np.isnan(left)) if donors.size else [np.nan, np.nan]
    matched = {name: int(one[name].where(one[name] >= 0, 0).sum()) for name in (n.TP, n.FP, n.FN)}
    return {
        "tiles": int(known.sum()), "donors": int(donors.size), "counted_share": counted, "true_share": true,
        "bias": counted - true, "bias_low": float(ends[0]), "bias_high": float(ends[1]),
        n.PRECISION: _quotient(matched[n.TP], matched[n.TP] + matched[n.FP]),
        n.RECALL: _quotient(matched[n.TP], matched[n.TP] + matched[n.FN]),
    }  # fmt: skip


def _quotient(part: float, total: float) -> float:
    return float(part / total) if total else float("nan")


def _quotients(part: Floats, total: Floats) -> Floats:
    found: Floats = np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)
    return found


def corrected_parts(analysis: xr.Dataset) -> list[Part]:
    """Means, donor ratios and rho corrected by annotated tiles, where the store holds them."""
    if n.MEAN_CORRECTED not in analysis:
        return []
    text = (
        "Corrected by the annotated tiles that the model has not seen (prediction-powered inference, Angelopoulos et "
        "al. 2023): what is counted there too much or too little is taken off everywhere, and its spread between "
        f"donors widens the intervals. It takes {MIN_DONORS} annotated donors of a marker, taken to be like others."
    )
    means = analysis[
        [n.MEAN_CORRECTED, n.MEAN_CORRECTED_LOW, n.MEAN_CORRECTED_HIGH, n.RECTIFIER, n.RELIABILITY, n.N_ANNOTATED]
    ]
    data = means.reset_coords(drop=True).to_dataframe().reset_index()
    page = data[[n.MARKER, n.RUN]].copy()
    ends = zip(data[n.MEAN_CORRECTED], data[n.MEAN_CORRECTED_LOW], data[n.MEAN_CORRECTED_HIGH], strict=True)
    page["corrected mean [interval], %"] = [share_interval(*one) for one in ends]
    page["correction, % points"] = 100 * data[n.RECTIFIER]
    page[[n.RELIABILITY, "annotated donors"]] = data[[n.RELIABILITY, n.N_ANNOTATED]]
    formats: dict[str, Format] = {"corrected mean [interval], %": str, "annotated donors": whole}
    formats |= {"correction, % points": decimals(1, signed=True), n.RELIABILITY: decimals(2)}
    caption = (
        "Corrected mean of the donor ratios, 95 % interval; the correction, and the reliability of the donor ratios"
    )
    return [Note(text), Table("ratios_corrected_means", caption, data, formats, page), _donors(analysis)]


def _donors(analysis: xr.Dataset) -> Table:
    names = [n.RATIO, n.RATIO_CORRECTED, n.RATIO_CORRECTED_LOW, n.RATIO_CORRECTED_HIGH]
    data = analysis[names].reset_coords(drop=True).to_dataframe().reset_index()[[n.MARKER, n.DONOR, n.RUN, *names]]
    data = data[data[n.RATIO_CORRECTED].notna()].sort_values([n.MARKER, n.DONOR, n.RUN]).reset_index(drop=True)
    page = data[[n.MARKER, n.DONOR, n.RUN, n.RATIO]].copy()
    ends = zip(*(data[name] for name in names[1:]), strict=True)
    page["corrected [interval], %"] = [share_interval(*one) for one in ends]
    formats: dict[str, Format] = {n.RATIO: percent, "corrected [interval], %": str}
    return Table("ratios_corrected", "Corrected ratio of each donor, 95 % interval", data, formats, page, (n.DONOR,))


def corrected_rho_parts(analysis: xr.Dataset) -> list[Part]:
    """Rho of the true ratios, the segmentation's error in its interval."""
    if n.RHO_CORRECTED not in analysis or not bool(analysis[n.RHO_CORRECTED].notnull().any()):
        return []
    names = [n.RHO, n.RHO_CORRECTED, n.RHO_CORRECTED_LOW, n.RHO_CORRECTED_HIGH]
    data = analysis[[*names, n.Q]].reset_coords(drop=True).to_dataframe().reset_index()
    data = data[data[n.RHO_CORRECTED].notna()].sort_values(n.Q, kind="stable")[[*_RMO, *names]].reset_index(drop=True)
    page = data[[*_RMO, n.RHO]].copy()
    ends = zip(*(data[name] for name in names[1:]), strict=True)
    page["rho of true ratios [interval]"] = [with_interval(*one, signed=True) for one in ends]
    caption = (
        "Rho of the true ratios, smallest q first: that of the counted ones over the square root of their reliability, "
        "with a 95 % interval that draws donors and annotated donors anew; none where the reliability is below "
        f"{LEAST_RELIABILITY:g} or covariates are adjusted for. Exploratory beside the table above"
    )
    formats: dict[str, Format] = {n.RHO: decimals(2, signed=True), "rho of true ratios [interval]": str}
    return [Table("associations_corrected", caption, data, formats, page, (n.OUTCOME,))]
