"""The label budget as the report shows it: scores by number of annotated tiles, and how many more would pay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from fintune_xr import names as n
from fintune_xr.analysis import learning_curve as curves
from fintune_xr.analysis.figures.studies import learning_curve_figure
from fintune_xr.analysis.report.contents import UNFINISHED_STUDY, Note, Study, Table
from fintune_xr.analysis.report.numbers import MISSING, count_text, decimals, whole, with_interval
from fintune_xr.metrics.counts import AP50, IOU, SCORES, score_name

_INTERVAL_ENDS: Final = ("low", "high")


PERCLASS_DICE: Final = score_name(f"{n.PERCLASS}_{n.DICE}", n.IMAGE_MEAN)


@dataclass(frozen=True, slots=True)
class Curve:
    """Which score the curves of a study follow.

    `name` and `long_name` are its own, `scores` those of the table, `shown` those of the page by their heading; `turns`
    names what takes turns in the subsets.
    """

    score: str
    name: str
    long_name: str
    scores: tuple[str, ...]
    shown: Mapping[str, str]
    turns: str


_OF_MASKS: Final = Curve(
    AP50,
    "AP50",
    "AP50, image mean",
    tuple(score_name(score, way) for score in SCORES for way in (n.IMAGE_MEAN, n.POOLED)),
    {
        AP50: "AP50",
        score_name(n.PRECISION, n.POOLED): n.PRECISION,
        score_name(n.RECALL, n.POOLED): n.RECALL,
        score_name(n.F1, n.POOLED): n.F1,
    },
    "markers",
)
_PERCLASS: Final = {
    PERCLASS_DICE: "per-class Dice",
    score_name(f"{n.PERCLASS}_{n.DICE}", n.POOLED): "per-class Dice, pooled",
    score_name(f"{n.PERCLASS}_{n.IOU}", n.IMAGE_MEAN): "per-class IoU",
}
_OF_CLASSES: Final = Curve(
    PERCLASS_DICE, "per-class Dice", "per-class Dice, mean over classes", tuple(_PERCLASS), _PERCLASS,
    "the rarest classes of tiles",
)  # fmt: skip


def curve_of(found: xr.Dataset) -> Curve:
    """What the curves of a study, or of one fit, follow: AP50 of masks, per-class Dice of classes; never foreground."""
    return _OF_CLASSES if PERCLASS_DICE in found else _OF_MASKS


def _at_iou(found: xr.Dataset) -> xr.Dataset:
    """Scores at IoU 0.5, where they depend on one."""
    return found.sel({n.THRESHOLD: IOU}, method="nearest") if n.THRESHOLD in found.dims else found


def curve_score(found: xr.Dataset) -> xr.DataArray:
    """The score (…, group) that curves follow, of a study or of one fit."""
    score = curve_of(found).score
    return _at_iou(found[[score]])[score].reset_coords(drop=True)


def budget_study(found: xr.Dataset) -> Study:
    """The study from its stored dataset, `metrics/budget`; without curves where it was interrupted."""
    more: tuple[Table, ...] = (_spread_table(found),) if n.ASYMPTOTE in found else ()
    if n.ASYMPTOTE in found and found[n.ASYMPTOTE].notnull().any():
        more += (_curve_table(found),)
    shown = curve_of(found).shown
    page = budget_table(found)[[n.BUDGET, n.SEED, *shown]].rename(columns=dict(shown))
    finding = Note(_found(found))
    table = budget_table(found, every_group=True)
    return Study(n.BUDGET, _text(found), table, _figure(found), page=page, more=more, finding=finding)


def budget_table(found: xr.Dataset, *, every_group: bool = False) -> pd.DataFrame:
    """One row per fit that is done (and group): tiles trained on, scores (of masks at IoU 0.5), seconds."""
    names = [n.N_TRAIN, *curve_of(found).scores, n.SECONDS]
    at = _at_iou(found[names]).reset_coords(drop=True)
    rows = at.to_dataframe().reset_index()[[n.BUDGET, n.SEED, n.GROUP, *names]]
    rows = rows[rows[n.N_TRAIN] >= 0]
    if every_group:
        return rows.reset_index(drop=True)
    return rows[rows[n.GROUP] == n.ALL_MARKERS].drop(columns=[n.GROUP, n.N_TRAIN]).reset_index(drop=True)


def curve_page(found: xr.Dataset) -> pd.DataFrame:
    """One row per group of tiles: where its curve ends, with how many tiles, and what more of them would add."""
    if n.ASYMPTOTE not in found:
        return pd.DataFrame()
    rows = []
    for group in map(str, found[n.GROUP].values):
        one = found.sel({n.GROUP: group})
        rows.append(
            {
                "tiles of": group,
                "most tried": int(one[n.N_LARGEST]) if np.isfinite(one[n.N_LARGEST]) else 0,
                "score it nears": _estimate(one, n.ASYMPTOTE, 2),
                "tiles to get there": _estimate(one, n.SATURATION, 0),
                "more tiles": _estimate(one, n.N_MORE, 0),
                f"gain of {curves.STEP} more": _estimate(one, n.GAIN_OF_MORE, 3),
                "remark": str(one[n.REASON].values),
            }
        )
    return pd.DataFrame(rows)


def _estimate(one: xr.Dataset, name: str, digits: int) -> str:
    if name == n.ASYMPTOTE and str(one[n.REASON].values):
        return MISSING
    low, high = one[f"{name}_{n.INTERVAL}"].values
    return with_interval(float(one[name]), low, high, digits=digits)


def _spread_table(found: xr.Dataset) -> Table:
    names = [n.BUDGET_MEAN, n.BUDGET_SD]
    data = found[names].to_dataframe().reset_index()[[n.GROUP, n.BUDGET, *names]].dropna(subset=[names[0]])
    pairs = zip(data[names[0]], data[names[1]], strict=True)
    texts = [decimals(3)(mean) + ("" if np.isnan(sd) else f" ± {decimals(3)(sd)}") for mean, sd in pairs]
    page = data.assign(text=texts).pivot(index=n.BUDGET, columns=n.GROUP, values="text").fillna(MISSING)
    page = page[[str(group) for group in found[n.GROUP].values if group in page.columns]].reset_index()
    page.columns.name = None
    caption = (
        f"{curve_of(found).name} per budget: mean ± standard deviation over seeds, on the test tiles of all markers "
        "and of each"
    )
    return Table("budget_spread", caption, data, page=page)


def _curve_table(found: xr.Dataset) -> Table:
    parts: dict[str, Any] = {n.GROUP: [str(group) for group in found[n.GROUP].values]}
    for name in curves.MEANINGS:
        parts[name] = found[name].values
        if f"{name}_{n.INTERVAL}" in found:
            ends = found[f"{name}_{n.INTERVAL}"].transpose(n.QUANTILE, ...).values
            parts |= {f"{name}_{end}": values for end, values in zip(_INTERVAL_ENDS, ends, strict=True)}
    reasons = [str(reason) for reason in found[n.REASON].values]
    parts |= {n.N_RESAMPLES_FITTED: found[n.N_RESAMPLES_FITTED].values, n.REASON: reasons}
    caption = (
        "Learning curves: each marker's test tiles over the number of its own tiles trained on; 95 % intervals over "
        "seeds drawn anew, too narrow with fewer than ten seeds"
    )
    return Table("budget_curves", caption, pd.DataFrame(parts), page=curve_page(found))


def _text(found: xr.Dataset) -> str:
    n_fits = int((found[n.N_TRAIN].sel({n.GROUP: n.ALL_MARKERS}) >= 0).sum())
    facts = found.attrs[n.PROVENANCE]
    head = (
        f"{count_text(n_fits, 'training', 'trainings')} of {facts['model']} on nested subsets of the train part's "
        f"annotated tiles, in which {curve_of(found).turns} take turns. Every one picked its best epoch on the "
        f"{count_text(len(facts['val_tiles']), 'tile', 'tiles')} of the val part, which a budget does not count, and "
        "was scored on the annotated test tiles."
    )
    line = "The line of the figure joins the means of the trainings; it is no fitted curve."
    is_fitted = n.ASYMPTOTE in found and bool(found[n.ASYMPTOTE].sel({n.GROUP: n.ALL_MARKERS}).notnull())
    return " ".join([head, _found(found), *([] if is_fitted else [line])])


def _found(found: xr.Dataset) -> str:
    """What the study says, or that it is not finished."""
    if n.ASYMPTOTE not in found:
        return UNFINISHED_STUDY
    return f"{_saturates(found)} {_which_marker(found)}".strip()


def _saturates(found: xr.Dataset) -> str:
    one, tolerance = found.sel({n.GROUP: n.ALL_MARKERS}), found.attrs["curve"]["tolerance"]
    reason = str(one[n.REASON].values)
    if np.isnan(one[n.ASYMPTOTE]):
        return f"No curve could be fitted: {reason}."
    if reason:
        return f"No saturation can be told: {reason}."
    enough, most = float(one[n.SATURATION]), float(one[n.N_LARGEST])
    number = _estimate(one, n.SATURATION, 0)
    beyond = f", beyond the {whole(most)} tried and so an extrapolation" if enough > most else ""
    return f"{curve_of(found).name} comes within {tolerance:g} of the fitted asymptote with {number} tiles{beyond}."


def _which_marker(found: xr.Dataset) -> str:
    """Of which marker more tiles add most to the score on that marker's own test tiles."""
    markers = [str(group) for group in found[n.GROUP].values if group != n.ALL_MARKERS]
    gains = {marker: float(found[n.GAIN_OF_MORE].sel({n.GROUP: marker})) for marker in markers}
    gains = {marker: gain for marker, gain in gains.items() if np.isfinite(gain)}
    if not gains:
        return ""
    best = max(gains, key=lambda marker: gains[marker])
    one = found.sel({n.GROUP: best})
    tolerance = found.attrs["curve"]["tolerance"]
    if gains[best] < tolerance:
        name = curve_of(found).name
        return f"For no marker would {curves.STEP} tiles more add as much as {tolerance:g} to its {name}."
    missing = float(one[n.N_MORE])
    wanted = "how many are missing cannot be told" if np.isnan(missing) else f"{whole(missing)} to saturation"
    return (
        f"More annotations pay most for {best}: {curves.STEP} tiles more than the {whole(one[n.N_LARGEST])} tried "
        f"would add {_estimate(one, n.GAIN_OF_MORE, 3)} to its {curve_of(found).name} ({wanted})."
    )


def _figure(found: xr.Dataset) -> Figure | None:
    """The score of all test tiles over the budgets, with the curve where there is one."""
    score = curve_score(found).sel({n.GROUP: n.ALL_MARKERS}, drop=True)
    score = score.assign_attrs(long_name=curve_of(found).long_name)
    if score.isnull().all():
        return None
    if n.ASYMPTOTE not in found or np.isnan(found[n.ASYMPTOTE].sel({n.GROUP: n.ALL_MARKERS})):
        return learning_curve_figure(score, over=n.BUDGET)
    one = found.sel({n.GROUP: n.ALL_MARKERS}, drop=True)
    sizes = found[n.BUDGET].values
    curve = curves.curve_at(one, np.geomspace(sizes.min(), sizes.max(), 60)).reset_coords(drop=True)
    enough = float(one[n.SATURATION])
    return learning_curve_figure(
        score, over=n.BUDGET, curve=curve, saturation=enough if enough <= sizes.max() else None
    )
