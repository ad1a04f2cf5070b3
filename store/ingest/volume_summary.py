"""What an ingest of volumes has brought: scans and participants of classes and parts, sizes of devices, odd volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from fintune_xr import names as n
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.ingest.changed_files import update_attr
from fintune_xr.store.ingest.volumes import Measured, device_of
from fintune_xr.tasks.classification import STUDY_GROUPS
from fintune_xr.text import texts

_SIDES: Final = {n.DEPTH: n.SOURCE_DEPTH, n.HEIGHT: n.SOURCE_HEIGHT, n.WIDTH: n.SOURCE_WIDTH}
_NUMBERS: Final = (*_SIDES.values(), n.VALUE_MEAN, n.VALUE_SD, n.VALUE_STEP)
# A side may be half to twice as long as is usual for its device; a mean so many median deviations away.
_SIDE_FACTOR: Final = 2.0
_DEVIATIONS: Final = 5.0
# Of 256 stored levels; fewer, and a voxel or two far outside have taken up the scale of all others.
_LEAST_SD_LEVELS: Final = 2.0


@dataclass(frozen=True, slots=True)
class VolumeSummary:
    """Tables for people: `devices` sizes of each, `groups` scans and participants by study group and part, `classes` by
    device too, `unusual` volumes and why."""

    devices: pd.DataFrame
    groups: pd.DataFrame
    classes: pd.DataFrame
    unusual: pd.DataFrame


def volume_summary(cohort: Cohort, groups: Mapping[str, str]) -> VolumeSummary:
    """Of everything that the store holds, `groups` being the study group of each donor; reads labels only."""
    stored = _stored(cohort, groups)
    reasons = unusual_volumes(stored)
    chosen = stored[stored[n.TILE].isin(list(reasons))]
    odd = chosen[[n.TILE, n.MARKER]].assign(**{n.WHY: [reasons[tile] for tile in chosen[n.TILE]]})
    by_part = (n.STUDY_GROUP, n.SPLIT)
    return VolumeSummary(
        _devices(stored), _counts(stored, by_part), _counts(stored, (*by_part, n.MARKER)), odd.reset_index(drop=True)
    )


def store_summary(cohort: Cohort, summary: VolumeSummary) -> None:
    """Keeps the tables as an attribute of the images."""
    tables = {
        name: getattr(summary, name).astype(object).to_dict("records")
        for name in ("devices", "groups", "classes", "unusual")
    }
    update_attr(cohort, n.SUMMARY, lambda _before: tables)


def unusual_volumes(volumes: pd.DataFrame) -> dict[str, str]:
    """What is odd about a volume beside the others of its device, by tile.

    A side shorter than half or longer than twice the median, no contrast, a mean more than five median absolute
    deviations from the median, or a standard deviation of less than two of the 256 levels that are stored. `volumes`
    has the columns tile, marker, source_depth, source_height, source_width, value_mean, value_sd and value_step.
    """
    reasons: dict[str, str] = {}
    for _, device in volumes.groupby(n.MARKER, sort=False):
        usual = device[list(_NUMBERS)].median()
        deviation = float((device[n.VALUE_MEAN] - usual[n.VALUE_MEAN]).abs().median())
        for row in device.to_dict("records"):
            said = _oddities(row, usual, deviation)
            if said:
                reasons[str(row[n.TILE])] = "; ".join(said)
    return reasons


def unwanted_outliers(cohort: Cohort, fresh: Sequence[Measured]) -> dict[str, str]:
    """Reasons to leave out those of `fresh` that are unusual among them and what is stored, by tile."""
    rows = [
        (one.file.tile, device_of(one.file, one.header), *one.header.shape, one.mean, one.sd, one.step) for one in fresh
    ]
    added = pd.DataFrame(rows, columns=[n.TILE, n.MARKER, *_NUMBERS])
    stored = _stored(cohort, {})[[n.TILE, n.MARKER, *_NUMBERS]]
    tables = [table for table in (stored, added) if len(table)]
    if not tables:
        return {}
    found = unusual_volumes(pd.concat(tables, ignore_index=True))
    return {tile: f"outlier: {why}" for tile, why in found.items() if tile in set(added[n.TILE])}


def _oddities(row: Mapping[Any, Any], usual: Any, deviation: float) -> list[str]:
    said = [
        f"{side} {row[source]:.0f}, usual for the device {usual[source]:.0f}"
        for side, source in _SIDES.items()
        if not usual[source] / _SIDE_FACTOR <= row[source] <= usual[source] * _SIDE_FACTOR
    ]
    if row[n.VALUE_SD] == 0:
        return [*said, "constant volume"]
    if deviation and abs(row[n.VALUE_MEAN] - usual[n.VALUE_MEAN]) > _DEVIATIONS * deviation:
        said.append(f"mean {row[n.VALUE_MEAN]:.3g}, usual for the device {usual[n.VALUE_MEAN]:.3g}")
    levels = row[n.VALUE_SD] / row[n.VALUE_STEP]
    if levels < _LEAST_SD_LEVELS:
        said.append(f"sd {levels:.2g} of the 256 levels that are stored: nearly constant, or hidden by extreme values")
    return said


def _stored(cohort: Cohort, groups: Mapping[str, str]) -> pd.DataFrame:
    images = cohort.images(lazy=False)
    columns: dict[str, Any] = {name: texts(images[name]) for name in (n.TILE, n.DONOR, n.MARKER, n.SPLIT)}
    columns |= {name: images[name].values.astype(np.float64) for name in _NUMBERS}
    table = pd.DataFrame(columns)
    return table.assign(**{n.STUDY_GROUP: [groups.get(donor, "") for donor in table[n.DONOR]]})


def _devices(stored: pd.DataFrame) -> pd.DataFrame:
    grouped = stored.groupby(n.MARKER, sort=True)
    table = pd.DataFrame({"scans": grouped.size(), "participants": grouped[n.DONOR].nunique()})
    for side, source in _SIDES.items():
        for what in ("min", "median", "max"):
            table[f"{side}_{what}"] = grouped[source].agg(what)
    return table.reset_index()


def _counts(stored: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Scans and participants by some columns; groups in the study's order, parts from train to test."""
    grouped = stored.groupby(list(by), sort=False)
    table = pd.DataFrame({"scans": grouped.size(), "participants": grouped[n.DONOR].nunique()}).reset_index()
    order = {name: at for at, name in enumerate((*STUDY_GROUPS, *n.SPLITS))}
    return table.sort_values(list(by), key=lambda column: column.map(lambda one: (order.get(one, -1), one)))
