"""Verbs about models: training, running, comparing and studying them.

Pipelines are imported inside the verbs: `--help` must not wait for Dask, Zarr or a network library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fintune_xr.pipelines.cli import candidates
from fintune_xr.pipelines.cli.arguments import (
    DONE,
    WITH_QUARANTINE,
    Cluster,
    Config,
    Json,
    Overrides,
    Run,
    Runs,
    Store,
    Where,
    show,
    show_tables,
)


def train(
    store: Store,
    *overrides: Overrides,
    model: Annotated[
        str,
        Parameter(completer=candidates.models, help="flow_unet, particle_unet, cpsam, or a checkpoint to go on from."),
    ] = "flow_unet",
    run_name: Annotated[str, Parameter(name=["--name", "--run-name"], help="Name of the checkpoint folder.")],
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    config: Config = None,
    markers: Annotated[
        tuple[str, ...], Parameter(name=["--marker"], negative="", help="Train on these markers only.")
    ] = (),
    cluster: Where = "",
) -> int:
    """Fine-tune a model on the train part; the best checkpoint on val is kept, by AP50 of masks or F1 of particles.

    Example: fintune-xr train cohort.zarr --model flow_unet --name generic epochs=60
    """
    from fintune_xr.pipelines.steps.train import train as step

    made = step(
        store, model=model, run_name=run_name, out=out, config=config, markers=markers, overrides=overrides,
        cluster=cluster,
    )  # fmt: skip
    show(f"checkpoint: {made}")
    return DONE


def classify(
    store: Store,
    *overrides: Overrides,
    regions: Annotated[str, Parameter(help="truth, or a run of classes or of instances.")] = "truth",
    model: Annotated[Path, Parameter(help="Folder of a CLIP network in transformers' format.")],
    prompts: Annotated[Path, Parameter(help="JSON file {class: [sentence, ...]}.")],
    name: Annotated[str, Parameter(help="Name under which regions and scores are stored.")],
    as_run: Annotated[str, Parameter(help="Also store classes of a run's instances as a run of this name.")] = "",
    config: Config = None,
) -> int:
    """Give regions of stained tissue a class by sentences that describe the classes.

    Example: fintune-xr classify he.zarr --regions truth --model clip/ --prompts prompts.json --name clip
    """
    from fintune_xr.pipelines.steps.classify import classify as step

    made = step(
        store,
        regions=regions,
        model=model,
        prompts=prompts,
        name=name,
        as_run=as_run,
        config=config,
        overrides=overrides,
    )
    show(
        f"{made.sizes['region']} regions ({made.attrs['protocol']}), {int(made['confusion'].sum())} of them judged: "
        f"accuracy {float(made['accuracy']):.3f}, balanced {float(made['balanced_accuracy']):.3f}"
    )
    return DONE


def selftrain(
    store: Store,
    *overrides: Overrides,
    run_name: Annotated[str, Parameter(name=["--name", "--run-name"], help="Name of the folder of all stages.")],
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    config: Config = None,
) -> int:
    """Train a particle U-Net on few labelled micrographs, then in rounds on what it is sure of; run again to continue.

    Example: fintune-xr selftrain micrographs.zarr --name em labelled=2 train.device=cuda
    """
    from fintune_xr.pipelines.studies.selftrain import selftrain as step

    show(f"checkpoint: {step(store, run_name=run_name, out=out, config=config, overrides=overrides)}")
    return DONE


def infer(
    store: Store,
    *overrides: Overrides,
    run: Run,
    model: Annotated[
        str | None, Parameter(completer=candidates.models, help="threshold, a Cellpose name, or a checkpoint.")
    ] = None,
    cluster: Cluster = "threads",
    config: Config = None,
    dry_run: Annotated[bool, Parameter(help="Only print what would be done, and a job's script.", negative="")] = False,
    pilot: Annotated[int, Parameter(help="Tiles that a dry run segments here to tell the hours; 0: none.")] = 3,
    restart: Annotated[bool, Parameter(help="Throw the stored run away first.", negative="")] = False,
    retry_quarantined: Annotated[bool, Parameter(help="Try quarantined tiles again.", negative="")] = False,
    parts: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--split", "--part"], negative="", help="Only tiles of this part of the split; others stay pending."
        ),
    ] = (),
) -> int:
    """Segment every pending tile; run again to continue.

    Example: fintune-xr infer cohort.zarr --run tuned --model models/generic --cluster processes
    """
    from fintune_xr.pipelines.steps import infer as step
    from fintune_xr.pipelines.steps.infer_plan import plan_run

    said: dict[str, Any] = {
        "run": run, "model": model, "cluster": cluster, "config": config, "overrides": overrides, "parts": parts
    }  # fmt: skip
    if dry_run:
        for key, value in plan_run(store, pilot=pilot, **said).items():
            show(f"{key}: {value}")
        return DONE
    summary = step.infer(store, restart=restart, retry_quarantined=retry_quarantined, **said)
    show(
        f"run {summary.run}: {summary.n_done} of {summary.n_tiles} tiles done ({summary.n_new} now), "
        f"{summary.n_quarantined} quarantined"
    )
    for tile, reason in step.quarantined_of(store, run):
        show(f"  quarantined {tile}: {reason}")
    return WITH_QUARANTINE if summary.n_quarantined else DONE


def evaluate(
    store: Store,
    *,
    runs: Runs = (),
    split: Annotated[
        str,
        Parameter(
            completer=candidates.parts,
            help="train, val, test or all. Default: test, or val without a test part.",
            show_default=False,
        ),
    ] = "",
    resamples: Annotated[int, Parameter(help="Sign flips drawn for p beyond 14 donors.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the sign flips.")] = 0,
    coarser: Annotated[
        tuple[str, ...],
        Parameter(
            negative="",
            help="Score maps of classes under coarser ones: NAME=[CODE or CLASS, …] for each, rest=[…] for those that "
            "are none of them.",
        ),
    ] = (),
    as_json: Json = False,
) -> int:
    """Compare the masks of runs with the annotations, or the picks of micrographs.

    Example: fintune-xr evaluate cohort.zarr --run baseline --run tuned --split test
    """
    from fintune_xr.pipelines.steps.evaluate import evaluate as step
    from fintune_xr.pipelines.steps.evaluate import score_lines, score_numbers, score_table
    from fintune_xr.tasks.coarser import parse_coarser

    found = step(store, runs=runs, split=split, resamples=resamples, seed=seed, coarser=parse_coarser(coarser))
    tables = {"scores": score_table(found)} | ({"numbers": score_numbers(found)} if as_json else {})
    show_tables(tables, as_json=as_json, lines=score_lines(found))
    return DONE


def hybrid(
    store: Store,
    *,
    run_name: Annotated[str, Parameter(name=["--name", "--run-name"], help="Name of the new run.")],
    runs: Annotated[
        tuple[str, ...],
        Parameter(completer=candidates.runs, name=["--run"], negative="", help="A candidate; twice or more."),
    ],
    part: Annotated[
        str,
        Parameter(
            completer=candidates.parts, name=["--split", "--part"], help="Part of the split that decides: val or train."
        ),
    ] = "val",
    restart: Annotated[bool, Parameter(negative="", help="Make the run anew, from runs that have been.")] = False,
    as_json: Json = False,
) -> int:
    """Make a run that takes, for each marker, the masks of the run that is best on the val part.

    Example: fintune-xr hybrid cohort.zarr --name hybrid --run generic --run gfap-only
    """
    from fintune_xr.pipelines.studies.hybrid import hybrid as step

    chosen = step(store, run_name=run_name, runs=runs, part=part, restart=restart)
    if as_json:
        import pandas as pd

        show_tables({"markers": pd.DataFrame(chosen.items(), columns=["marker", "run"])}, as_json=True)
    else:
        show(*(f"{marker}: {run}" for marker, run in chosen.items()))
    return DONE


def benchmark(
    store: Store,
    *overrides: Overrides,
    model: Annotated[
        str,
        Parameter(completer=candidates.models, help="What trainings start from: flow_unet, cpsam_v2, or a checkpoint."),
    ] = "flow_unet",
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    cluster: Where = "",
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Train on all markers, on each alone and without DAPI, and tell which segments best; run again to continue.

    Of volumes: embed by each encoder, probe, fine-tune the best, and rank them. Of stained tissue: train each model of
    classes, and each head of SAM 2, on the same patches, and hold them against one.

    Example: fintune-xr benchmark cohort.zarr --model cpsam_v2 train.device=cuda infer.device=cuda
    Example: fintune-xr benchmark he.zarr 'models=[semantic_unet,sam2.1_hiera_large]' --config he_benchmark.yaml
    Example: fintune-xr benchmark oct.zarr 'models=[multi.pt,single.pt]' finetune=best
    """
    from fintune_xr.pipelines.steps.evaluate import score_numbers, score_table
    from fintune_xr.pipelines.studies.benchmark import benchmark as step
    from fintune_xr.pipelines.studies.benchmark import closing_lines

    found = step(store, model=model, out=out, cluster=cluster, config=config, overrides=overrides)
    tables = {"scores": score_table(found)} | ({"numbers": score_numbers(found)} if as_json else {})
    show_tables(tables, as_json=as_json, lines=["", *closing_lines(found)])
    return DONE


