"""Stored resamples of the donor ratios and their correlations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import (
    ALL_SCHEMES,
    DONORS_THRESHOLD,
    P_OF_RESAMPLES,
    RESAMPLES_PER_BLOCK,
    Scheme,
    resample,
)
from fintune_xr.analysis.positivity.counting import signal_histogram
from fintune_xr.analysis.threshold_redrawn import resample_thresholds
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.instance.cell_blocks import cell_blocks
from fintune_xr.pipelines.steps.associate import association_inputs, covariates_of
from fintune_xr.pipelines.steps.positivity import signal_tiles
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.tile_counts import active_rule, tile_counts

_T = "Student t"


@gives_named_labels
def bootstrap(
    store: str | Path,
    *,
    scheme: Scheme = "donors",
    resamples: int = 1000,
    seed: int = 0,
    restart: bool = False,
) -> xr.Dataset:
    """Resampled ratio and rho, stored under `bootstrap/<scheme>`; more `resamples` extend what is there.

    `donors_threshold` draws the donors of `donors`, and finds the threshold of positivity anew in each resample.
    Runs, outcomes and covariates are those of the last `associate`. `restart` throws stored resamples away.

    Raises FintuneValueError where stored resamples have another seed or were drawn from other counts,
    UnknownNameError for a scheme that does not exist, RunBusyError where another process draws for this scheme.
    """
    if resamples < 1:
        raise FintuneValueError(f"--resamples: expected 1 or more, got {resamples}. Take 1,000 or more.")
    if scheme not in ALL_SCHEMES:
        raise unknown_name("bootstrap scheme", scheme, ALL_SCHEMES)
    cohort = open_cohort(store).opened_once(runs=True)
    analysis = cohort.analysis()
    counts = tile_counts(cohort, [str(run) for run in analysis[n.RUN].values])
    facts = cohort.read(n.CLINICAL, datasets.CLINICAL).load()
    adjusted = covariates_of(analysis)
    if adjusted and not analysis.attrs.get(n.ADJUSTED_THROUGHOUT):
        raise FintuneValueError(
            f"{cohort.url}: the associations were made before resamples were adjusted for covariates. "
            "Run `fintune-xr associate` with --covariate again first."
        )
    digest = association_inputs(counts, facts, adjusted)
    if digest != analysis.attrs[n.INPUTS_SHA256]:
        raise FintuneValueError(
            f"{cohort.url}: counts or outcomes have changed since `fintune-xr associate`. Run it again first."
        )
    with cohort.hold(f"bootstrap-{scheme}", what=f"resampling by scheme {scheme}"):
        stored = None if restart else _stored(cohort, scheme, seed, digest)
        n_stored = stored.sizes[n.RESAMPLE] if stored is not None else 0
        if n_stored >= resamples:
            say(f"bootstrap {scheme}: {n_stored} resamples are stored already")
            return cohort.bootstrap(scheme)
        asked: dict[str, Any] = {"n_resamples": resamples - n_stored, "seed": seed, "first": n_stored}
        asked["covariates"] = facts[n.COVARIATE_VALUE] if adjusted else None
        fresh = _drawn(cohort, scheme, counts, facts[n.OUTCOME_VALUE], asked)
        whole = fresh if stored is None else xr.concat([stored, fresh], n.RESAMPLE, join="exact")
        made = provenance(scheme=scheme, seed=seed, resamples=resamples)
        result = whole.chunk({n.RESAMPLE: RESAMPLES_PER_BLOCK}).assign_attrs(
            {**fresh.attrs, n.INPUTS_SHA256: digest, n.PROVENANCE: made}
        )
        cohort.write(f"{n.BOOTSTRAP}/{scheme}", result, datasets.BOOTSTRAP)
        return _told(cohort.bootstrap(scheme), analysis)


def _told(resamples: xr.Dataset, analysis: xr.Dataset) -> xr.Dataset:
    """The `resamples`, once it is said of which pairs none has a rho, and why the cohort itself has none."""
    missing = resamples[n.RHO_RESAMPLED].isnull().all(n.RESAMPLE).compute()
    for run in missing[n.RUN].values:
        for marker in missing[n.MARKER].values:
            at = {n.RUN: run, n.MARKER: marker}
            none = [str(name) for name in missing[n.OUTCOME].values if missing.sel({**at, n.OUTCOME: name})]
            why = str(analysis[n.REASON].sel({**at, n.OUTCOME: none[0]}).values) if none else ""
            if none:
                lacking = f"no resample of run {run}, {marker} has a rho with {', '.join(none)}"
                say(f"bootstrap: {lacking}{why and f': {why}'}")
    return resamples


def _drawn(
    cohort: Cohort, scheme: Scheme, counts: xr.Dataset, outcomes: xr.DataArray, asked: dict[str, Any]
) -> xr.Dataset:
    if scheme == DONORS_THRESHOLD:
        return _with_thresholds(cohort, counts, outcomes, asked)
    return resample(counts, outcomes, scheme=scheme, **asked)


def _with_thresholds(cohort: Cohort, counts: xr.Dataset, outcomes: xr.DataArray, asked: dict[str, Any]) -> xr.Dataset:
    """Resamples with thresholds found anew; cells of tiles whose counts are unknown take no part."""
    analysis = cohort.analysis()
    runs = [str(run) for run in analysis[n.RUN].values]
    found = []
    for run in runs:
        normalise = bool(cohort.positivity(run).attrs.get(n.NORMALISATION, {}))
        tiles, _ = signal_tiles(cohort, run, normalise=normalise)
        known = counts.sel({n.RUN: run})[n.N_POSITIVE].values >= 0
        small = tiles[[n.N_CELLS, n.BACKGROUND]].load()
        background = np.where(known[:, None], small[n.BACKGROUND].values, np.nan).astype(np.float32)
        shown = small.assign({n.BACKGROUND: (small[n.BACKGROUND].dims, background)})
        found.append(signal_histogram(cell_blocks(cohort, run, [n.TILE_INDEX, n.MEAN_INTENSITY])(), shown))
    histogram = xr.concat(found, n.RUN, join="exact").assign_coords({n.RUN: runs})
    place = {n.DONOR: histogram[n.DONOR], n.MARKER: histogram[n.MARKER]}
    n_all = analysis[n.N_ALL].load().sel(place).transpose(n.RUN, n.DONOR, n.MARKER)
    rules = {run: active_rule(cohort, run) for run in runs}
    return resample_thresholds(histogram, n_all, outcomes, rules=rules, **asked)


def _stored(cohort: Cohort, scheme: str, seed: int, digest: str) -> xr.Dataset | None:
    if not cohort.has(f"{n.BOOTSTRAP}/{scheme}"):
        return None
    stored = cohort.bootstrap(scheme)
    before, p_method = stored.attrs["seed"], stored.attrs.get(n.P_METHOD, _T)
    faults = [f"seed {before}, now {seed}"] if before != seed else []
    faults += ["counts or outcomes that are others now"] if stored.attrs[n.INPUTS_SHA256] != digest else []
    faults += [f"p by {p_method}, now by {P_OF_RESAMPLES}"] if p_method != P_OF_RESAMPLES else []
    if faults:
        raise FintuneValueError(
            f"{n.BOOTSTRAP}/{scheme} of {cohort.url} was drawn with {'; '.join(faults)}. "
            "Resamples of two kinds are never mixed. Take the stored ones as they are, or --restart to draw anew."
        )
    return stored
