"""Other numbers of donors than the ratio of positive cells, and their correlation with the clinical outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.association import associate as correlate
from fintune_xr.analysis.groups import TileGroups, tile_groups
from fintune_xr.analysis.readouts import (
    ACROSS,
    COUNT,
    DENSITY,
    SHARE,
    Readout,
    parse_readout,
    ranges,
    settled_readout,
    statistic_of,
)
from fintune_xr.errors import AnswerError, FintuneValueError, unknown_name
from fintune_xr.pipelines.instance.across_tiles import share_across
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.instance.joint_positivity import positive_share
from fintune_xr.pipelines.instance.tissue_regions import TissueRegion, tissue_region
from fintune_xr.pipelines.steps.associate import AssociationRequest, join_outcomes
from fintune_xr.pipelines.steps.clinical_table import clinical_doubt
from fintune_xr.pixels.pixel_side import UM2_IN_MM2, sides_um
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.measurements import measurement_doubt, measurement_path, stored_identity
from fintune_xr.store.lineage.depends_on import run_digests, runs_doubt
from fintune_xr.store.lineage.tile_counts import cell_counts, inputs_digest
from fintune_xr.tasks.cell_measures import cell_measure, is_measured
from fintune_xr.text import texts


def associate_readout(
    store: str | Path,
    *,
    readout: str,
    clinical: str | Path,
    donor_column: str = "projid",
    outcomes: Sequence[str] = (),
    covariates: Sequence[str] = (),
    runs: Sequence[str] = (),
    replace: bool = False,
) -> xr.Dataset:
    """`readout` (run, donor, marker) and its rho, p, q, n (run, marker, outcome), stored under `readouts/<name>`.

    `readout` is count (cells per tile), density (cells per mm²), a mean or median over the donor's cells, as mean:area,
    median:mean_intensity.marker, or of a column that `measure` added, as mean:eccentricity; or the share of cells that
    are positive in a channel, or in several at once, as share:marker+IBA1; or of the cells of one marker those
    that are positive and lie, by their masks, on positive cells of other markers of the same field, as
    across:GFAP+IBA1. Tiles are those that are done and not left
    out by the stored rule, whatever cells are positive. q is adjusted over markers and
    outcomes of this readout alone. The cells of one donor and marker are in memory at a time. Stored values of more
    runs or outcomes are replaced with `replace` only.

    Raises SettingsError for a readout that is not known, UnknownNameError for a column, channel or run that is not
    there, FintuneValueError for runs that are unfinished, or of which the column was not measured, and for a density or
    a length in um where the size of a pixel is not known.
    """
    cohort = open_cohort(store).opened_once(runs=True)
    wanted = readout_in_cohort(cohort, readout)
    asked = AssociationRequest(
        clinical=clinical, donor_column=donor_column, outcomes=outcomes, covariates=covariates, runs=runs,
        replace=replace,
    )  # fmt: skip
    path = f"{n.READOUTS}/{wanted.name}"
    joined = join_outcomes(cohort, asked, path, counting=cell_counts)
    names, facts = joined.runs, joined.outcomes
    values = readout_values(cohort, names, wanted)
    adjusting = facts[n.COVARIATE_VALUE] if covariates else None
    found = correlate(values, facts[n.OUTCOME_VALUE], covariates=adjusting).compute()
    outcome = facts[n.OUTCOME_VALUE].reset_coords(drop=True).assign_coords(facts[[n.DIRECTION]].coords)
    result = found.assign({n.READOUT: values, n.OUTCOME_VALUE: outcome}).assign_attrs(
        {
            n.READOUT: readout if parse_readout(readout) == wanted else wanted.text,
            n.RESTS_ON: readout_basis(cohort, names, wanted),
            **joined.facts,
        }
    )
    with joined.table.noted(cohort, refuse=joined.refuse):
        cohort.write(path, result, datasets.READOUTS)
    return result


def readout_in_cohort(cohort: Cohort, text: str) -> Readout:
    """The readout that `text` says, lengths in um where this cohort tells the size of its pixels, and else in px.

    Raises SettingsError for a readout that is not known, FintuneValueError where some tiles tell it and some do not.
    """
    return settled_readout(parse_readout(text), sides_um(cohort.images(lazy=False)))


def readout_basis(cohort: Cohort, runs: Sequence[str], readout: Readout) -> dict[str, Any]:
    """Digests of what a readout of `runs` rests on: the runs, their cells by tile and donor, pixel sizes where they
    matter, and the identity of a measured column.

    JSON, for the attribute RESTS_ON. Raises FintuneValueError where a run is not finished, or the column not measured.
    """
    basis: dict[str, Any] = {"runs": run_digests(cohort, runs), n.N_CELLS: inputs_digest(cell_counts(cohort, runs))}
    measured = _measured_columns(readout)
    if measured:
        facts = {run: {column: measurement_facts(cohort, run, column) for column in measured} for run in runs}
        basis[n.MEASUREMENTS] = facts
    if readout.statistic == DENSITY or readout.in_um:
        basis[n.MPP] = inputs_digest(xr.DataArray(sides_um(cohort.images(lazy=False)), dims=n.TILE))
    return basis


def readout_doubt(cohort: Cohort, found: xr.Dataset) -> str:
    """Why a stored readout is not that of the store as it is now, empty where it is.

    Clinical values are those of the tables that were given to the store; what lies in their files by now is not known.
    """
    known = found.attrs.get(n.RESTS_ON)
    if known is None:
        return "it was stored without a record of what it rests on"
    told = runs_doubt(cohort, known["runs"])
    if told:
        return told
    try:
        now = readout_basis(cohort, texts(found[n.RUN]), parse_readout(str(found.attrs[n.READOUT])))
    except AnswerError as error:
        return str(error)
    if now[n.N_CELLS] != known[n.N_CELLS]:
        return "cells, donors or the tiles that are left out are others now"
    if now.get(n.MEASUREMENTS) != known.get(n.MEASUREMENTS):
        return "its column has been measured anew"
    return "the size of pixels is another one now" if now != known else clinical_doubt(cohort, found)


def readout_values(cohort: Cohort, runs: Sequence[str], readout: Readout) -> xr.DataArray:
    """The readout (run, donor, marker) of finished runs. Raises as `associate_readout` does."""
    counts = cell_counts(cohort, runs)
    parts = [donor_values(cohort, run, counts.sel({n.RUN: run}), readout) for run in runs]
    values = xr.concat(parts, n.RUN).assign_coords({n.RUN: list(runs)})
    return values.assign_attrs(long_name=readout.text, units=readout.units)


def donor_values(cohort: Cohort, run: str, counts: xr.Dataset, readout: Readout) -> xr.DataArray:
    """The readout (donor, marker) of a run, NaN without tiles or cells; tiles whose `counts` are -1 are left out.

    What is read across the tiles of a field has the markers together, as GFAP+IBA1, for its only one.
    """
    groups, valid = tile_groups(counts), counts[n.N_CELLS].values >= 0
    for column in _measured_columns(readout):
        measurement_facts(cohort, run, column)
    region = tissue_region(cohort, readout.region) if readout.region else None
    if region is not None:
        valid &= region.is_known
    if readout.statistic == ACROSS:
        return share_across(cohort, run, readout, valid=valid, region=region)
    kinds = {COUNT: _per_tile, DENSITY: _per_tile, SHARE: positive_share}
    numbers = kinds.get(readout.statistic, _cells)(cohort, run, readout, region)
    found = np.full(groups.donors.size * groups.markers.size, np.nan)
    for group in range(found.size):
        rows = np.flatnonzero(valid & (groups.group_of_tile == group))
        if rows.size:
            found[group] = numbers(rows)
    return _labelled(found, groups)


def _labelled(found: NDArray[np.float64], groups: TileGroups) -> xr.DataArray:
    return xr.DataArray(
        found.reshape(groups.shape), dims=(n.DONOR, n.MARKER),
        coords={n.DONOR: groups.donors, n.MARKER: groups.markers},
    )  # fmt: skip


def _measured_columns(readout: Readout) -> list[str]:
    """The columns that `measure` must have added for it."""
    return [*([readout.column] if is_measured(readout.column) else []), *([n.REGION_CODE] if readout.region else [])]


def measurement_facts(cohort: Cohort, run: str, column: str) -> dict[str, Any]:
    """Definition of a measured column, and the cells that it is of.

    Raises FintuneValueError where it cannot be used.
    """
    told = "it was not measured"
    if cohort.has(measurement_path(run, column)):
        told = measurement_doubt(cohort.location, run, column)
    if told:
        raise FintuneValueError(
            f"run {run!r} of {cohort.url} has no column {column} of its cells: {told}. "
            f"Run: fintune-xr measure {cohort.url} --run {run} --columns {cell_measure(column).name}"
        )
    return stored_identity(cohort.location, run, column)


def _per_tile(cohort: Cohort, run: str, readout: Readout, region: TissueRegion | None) -> Any:
    n_cells, images = cohort.run(run, lazy=False)[n.N_CELLS].values, cohort.images(lazy=False)
    sides = sides_um(images)
    if readout.statistic == DENSITY and not (sides > 0).all():
        raise FintuneValueError(
            f"--readout {DENSITY}: {int((sides <= 0).sum())} of {sides.size} tiles of {cohort.url} do not tell "
            f"the size of their pixels. Ingest files that do, or take --readout {COUNT}, cells per tile."
        )
    area_px = images[n.HEIGHT].values.astype(np.float64) * images[n.WIDTH].values
    if region is not None:
        n_cells, area_px = _cells_in_region(cohort, run, region), region.area_px
    per = np.ones(sides.size) if readout.statistic == COUNT else area_px * sides**2 / UM2_IN_MM2
    return lambda rows: float(n_cells[rows].sum() / per[rows].sum()) if per[rows].any() else float("nan")


def _cells_in_region(cohort: Cohort, run: str, region: TissueRegion) -> NDArray[np.int64]:
    """Cells (tile,) whose centre lies in the region."""
    found = np.zeros(region.area_px.size, np.int64)
    for block in cell_blocks(cohort, run, [n.TILE_INDEX, n.REGION_CODE])():
        tiles = block[n.TILE_INDEX].values[block[n.REGION_CODE].values == region.code]
        found += np.bincount(tiles, minlength=found.size)
    return found


def _factors(cohort: Cohort, readout: Readout) -> NDArray[np.float64]:
    """What stored values of each tile (tile,) are multiplied with to be in the units of the readout."""
    sides = sides_um(cohort.images(lazy=False))
    if readout.in_um and not (sides > 0).all():
        raise FintuneValueError(
            f"--readout {readout.text}: {int((sides <= 0).sum())} of {sides.size} tiles of {cohort.url} do not tell "
            f"the size of their pixels. Ingest files that do, or ask for px: {readout.column}."
        )
    return np.asarray(sides**readout.power, np.float64)


def _cells(cohort: Cohort, run: str, readout: Readout, region: TissueRegion | None) -> Any:
    counts = np.maximum(cohort.run(run, lazy=False)[n.N_CELLS].values.astype(np.int64), 0)
    last = np.cumsum(counts)
    factor = _factors(cohort, readout)
    cells = cohort.cells(run, lazy=False)
    column = cells[readout.column]
    if readout.channel:
        channels = texts(column[n.CHANNEL])
        if readout.channel not in channels:
            raise unknown_name("channel", readout.channel, channels)
        column = column.isel({n.CHANNEL: channels.index(readout.channel)})

    def value(rows: NDArray[np.int64]) -> float:
        parts = list(ranges(rows, last - counts, last))
        if not parts:
            return float("nan")
        values = np.concatenate([column.isel({n.CELL: part}).values for part in parts])
        values = values * np.repeat(factor[rows], counts[rows])
        if region is not None:
            codes = np.concatenate([cells[n.REGION_CODE].isel({n.CELL: part}).values for part in parts])
            values = values[codes == region.code]
        return statistic_of(values, readout.statistic)

    return value