def gate(
    store: Store,
    *overrides: Overrides,
    run: Run,
    split: Annotated[str, Parameter(completer=candidates.parts, help="train, val, test or all.")] = "test",
    config: Config = None,
    resamples: Annotated[int, Parameter(help="Donor resamples for the intervals.")] = 1000,
    seed: Annotated[int, Parameter(help="Seed of the resamples.")] = 0,
    as_json: Json = False,
) -> int:
    """Drop cells of odd brightness or small area, for a grid of limits, without segmenting again.

    Example: fintune-xr gate cohort.zarr --run tuned 'q_ranges=[[0,100],[2,98]]' 'min_areas=[0,60]'
    """
    from fintune_xr.analysis.report.studies.gate import gate_page, gate_table
    from fintune_xr.metrics.omissions import left_out_lines
    from fintune_xr.pipelines.studies.gate import gate as step

    found = step(store, run=run, split=split, config=config, overrides=overrides, resamples=resamples, seed=seed)
    gates = gate_table(found)
    lines = left_out_lines(found)
    show_tables({"gates": gates if as_json else gate_page(gates)}, as_json=as_json, lines=lines)
    return DONE


def sweep(
    store: Store,
    *overrides: Overrides,
    model: Annotated[
        str,
        Parameter(completer=candidates.models, help="SAM or micro-SAM weights: a file, or a name such as sam_vit_b."),
    ],
    split: Annotated[str, Parameter(completer=candidates.parts, help="train, val, test or all.")] = "test",
    config: Config = None,
    device: Annotated[str, Parameter(help="cpu, cuda, cuda:N, or auto: the GPU where there is one.")] = "auto",
    restart: Annotated[bool, Parameter(help="Throw the stored sweep away first.", negative="")] = False,
    as_json: Json = False,
) -> int:
    """Vary SAM's automatic mask generation on annotated tiles; run again to continue.

    Example: fintune-xr sweep cohort.zarr --model sam_vit_b 'points_per_side=[16,32,64]' n_tiles=10
    """
    from fintune_xr.analysis.report.studies.sweep import best_line, sweep_table
    from fintune_xr.pipelines.studies.sweep import sweep as step

    found = step(store, model=model, split=split, config=config, overrides=overrides, device=device, restart=restart)
    if "prompt" in found.dims:
        from fintune_xr.pipelines.studies.prompt_study import prompted_table

        told = "prompted: masks for prompts drawn from the truth, no automatic result"
        show_tables({"prompted": prompted_table(found)}, as_json=as_json, lines=["", told])
        return DONE
    show_tables({"settings": sweep_table(found)}, as_json=as_json, lines=["", best_line(found)])
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
    model: Annotated[
        str,
        Parameter(completer=candidates.models, help="flow_unet, cpsam, semantic_unet, or a checkpoint to go on from."),
    ] = "flow_unet",
    config: Config = None,
    out: Annotated[Path, Parameter(help="Folder that holds checkpoint folders.")] = Path("models"),
    restart: Annotated[bool, Parameter(help="Throw the stored fits away first.", negative="")] = False,
    skip_existing: Annotated[bool, Parameter(show=False)] = True,
    cluster: Where = "",
    as_json: Json = False,
) -> int:
    """Train on more and more annotated tiles, and tell when more stop to pay.

    Example: fintune-xr budget cohort.zarr epochs=40 --budgets 2 5 10 20 30 --seeds 3
    """
    from fintune_xr.analysis.report.studies.budget import budget_table, curve_page
    from fintune_xr.pipelines.studies.budget import budget as step

    found = step(
        store, budgets=budgets, seeds=seeds, model=model, out=out, config=config, overrides=overrides,
        skip_existing=skip_existing and not restart, cluster=cluster,
    )  # fmt: skip
    show_tables({"fits": budget_table(found), "curves": curve_page(found)}, as_json=as_json)
    return DONE


def weights(
    action: Annotated[Literal["list", "fetch"], Parameter(help="list what is here, or fetch one by name.")],
    name: Annotated[
        str | None, Parameter(completer=candidates.weights, help="Name of the weights, e.g. cpsam_v2.")
    ] = None,
    *,
    as_json: Json = False,
) -> int:
    """List or fetch published weights; fetched ones are used offline afterwards.

    Example: fintune-xr weights fetch cpsam_v2
    """
    from fintune_xr.pipelines.steps.weights import fetch, weights_table

    if action == "list":
        show_tables({"weights": weights_table()}, as_json=as_json)
    else:
        show(f"weights: {fetch(name)}")
    return DONE
