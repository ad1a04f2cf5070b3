"""Verbs about answers: positive cells, associations, resamples, the report.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates
from fintune_xr.pipelines.cli.arguments import (
    DONE,
    Cluster,
    Json,
    Overrides,
    Run,
    Runs,
    Store,
    keywords,
    show,
    show_tables,
)


def positivity(
    store: Store,
    *,
    run: Run,
    rule: Annotated[
        str, Parameter(completer=candidates.rules, help="otsu, otsu_donor, mixture, fixed or detected.")
    ] = "otsu",
    threshold: Annotated[float | None, Parameter(help="For fixed: intensity above background, counts.")] = None,
    nuclei_run: Annotated[
        str, Parameter(completer=candidates.runs, help="For detected: run on the DAPI channel alone.")
    ] = "",
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


def measure(
    store: Store,
    *overrides: Overrides,
    run: Run,
    columns: Annotated[
        tuple[str, ...],
        Parameter(
            completer=candidates.columns,
            help="Some of eccentricity, solidity, perimeter, major_axis, minor_axis, skeleton_length, branch_points, "
            "texture, region, distance:RUN; default: all but the last two.",
            consume_multiple=True,
            negative="",
        ),
    ] = (),
    cluster: Cluster = "threads",
    restart: Annotated[bool, Parameter(help="Measure these columns anew.", negative="")] = False,
    as_json: Json = False,
) -> int:
    """Add shape, skeleton, texture and distances to the cells of a run from its stored masks; run again to continue.

    Example: fintune-xr measure cohort.zarr --run base --columns eccentricity solidity skeleton_length
    """
    from fintune_xr.pipelines.steps.measure import column_table
    from fintune_xr.pipelines.steps.measure import measure as step

    found = step(store, run=run, columns=columns, cluster=cluster, overrides=overrides, restart=restart)
    show_tables({"columns": column_table(found)}, as_json=as_json)
    return DONE


@dataclass(frozen=True)
class Outcomes:
    """What donors are held against, and how."""

    donor_column: Annotated[str, Parameter(help="Column of the donor ids.")] = "projid"
    outcomes: Annotated[
        tuple[str, ...], Parameter(name=["--outcome"], negative="", help="An outcome; several times.")
    ] = ()
    covariates: Annotated[
        tuple[str, ...], Parameter(name=["--covariate"], negative="", help="Adjust for this column.")
    ] = ()
    replace: Annotated[
        bool, Parameter(negative="", help="Replace stored associations that hold more than these will.")
    ] = False


@dataclass(frozen=True)
class DonorReadout:
    """What of the donors is held against their outcomes."""

    readout: Annotated[
        str,
        Parameter(
            help="ratio, count, density, or e.g. mean:area, mean:eccentricity, share:marker+IBA1, across:GFAP+IBA1."
        ),
    ] = "ratio"
    region: Annotated[
        str, Parameter(help="Count only cells of this region of tissue, and densities per mm² of it; with --readout.")
    ] = ""


@dataclass(frozen=True)
class Groups:
    """Which groups of donors are compared."""

    groups: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--group"],
            negative="",
            help="Compare groups by rank tests: a column of the table, or COLUMN=a,b for these, in this order. Without "
            "--outcome nothing else is done.",
        ),
    ] = ()
    subject: Annotated[
        str, Parameter(help="Column that says whose the donors are: groups are then times of one subject.")
    ] = ""


def associate(
    store: Store,
    *,
    clinical: Annotated[Path, Parameter(help="CSV or TSV with one row per donor.")],
    outcomes: Annotated[Outcomes | None, Parameter(name="*")] = None,
    runs: Runs = (),
    readouts: Annotated[DonorReadout | None, Parameter(name="*")] = None,
    groups: Annotated[Groups | None, Parameter(name="*")] = None,
    as_json: Json = False,
) -> int:
    """Donor ratios, or other readouts of donors, against outcomes: correlations, or tests of groups, and their FDR.

    Example: fintune-xr associate cohort.zarr --clinical clinical.csv --outcome nft --outcome gpath

    Example: fintune-xr associate cohort.zarr --clinical clinical.csv --group diagnosis=control,MCI,AD
    """
    from fintune_xr.analysis.readouts import in_region
    from fintune_xr.pipelines.steps.associate import associate as step
    from fintune_xr.pipelines.steps.associate import association_table, refuse_mixed
    from fintune_xr.pipelines.steps.group_tests import compare_groups, group_table
    from fintune_xr.pipelines.steps.readout import associate_readout as of_readout

    against, compared = outcomes or Outcomes(), groups or Groups()
    readout = in_region(**keywords(readouts or DonorReadout()))
    refuse_mixed(**keywords(compared), outcomes=against.outcomes, covariates=against.covariates)
    asked = {**keywords(against), "clinical": clinical, "runs": runs}
    tables = {}
    if against.outcomes or not compared.groups:
        found = step(store, **asked) if readout == "ratio" else of_readout(store, readout=readout, **asked)
        tables["associations"] = association_table(found)
    if compared.groups:
        common = {name: value for name, value in asked.items() if name not in ("outcomes", "covariates")}
        tables["groups"] = group_table(compare_groups(store, readout=readout, **keywords(compared), **common))
    show_tables(tables, as_json=as_json)
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
        str | None,
        Parameter(
            completer=candidates.runs, help="Run that others are compared to; default: `baseline`, else the first."
        ),
    ] = None,
) -> int:
    """Write a self-contained HTML report, and its tables as TSV.

    Example: fintune-xr report cohort.zarr --out report.html
    """
    from fintune_xr.pipelines.report.report import report as step

    show(f"report: {step(store, out=out, baseline=baseline)}")
    return DONE
