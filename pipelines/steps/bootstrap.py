"""Stored resamples of the donor ratios and their correlations."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from fintune_xr import datasets
from fintune_xr import names as n
from fintune_xr.analysis.bootstrap import P_OF_RESAMPLES, RESAMPLES_PER_BLOCK, SCHEMES, Scheme, resample
from fintune_xr.errors import FintuneValueError, unknown_name
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.steps.associate import association_inputs, covariates_of
from fintune_xr.provenance import provenance
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.tile_counts import tile_counts

_T = "Student t"


def bootstrap(
    store: str | Path,
    *,
    scheme: Scheme = "donors",
    resamples: int = 1000,
    seed: int = 0,
    restart: bool = False,
) -> xr.Dataset:
    """Resampled ratio and rho, stored under `bootstrap/<scheme>`; more `resamples` extend what is there.

    Runs, outcomes and covariates are those of the last `associate`. `restart` throws stored resamples away.

    Raises FintuneValueError where stored resamples have another seed or were drawn from other counts,
    UnknownNameError for a scheme that does not exist, RunBusyError where another process draws for this scheme.
    """
    if scheme not in SCHEMES:
        raise unknown_name("bootstrap scheme", scheme, SCHEMES)
    cohort = open_cohort(store)
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
        fresh = resample(
            counts, facts[n.OUTCOME_VALUE], scheme=scheme, n_resamples=resamples - n_stored, seed=seed, first=n_stored,
            covariates=facts[n.COVARIATE_VALUE] if adjusted else None,
        )  # fmt: skip
        whole = fresh if stored is None else xr.concat([stored, fresh], n.RESAMPLE, join="exact")
        made = provenance(scheme=scheme, seed=seed, resamples=resamples)
        result = whole.chunk({n.RESAMPLE: RESAMPLES_PER_BLOCK}).assign_attrs(
            {**fresh.attrs, n.INPUTS_SHA256: digest, n.PROVENANCE: made}
        )
        cohort.write(f"{n.BOOTSTRAP}/{scheme}", result, datasets.BOOTSTRAP)
        return cohort.bootstrap(scheme)


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
