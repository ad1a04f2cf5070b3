"""Other numbers of donors than the ratio of positive cells, and their correlation with the clinical outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.analysis.association import associate as correlate
from fintune_xr.analysis.clinical import clinical_outcomes, read_clinical, told_of_join
from fintune_xr.analysis.groups import TileGroups, tile_groups
from fintune_xr.analysis.readouts import COUNT, DENSITY, Readout, parse_readout, ranges, statistic_of
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.steps.associate import association_inputs, finished_runs, known_outcomes, refuse_narrower
from fintune_xr.pixels.pixel_side import sides_um
from fintune_xr.provenance import file_sha256, provenance
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import require_sources
from fintune_xr.store.lineage.tile_counts import tile_counts
from fintune_xr.text import text_array, texts

_UM2_IN_MM2 = 1e6


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

    `readout` is count (cells per tile), density (cells per mm²), or a mean or median over the donor's cells, as
    mean:area or median:mean_intensity.marker. Tiles are those that the ratio is made of: done, and not left out by the
    stored rule. q is adjusted over markers and outcomes of this readout alone. The cells of one donor and marker are in
    memory at a time. Stored values of more runs or outcomes are replaced with `replace` only.

    Raises SettingsError for a readout that is not known, UnknownNameError for a column, channel or run that is not
    there, FintuneValueError for runs that are unfinished, and for a density where the size of a pixel is not known.
    """
    asked, cohort, table = parse_readout(readout), open_cohort(store), read_clinical(clinical)
    names = list(runs) or finished_runs(cohort)
    require_sources(cohort, names)
    counts = tile_counts(cohort, names)
    facts = clinical_outcomes(
        table, sorted(set(text_array(counts[n.DONOR]))), donor_column=donor_column,
        outcomes=list(outcomes) or known_outcomes(table, donor_column), covariates=covariates,
    )  # fmt: skip
    path = f"{n.READOUTS}/{asked.name}"
    if not replace:
        refuse_narrower(cohort, path, names, facts)
    for line in told_of_join(facts):
        say(f"associate: {line}")
    values = xr.concat([donor_values(cohort, name, counts.sel({n.RUN: name}), asked) for name in names], n.RUN)
    values = values.assign_coords({n.RUN: names}).assign_attrs(long_name=readout, units=asked.units)
    adjusting = facts[n.COVARIATE_VALUE] if covariates else None
    found = correlate(values, facts[n.OUTCOME_VALUE], covariates=adjusting).assign({n.READOUT: values}).compute()
    result = found.assign_attrs(
        {
            n.READOUT: readout,
            n.INPUTS_SHA256: association_inputs(counts, facts, covariates),
            n.PROVENANCE: provenance(clinical=Path(clinical).name, clinical_sha256=file_sha256(Path(clinical))),
        }
    )
    cohort.write(path, result)
    return result


def donor_values(cohort: Cohort, run: str, counts: xr.Dataset, readout: Readout) -> xr.DataArray:
    """The readout (donor, marker) of a run, NaN without tiles or cells; tiles whose `counts` are -1 are left out."""
    groups, valid = tile_groups(counts), counts[n.N_ALL].values >= 0
    numbers = _per_tile(cohort, run, readout) if readout.statistic in (COUNT, DENSITY) else _cells(cohort, run, readout)
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


def _per_tile(cohort: Cohort, run: str, readout: Readout) -> Any:
    n_cells, images = cohort.run(run, lazy=False)[n.N_CELLS].values, cohort.images(lazy=False)
    sides = sides_um(images)
    if readout.statistic == DENSITY and not (sides > 0).all():
        raise FintuneValueError(
            f"--readout {DENSITY}: {int((sides <= 0).sum())} of {sides.size} tiles of {cohort.url} do not tell the "
            f"size of their pixels. Ingest files that do, or take --readout {COUNT}, cells per tile."
        )
    area = images[n.HEIGHT].values.astype(np.float64) * images[n.WIDTH].values * sides**2 / _UM2_IN_MM2
    per = np.ones(sides.size) if readout.statistic == COUNT else area
    return lambda rows: float(n_cells[rows].sum() / per[rows].sum())


def _cells(cohort: Cohort, run: str, readout: Readout) -> Any:
    counts = np.maximum(cohort.run(run, lazy=False)[n.N_CELLS].values.astype(np.int64), 0)
    last = np.cumsum(counts)
    column = cohort.cells(run, lazy=False)[readout.column]
    if readout.channel:
        channels = texts(column[n.CHANNEL])
        if readout.channel not in channels:
            raise unknown_name("channel", readout.channel, channels)
        column = column.isel({n.CHANNEL: channels.index(readout.channel)})

    def value(rows: NDArray[np.int64]) -> float:
        parts = [column.isel({n.CELL: part}).values for part in ranges(rows, last - counts, last)]
        return statistic_of(np.concatenate(parts), readout.statistic) if parts else float("nan")

    return value
