"""The verbs of the command line: arguments and what is printed. Each calls the public function of its name.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

DONE = 0
WITH_QUARANTINE = 3

Store = Annotated[str, Parameter(help="Path or URL of the cohort store.")]
Run = Annotated[str, Parameter(help="Name of the run.")]
Runs = Annotated[
    tuple[str, ...],
    Parameter(name=["--run"], negative="", help="A run; give it several times. Default: all."),
]
Config = Annotated[Path | None, Parameter(help="YAML file with settings.")]
Overrides = Annotated[
    str, Parameter(help="Settings as key=value, e.g. model.sigma_px=2.", show_default=False)
]
Cluster = Annotated[str, Parameter(help="Cluster profile: threads, processes, or a YAML file.")]


def _print(*what: object) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for one in what:
        console.print(one, markup=False)


def ingest(
    source: Annotated[str, Parameter(help="Folder of raw tiles.")],
    store: Store,
    *,
    layout: Annotated[str, Parameter(help="Layout of the folder; see docs/layouts.md.")] = "rosmap",
    pattern: Annotated[
        str | None, Parameter(help="Regular expression with groups donor, marker, tile, channel.")
    ] = None,
    channels: Annotated[
        tuple[str, ...],
        Parameter(
            help="Channel tokens and names in order, e.g. b0c0=DAPI b0c1=marker.",
            consume_multiple=True,
            negative="",
        ),
    ] = (),
    marker: Annotated[str | None, Parameter(help="Marker of tiles whose names do not tell it.")] = None,
    dry_run: Annotated[
        bool, Parameter(help="Only print what would be stored and left out.", negative="")
    ] = False,
    verify: Annotated[bool, Parameter(help="Compare the files of stored tiles again.", negative="")] = False,
    workers: Annotated[int | None, Parameter(help="Threads that read and compress.")] = None,
    title: Annotated[str, Parameter(help="Title of a new cohort.")] = "",
) -> int:
    """Store the tiles of a folder; run again to resume or to add donors.

    Example: fintune-xr ingest raw/ cohort.zarr --layout rosmap --dry-run
    """
    from fintune_xr.pipelines import ingest as step
    from fintune_xr.store.layouts import choose_layout

    chosen = choose_layout(layout, pattern=pattern, channels=_channels(channels), marker=marker)
    if dry_run:
        planned = step.plan_ingest(source, layout=chosen)
        _print(_table(planned.tiles), "", *_left_out(planned.left_out))
        for what, count in planned.ignored.items():
            _print(f"ignored: {count} x {what}")
        return DONE
    report = step.ingest(source, store, layout=chosen, workers=workers, verify=verify, title=title)
    _print(f"{report.n_added} tiles added, {report.n_present} there before, {len(report.left_out)} left out")
    for item in report.left_out:
        _print(f"  quarantined {item.path}: {item.reason}")
    return WITH_QUARANTINE if report.left_out else DONE


def annotate(
    source: Annotated[str, Parameter(help="Folder of instance or binary masks (TIFF, PNG).")],
    store: Store,
    *,
    layout: Annotated[str, Parameter(help="Layout of the folder; see docs/layouts.md.")] = "rosmap",
    pattern: Annotated[
        str | None, Parameter(help="Regular expression with groups donor, marker, tile.")
    ] = None,
    restart: Annotated[bool, Parameter(help="Throw the stored annotations away first.", negative="")] = False,
) -> int:
    """Store ground-truth masks of annotated tiles; binary masks become instances by connected components.

    Example: fintune-xr annotate masks/ cohort.zarr
    """
    from fintune_xr.pipelines.annotate import annotate as step

    report = step(source, store, layout=layout, pattern=pattern, restart=restart)
    _print(
        f"{report.n_added} tiles annotated, {report.n_present} there before, {len(report.left_out)} left out"
    )
    for item in report.left_out:
        _print(f"  left out {item.path}: {item.reason}")
    return WITH_QUARANTINE if report.left_out else DONE


def split(
    store: Store,
    *,
    fractions: Annotated[
        tuple[float, float, float], Parameter(help="Train, val and test; they add up to 1.")
    ] = (0.6, 0.2, 0.2),
    seed: Annotated[int, Parameter(help="The same seed gives the same split.")] = 0,
    force: Annotated[bool, Parameter(help="Replace a split that exists.", negative="")] = False,
) -> int:
    """Split the annotated tiles by donor, stratified by marker, and refuse leaks.

    Example: fintune-xr split cohort.zarr --fractions 0.6 0.2 0.2 --seed 7
    """
    from fintune_xr.pipelines.split import split as step

    _print(_table(step(store, fractions=fractions, seed=seed, force=force)))
    return DONE


def train(
    store: Store,
    *overrides: Overrides,
    model: Annotated[str, Parameter(help="flow_unet, cpsam, or a checkpoint to go on from.")] = "flow_unet",
    run_name: Annotated[str, Parameter(help="Name of the checkpoint folder.")],
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    config: Config = None,
    markers: Annotated[
        tuple[str, ...], Parameter(name=["--marker"], negative="", help="Train on these markers only.")
    ] = (),
) -> int:
    """Fine-tune a model on the train part; the best checkpoint by AP50 on val is kept.

    Example: fintune-xr train cohort.zarr --model flow_unet --run-name generic epochs=60
    """
    from fintune_xr.pipelines.train import train as step

    made = step(
        store, model=model, run_name=run_name, out=out, config=config, markers=markers, overrides=overrides
    )
    _print(f"checkpoint: {made}")
    return DONE


def infer(
    store: Store,
    *overrides: Overrides,
    run: Run,
    model: Annotated[str | None, Parameter(help="threshold, a Cellpose name, or a checkpoint.")] = None,
    cluster: Cluster = "threads",
    config: Config = None,
    dry_run: Annotated[bool, Parameter(help="Only print what would be done.", negative="")] = False,
    restart: Annotated[bool, Parameter(help="Throw the stored run away first.", negative="")] = False,
    retry_quarantined: Annotated[bool, Parameter(help="Try quarantined tiles again.", negative="")] = False,
) -> int:
    """Segment every pending tile; run again to continue.

    Example: fintune-xr infer cohort.zarr --run tuned --model models/generic --cluster processes
    """
    from fintune_xr.pipelines import infer as step

    said: dict[str, Any] = {"run": run, "model": model, "cluster": cluster, "config": config, "overrides": overrides}
    if dry_run:
        for key, value in step.plan_run(store, **said).items():
            _print(f"{key}: {value}")
        return DONE
    summary = step.infer(store, restart=restart, retry_quarantined=retry_quarantined, **said)
    _print(
        f"run {summary.run}: {summary.n_done} of {summary.n_tiles} tiles done ({summary.n_new} now), "
        f"{summary.n_quarantined} quarantined"
    )
    for tile, reason in step.quarantined_of(store, run):
        _print(f"  quarantined {tile}: {reason}")
    return WITH_QUARANTINE if summary.n_quarantined else DONE


def positivity(
    store: Store,
    *,
    run: Run,
    rule: Annotated[str, Parameter(help="otsu, otsu_donor, mixture, fixed or detected.")] = "otsu",
    threshold: Annotated[
        float | None, Parameter(help="For fixed: intensity above background, counts.")
    ] = None,
    nuclei_run: Annotated[str, Parameter(help="For detected: run on the DAPI channel alone.")] = "",
) -> int:
    """Say which cells are marker-positive by another rule, without segmenting again.

    Example: fintune-xr positivity cohort.zarr --run baseline --rule fixed --threshold 250
    """
    from fintune_xr.pipelines.positivity import positivity as step

    counts = step(store, run=run, rule=rule, threshold=threshold, nuclei_run=nuclei_run)
    for name in counts["rule"].values:
        one = counts.sel(rule=name)
        known = one["n_positive"].where(one["n_positive"] >= 0)
        _print(
            f"{name}: {int(known.sum())} of {int(one['n_all'].where(known.notnull()).sum())} cells positive"
        )
    return DONE


def evaluate(
    store: Store,
    *,
    runs: Runs = (),
    split: Annotated[str, Parameter(help="train, val, test or all.")] = "test",
    resamples: Annotated[int, Parameter(help="Donor resamples for the intervals.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the resamples.")] = 0,
) -> int:
    """Compare the masks of runs with the annotations.

    Example: fintune-xr evaluate cohort.zarr --run baseline --run tuned --split test
    """
    from fintune_xr.pipelines.evaluate import evaluate as step
    from fintune_xr.pipelines.evaluate import score_table

    _print(_table(score_table(step(store, runs=runs, split=split, resamples=resamples, seed=seed))))
    return DONE


def hybrid(
    store: Store,
    *,
    run_name: Annotated[str, Parameter(help="Name of the new run.")],
    runs: Annotated[tuple[str, ...], Parameter(name=["--run"], negative="", help="A candidate; twice or more.")],
    part: Annotated[str, Parameter(help="Part of the split that decides: val or train.")] = "val",
) -> int:
    """Make a run that takes, for each marker, the masks of the run that is best on the val part.

    Example: fintune-xr hybrid cohort.zarr --run-name hybrid --run generic --run gfap-only
    """
    from fintune_xr.pipelines.hybrid import hybrid as step

    for marker, chosen in step(store, run_name=run_name, runs=runs, part=part).items():
        _print(f"{marker}: {chosen}")
    return DONE


def gate(
    store: Store,
    *overrides: Overrides,
    run: Run,
    split: Annotated[str, Parameter(help="train, val, test or all.")] = "test",
    config: Config = None,
    resamples: Annotated[int, Parameter(help="Donor resamples for the intervals.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the resamples.")] = 0,
) -> int:
    """Drop cells of odd brightness or small area, for a grid of limits, without segmenting again.

    Example: fintune-xr gate cohort.zarr --run tuned q_ranges=[[0,100],[2,98]] min_areas=[0,60]
    """
    from fintune_xr.analysis.report.gate_study import gate_page, gate_table
    from fintune_xr.pipelines.gate import gate as step

    found = step(
        store, run=run, split=split, config=config, overrides=overrides, resamples=resamples, seed=seed
    )
    _print(_table(gate_page(gate_table(found))))
    return DONE


def sweep(
    store: Store,
    *overrides: Overrides,
    model: Annotated[str, Parameter(help="SAM or micro-SAM weights: a file, or a name such as sam_vit_b.")],
    split: Annotated[str, Parameter(help="train, val, test or all.")] = "test",
    config: Config = None,
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:N, or auto: the GPU where there is one.")] = "auto",
    restart: Annotated[bool, Parameter(help="Throw the stored sweep away first.", negative="")] = False,
) -> int:
    """Vary SAM's automatic mask generation on annotated tiles; run again to continue.

    Example: fintune-xr sweep cohort.zarr --model sam_vit_b points_per_side=[16,32,64] n_tiles=10
    """
    from fintune_xr.analysis.report.sweep_study import best_line, sweep_table
    from fintune_xr.pipelines.sweep import sweep as step

    found = step(
        store, model=model, split=split, config=config, overrides=overrides, device=device, restart=restart
    )
    _print(_table(sweep_table(found)), "", best_line(found))
    return DONE


def budget(
    store: Store,
    *overrides: Overrides,
    budgets: Annotated[
        tuple[int, ...],
        Parameter(
            help="Annotated tiles to train on. Default: 2 5 10 20 30, as far as there are tiles.",
            consume_multiple=True,
            negative="",
            show_default=False,
        ),
    ] = (),
    seeds: Annotated[int, Parameter(help="Trainings per budget, each on a subset of its own.")] = 3,
    model: Annotated[str, Parameter(help="flow_unet, cpsam, or a checkpoint to go on from.")] = "flow_unet",
    config: Config = None,
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    skip_existing: Annotated[bool, Parameter(help="Keep the fits that are stored.")] = True,
) -> int:
    """Train on more and more annotated tiles, and tell when more stop to pay.

    Example: fintune-xr budget cohort.zarr epochs=40 --budgets 2 5 10 20 30 --seeds 3
    """
    from fintune_xr.analysis.report.budget_study import budget_table, curve_page
    from fintune_xr.pipelines.budget import budget as step

    found = step(
        store, budgets=budgets, seeds=seeds, model=model, out=out, config=config, overrides=overrides,
        skip_existing=skip_existing,
    )  # fmt: skip
    _print(_table(budget_table(found)), "", _table(curve_page(found)))
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
) -> int:
    """Donor ratios, Spearman correlations with the outcomes and their FDR.

    Example: fintune-xr associate cohort.zarr --clinical clinical.csv --outcome nft --outcome gpath
    """
    from fintune_xr.pipelines.associate import associate as step
    from fintune_xr.pipelines.associate import association_table

    found = step(
        store,
        clinical=clinical,
        donor_column=donor_column,
        outcomes=outcomes,
        covariates=covariates,
        runs=runs,
    )
    _print(_table(association_table(found)))
    return DONE


def bootstrap(
    store: Store,
    *,
    scheme: Annotated[Literal["tiles_80", "tiles", "donors"], Parameter(help="What is drawn.")] = "tiles_80",
    resamples: Annotated[int, Parameter(help="Resamples in all; more extend what is stored.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the draws.")] = 0,
    restart: Annotated[bool, Parameter(help="Throw stored resamples away.", negative="")] = False,
) -> int:
    """Resample tiles or donors, and store every resample.

    Example: fintune-xr bootstrap cohort.zarr --scheme donors --resamples 10000
    """
    from fintune_xr.pipelines.bootstrap import bootstrap as step

    stored = step(store, scheme=scheme, resamples=resamples, seed=seed, restart=restart)
    _print(f"{stored.sizes['resample']} resamples of scheme {scheme} stored")
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
    from fintune_xr.pipelines.report import report as step

    _print(f"report: {step(store, out=out, baseline=baseline)}")
    return DONE


def check(
    store: Store,
    *,
    repair: Annotated[
        bool, Parameter(help="Set damaged tiles of runs back to pending, for `infer`.", negative="")
    ] = False,
) -> int:
    """Verify a store: schema, every chunk, counts against masks, duplicates, leaks. Exit status 1 on damage.

    Example: fintune-xr check cohort.zarr
    """
    from fintune_xr.pipelines.check import check as step

    problems = step(store, repair=repair)
    for problem in problems:
        _print(str(problem))
    _print(f"{len(problems)} problem(s)" if problems else "no problems")
    return 1 if problems else DONE


def export(
    store: Store,
    *,
    to: Annotated[Literal["masks", "tables", "cellpose"], Parameter(help="What to write.")],
    out: Annotated[Path, Parameter(help="Folder to write into.")],
    runs: Runs = (),
) -> int:
    """Write masks as TIFF (`*_pred.tif`), tables (Parquet, TSV), or the folders that Cellpose trains from.

    Example: fintune-xr export cohort.zarr --to masks --run tuned --out masks/
    """
    from fintune_xr.pipelines.export import export as step

    for path in step(store, to=to, out=out, runs=runs):
        _print(str(path))
    return DONE


def demo(
    folder: Annotated[Path, Parameter(help="Folder to make.")] = Path("demo"),
    *,
    seed: Annotated[int, Parameter(help="Seed of the cohort and of everything after it.")] = 0,
) -> int:
    """Make a small cohort and run every step on it, on the CPU, in a few minutes.

    Example: fintune-xr demo demo
    """
    from fintune_xr.pipelines.demo import demo as step

    _print(f"report: {step(folder, seed=seed)}")
    return DONE


def weights(
    action: Annotated[Literal["list", "fetch"], Parameter(help="list what is here, or fetch one by name.")],
    name: Annotated[str | None, Parameter(help="Name of the weights, e.g. cpsam_v2.")] = None,
) -> int:
    """List or fetch published weights; fetched ones are used offline afterwards.

    Example: fintune-xr weights fetch cpsam_v2
    """
    from fintune_xr.pipelines.weights import fetch, listed

    _print(_table(listed()) if action == "list" else f"weights: {fetch(name)}")
    return DONE


VERBS: Mapping[str, Callable[..., int]] = {
    verb.__name__: verb
    for verb in (
        demo, ingest, annotate, split, train, infer, positivity, evaluate, hybrid, gate, sweep, budget, associate,
        bootstrap, report, check, export, weights,
    )
}  # fmt: skip


def _channels(pairs: tuple[str, ...]) -> dict[str, str] | None:
    from fintune_xr.errors import SettingsError

    if not pairs:
        return None
    split_pairs = [pair.partition("=") for pair in pairs]
    for pair, (_, equals, name) in zip(pairs, split_pairs, strict=True):
        if not equals or not name:
            raise SettingsError(f"--channels {pair!r}: expected token=name, e.g. b0c0=DAPI")
    return {token: name for token, _, name in split_pairs}


def _table(frame: Any) -> str:
    return str(frame.to_string(index=False)) if len(frame) else "(nothing)"


def _left_out(frame: Any) -> list[str]:
    if not len(frame):
        return ["nothing would be left out"]
    return [f"would be left out: {row.path}: {row.reason}" for row in frame.itertuples()]
