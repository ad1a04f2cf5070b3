"""Verbs about answers: positive cells, associations, resamples, the report.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli.arguments import DONE, Json, Run, Runs, Store, show, show_tables


def positivity(
    store: Store,
    *,
    run: Run,
    rule: Annotated[str, Parameter(help="otsu, otsu_donor, mixture, fixed or detected.")] = "otsu",
    threshold: Annotated[float | None, Parameter(help="For fixed: intensity above background, counts.")] = None,
    nuclei_run: Annotated[str, Parameter(help="For detected: run on the DAPI channel alone.")] = "",
    normalise: Annotated[
        bool, Parameter(help="Divide signals by the scale of their batch, as `qc` stored it.", negative="")
    ] = False,
    as_json: Json = False,
) -> int:
    """Say which cells are marker-positive by another rule, without segmenting again.

    Example: fintune-xr positivity cohort.zarr --run baseline --rule fixed --threshold 250
    """
    from fintune_xr.pipelines.steps.positivity import positivity as step
    from fintune_xr.pipelines.steps.positivity import rule_table

    counts = step(store, run=run, rule=rule, threshold=threshold, nuclei_run=nuclei_run, normalise=normalise)
    rows = rule_table(counts)
    if as_json:
        show_tables({"rules": rows}, as_json=True)
    else:
        show(*(f"{row.rule}: {row.n_positive} of {row.n_all} cells positive" for row in rows.itertuples()))
    return DONE


def associate(
    store: Store,
    *,
    clinical: Annotated[Path, Parameter(help="CSV or TSV with one row per donor.")],
    donor_column: Annotated[str, Parameter(help="Column of the donor ids.")] = "projid",
    outcomes: Annotated[
        tuple[str, ...], Parameter(name=["--outcome"], negative="", help="An outcome; several times.")
    ] = (),
    covariates: Annotated[
        tuple[str, ...], Parameter(name=["--covariate"], negative="", help="Adjust for this column.")
    ] = (),
    runs: Runs = (),
    replace: Annotated[
        bool, Parameter(negative="", help="Replace stored associations that hold more than these will.")
    ] = False,
    readout: Annotated[
        str, Parameter(help="ratio, count, density, or e.g. mean:area, median:mean_intensity.marker.")
    ] = "ratio",
    as_json: Json = False,
) -> int:
    """Donor ratios, or other readouts of donors, Spearman correlations with the outcomes and their FDR.

    Example: fintune-xr associate cohort.zarr --clinical clinical.csv --outcome nft --outcome gpath
    """
    from fintune_xr.pipelines.steps.associate import associate as step
    from fintune_xr.pipelines.steps.associate import association_table
    from fintune_xr.pipelines.steps.readout import associate_readout as of_readout

    asked: dict[str, Any] = {
        "clinical": clinical, "donor_column": donor_column, "outcomes": outcomes, "covariates": covariates,
        "runs": runs, "replace": replace,
    }  # fmt: skip
    found = step(store, **asked) if readout == "ratio" else of_readout(store, readout=readout, **asked)
    show_tables({"associations": association_table(found)}, as_json=as_json)
    return DONE


def bootstrap(
    store: Store,
    *,
    scheme: Annotated[
        Literal["tiles_80", "tiles", "donors", "donors_threshold"], Parameter(help="What is drawn.")
    ] = "donors",
    resamples: Annotated[int, Parameter(help="Resamples in all; more extend what is stored.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the draws.")] = 0,
    restart: Annotated[bool, Parameter(help="Throw stored resamples away.", negative="")] = False,
) -> int:
    """Resample donors, or tiles within donors, and store every resample.

    Donors give intervals, with `donors_threshold` also for the threshold of positivity; tiles within donors say how
    stable rho is, and nothing about other donors.

    Example: fintune-xr bootstrap cohort.zarr --resamples 10000
    """
    from fintune_xr.pipelines.steps.bootstrap import bootstrap as step

    stored = step(store, scheme=scheme, resamples=resamples, seed=seed, restart=restart)
    show(f"{stored.sizes['resample']} resamples of scheme {scheme} stored")
    return DONE


def report(
    store: Store,
    *,
    out: Annotated[Path | None, Parameter(help="HTML file; default beside the store.")] = None,
    baseline: Annotated[
        str | None, Parameter(help="Run that others are compared to; default: `baseline`, else the first.")
    ] = None,
) -> int:
    """Write a self-contained HTML report, and its tables as TSV.

    Example: fintune-xr report cohort.zarr --out report.html
    """
    from fintune_xr.pipelines.report.report import report as step

    show(f"report: {step(store, out=out, baseline=baseline)}")
    return DONE
