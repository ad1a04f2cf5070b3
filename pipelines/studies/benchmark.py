"""Segmentation study: which of several ways to train segments the held-out tiles best."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from pydantic import Field

from fintune_xr import names as n
from fintune_xr.analysis.report.studies.benchmark import (
    BASELINE,
    GENERIC,
    MARKER_ONLY,
    UNDECIDED,
    benchmark_table,
    hybrid_choice,
    specific_name,
)
from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.finetune.registry import train_settings
from fintune_xr.metrics.intervals import instance_scores
from fintune_xr.metrics.omissions import left_out_lines
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.registry import resolve_checkpoint
from fintune_xr.models.threshold.kind import THRESHOLD
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.inference.request import InferSettings
from fintune_xr.pipelines.instance.evaluate import match_tiles, scores_by_group
from fintune_xr.pipelines.steps.evaluate import score_lines
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.train import model_to_train
from fintune_xr.pipelines.studies.class_benchmark import benchmark_classes
from fintune_xr.pipelines.studies.encoder_benchmark import benchmark_encoders
from fintune_xr.pipelines.studies.hybrid import choose_by_marker, markers_without_scores
from fintune_xr.pipelines.studies.model_training import ModelTraining, Workplace, require_devices, trained_folders
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pipelines.workers.devices import HERE, THREADS, of_cluster
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, Settings, load_settings, validate
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.labels.named_labels import gives_named_labels
from fintune_xr.store.lineage.depends_on import rests_on, tiles_in
from fintune_xr.store.lineage.training_exposure import require_unseen_by
from fintune_xr.store.runs.run import quarantined_of_runs
from fintune_xr.store.split import part_to_score, require_split, split_table
from fintune_xr.tasks.task import CLASSIFICATION, SEMANTIC
from fintune_xr.text import text_array, texts

PARTS: Final = (n.VAL, n.TEST)


class BenchmarkSettings(Settings):
    """What is trained and how it is applied; unset, every model that the cohort allows."""

    baseline: str = Field(
        default="",
        description="Model that the others are compared to; empty: what training starts from, or "
        "threshold where it starts from nothing.",
    )
    train: dict[str, Any] = Field(default_factory=dict, description="Settings of every training, as for `train`.")
    infer: dict[str, Any] = Field(default_factory=dict, description="Settings of runs of the trained, as for `infer`.")
    baseline_infer: dict[str, Any] = Field(default_factory=dict, description="The same for the baseline.")
    markers: tuple[str, ...] | None = Field(
        default=None, description="Markers with a model of their own; default: all with train and val tiles."
    )
    marker_only: tuple[str, ...] = Field(
        default=(n.DAPI,), description="Planes that the marker-only model never sees; empty: no such model."
    )
    prefix: str = Field(default="e1-", description="What the names of runs and checkpoint folders begin with.")
    resamples: int = Field(default=1000, ge=1, description="Donor resamples for the intervals.")
    seed: int = Field(default=0, ge=0, description="Seed of the resamples.")


OF_MODELS: Final[Mapping[str, Callable[..., xr.Dataset]]] = {
    CLASSIFICATION: benchmark_encoders,
    SEMANTIC: benchmark_classes,
}
"""By task: comparisons of models that their settings name, in place of ways to train one."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One model of the study; `training` is what its training differs by, None for the baseline."""

    name: str
    run: str
    training: dict[str, Any] | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is compared, and what cannot be, with the reason."""

    cohort: Cohort
    settings: BenchmarkSettings
    start: str
    baseline: Checkpoint
    members: tuple[_Member, ...]
    left_out: dict[str, str] = field(default_factory=dict)


@gives_named_labels
def benchmark(
    store: str | Path,
    *,
    model: str = FLOW_UNET.name,
    out: str | Path = "models",
    cluster: str = HERE,
    config: Config = None,
    overrides: Sequence[str] = (),
) -> xr.Dataset:
    """Scores (group, run, threshold) on the test tiles: baseline, generic, one per marker, marker-only and hybrid.

    Of a cohort of volumes they are those of `benchmark_encoders`, of stained tissue those of `benchmark_classes`; there
    `models` in the settings says what is compared.

    `model` is what all trainings start from. The generic model learns from all train tiles, a specific one from those
    of its marker, the marker-only one without DAPI; the hybrid takes for each marker the model whose AP50 on the val
    tiles is best. Each is trained into a folder of `out` and run on the val and test tiles of the store, where the
    run can be continued over the whole cohort by `infer`. Scores, with intervals over donors and paired differences,
    are stored under `metrics/benchmark` (those on val under `metrics/benchmark_val`), and in `out` as TSV. Run it
    again to continue after an interruption. `cluster` is the profile of the workers that train, several models at once,
    and segment; by default this process does both. Overrides `cluster.*` are its settings.

    Raises SplitError without a split, RunMismatchError where stored runs or folders hold other models, DeviceError for
    a device that the workers lack, RunBusyError where another process compares, SettingsError for a `model` where the
    settings say which there are.
    """
    cohort = open_cohort(store).opened_once()
    cohort.require("benchmark")
    if cohort.task.name in OF_MODELS:
        _require_no_model(cohort, model)
        return OF_MODELS[cohort.task.name](store, out=out, cluster=cluster, config=config, overrides=overrides)
    workers, rest = of_cluster(overrides)
    plan = _plan(cohort, model, load_settings(BenchmarkSettings, config, rest))
    place = Workplace(Path(out), cluster, workers)
    require_devices(place, [plan.settings.infer, plan.settings.baseline_infer])
    for name, reason in plan.left_out.items():
        say(f"benchmark: no {name} model: {reason}")

    def compared(_: xr.Dataset | None) -> Iterator[xr.Dataset]:
        folders = trained_folders(cohort.url, _trainings(plan), place)
        for member in plan.members:
            _segmented(plan, member, folders.get(member.name), cluster=cluster or THREADS, workers=workers)
        judged, result = _scored(plan)
        cohort.write(f"{n.BENCHMARK_PATH}_{n.VAL}", judged)
        yield result

    study = Study(cohort=cohort, path=n.BENCHMARK_PATH, lock=n.BENCHMARK, what="comparing ways to train")
    result = carry_out(study, compared)
    with whole_file(Path(out) / f"{plan.settings.prefix}benchmark.tsv") as path:
        benchmark_table(result).to_csv(path, sep="\t", index=False)
    return result


def _require_no_model(cohort: Cohort, model: str) -> None:
    if model != FLOW_UNET.name:
        raise SettingsError(
            f"--model {model}: benchmark of a cohort {cohort.kind_facts.about} compares the models that its settings "
            f"name. Write models=[{model}, …]."
        )


def closing_lines(found: xr.Dataset) -> list[str]:
    """What is said below the table of scores: tiles left out and the choice of the hybrid, or how ranks are meant."""
    return [*left_out_lines(found), hybrid_line(found)] if n.THRESHOLD in found.dims else score_lines(found)


def hybrid_line(found: xr.Dataset) -> str:
    """Which model the hybrid takes for each marker, as one sentence."""
    return f"hybrid, by AP50 on the val tiles: {hybrid_choice(found)}"


def _plan(cohort: Cohort, model: str, settings: BenchmarkSettings) -> _Plan:
    """Everything that can be wrong with names and settings is found here, before the first training."""
    require_split(cohort)
    kind, start = model_to_train(model)
    validate(train_settings(kind), settings.train, where="settings of train")
    for what in ("infer", "baseline_infer"):
        validate(InferSettings, getattr(settings, what), where=f"settings of {what}")
    if "zero_channels" in settings.train:
        raise SettingsError("train.zero_channels belongs to the marker-only model alone: set marker_only instead")
    baseline = resolve_checkpoint(settings.baseline or (THRESHOLD.name if start is None else model))
    for checkpoint in (baseline, *([] if start is None else [start])):
        for part in (n.VAL, n.TEST):
            require_unseen_by(cohort, checkpoint, part_to_score(cohort, part).names)
    _check_labels(cohort, settings)
    members, left_out = _members(cohort, settings)
    return _Plan(cohort, settings, model, baseline, tuple(members), left_out)


def _check_labels(cohort: Cohort, settings: BenchmarkSettings) -> None:
    """Raises UnknownNameError for a marker or a plane that was asked for and that the cohort does not have."""
    images = cohort.images(lazy=False)
    planes = settings.marker_only if "marker_only" in settings.model_fields_set else ()
    for label, asked in ((n.MARKER, settings.markers or ()), (n.CHANNEL, planes)):
        known = set(texts(images[label]))
        for name in asked:
            if name not in known:
                raise unknown_name(f"{label} in the cohort", name, known)


def _members(cohort: Cohort, settings: BenchmarkSettings) -> tuple[list[_Member], dict[str, str]]:
    """The models that these tiles allow, and why others are missing."""
    table = split_table(cohort)
    markers = sorted(set(table[n.MARKER]))
    there = set(zip(table[n.MARKER], table[n.SPLIT], strict=True))
    found = [_member(settings, BASELINE), _member(settings, GENERIC, training={})]
    left_out: dict[str, str] = {}
    for marker in markers if settings.markers is None else settings.markers:
        name = specific_name(marker)
        missing = [part for part in (n.TRAIN, n.VAL) if (marker, part) not in there]
        if markers == [marker]:
            left_out[name] = "there is no other marker, so it would be the generic model"
        elif missing:
            left_out[name] = f"no annotated tile of it in part {' and '.join(missing)}"
        else:
            found.append(_member(settings, name, training={}, markers=(marker,)))
    blank = [name for name in settings.marker_only if name in texts(cohort.images(lazy=False)[n.CHANNEL])]
    if settings.marker_only and len(blank) < len(settings.marker_only):
        left_out[MARKER_ONLY] = f"the tiles have no channel {' and '.join(set(settings.marker_only) - set(blank))}"
    elif settings.marker_only:
        found.append(_member(settings, MARKER_ONLY, training={"zero_channels": blank}))
    return found, left_out


def _member(
    settings: BenchmarkSettings, name: str, *, training: dict[str, Any] | None = None, markers: tuple[str, ...] = ()
) -> _Member:
    run = settings.prefix + re.sub(r"[^A-Za-z0-9_.-]", "-", name)
    return _Member(name, run, None if training is None else {**settings.train, **training}, markers)


def _trainings(plan: _Plan) -> list[ModelTraining]:
    """What is trained for each member but the baseline."""
    return [
        ModelTraining(name=one.name, run=one.run, start=plan.start, settings=one.training, markers=one.markers)
        for one in plan.members
        if one.training is not None
    ]


def _segmented(plan: _Plan, member: _Member, folder: Path | None, *, cluster: str, workers: Sequence[str]) -> None:
    """Runs a model on the tiles of PARTS: the one in `folder`, or the baseline."""
    applied = plan.settings.baseline_infer if folder is None else plan.settings.infer
    model = plan.baseline.path or plan.baseline.name if folder is None else str(folder)
    infer(plan.cohort.url, run=member.run, model=model, cluster=cluster, config=applied, overrides=workers, parts=PARTS)


def _scored(plan: _Plan) -> tuple[xr.Dataset, xr.Dataset]:
    """Counts and scores on the val tiles, and on the test tiles with the hybrid that the first decide on."""
    names, runs = ([getattr(one, key) for one in plan.members] for key in ("name", "run"))
    val, test = (_matched(plan.cohort, part, dict(zip(runs, names, strict=True))) for part in PARTS)
    judged, facts = _by_group(val), _facts(plan)
    markers = texts(test[n.MARKER])
    choice, guessed = choose_by_marker(judged, markers), markers_without_scores(val, markers)
    counts = _with_hybrid(test, choice)
    scores = scores_by_group(counts, plan.settings.resamples, plan.settings.seed)
    return (
        xr.merge([val, judged], join="exact").assign_attrs({**facts, n.LEFT_OUT: val.attrs[n.LEFT_OUT]}),
        xr.merge([counts, scores], join="exact").assign_attrs(
            {**facts, n.LEFT_OUT: test.attrs[n.LEFT_OUT], n.HYBRID: choice, UNDECIDED: guessed}
        ),
    )


def _matched(cohort: Cohort, part: str, names: Mapping[str, str]) -> xr.Dataset:
    """Counts (run, tile, threshold) of runs, called by their `names`, on the tiles of `part` that all of them have.

    Those that one of them has in quarantine are named in the attribute LEFT_OUT.
    """
    judged = part_to_score(cohort, part)
    left_out = quarantined_of_runs(cohort, list(names), judged.names)
    counts = match_tiles(cohort, list(names), judged.without(left_out)).assign_coords({n.RUN: list(names.values())})
    return counts.assign_attrs({n.LEFT_OUT: left_out})


def _by_group(counts: xr.Dataset) -> xr.Dataset:
    """Scores (group, run, threshold) of all tiles and of each marker, without intervals."""
    groups = [n.ALL_MARKERS, *sorted(set(text_array(counts[n.MARKER])))]
    of_tile = text_array(counts[n.MARKER])
    bare = counts[[n.TP, n.FP, n.FN]].drop_vars([n.TILE, n.DONOR, n.MARKER, n.SPLIT])
    scored = [
        instance_scores(bare.isel({n.TILE: np.flatnonzero((of_tile == group) | (group == n.ALL_MARKERS))}), over=n.TILE)
        for group in groups
    ]
    return xr.concat(scored, n.GROUP).assign_coords({n.GROUP: groups})


def _with_hybrid(counts: xr.Dataset, choice: dict[str, str]) -> xr.Dataset:
    """Counts with a further run that takes those of the run chosen for each tile's marker."""
    names = texts(counts[n.RUN])
    taken = xr.DataArray([names.index(choice[marker]) for marker in texts(counts[n.MARKER])], dims=n.TILE)
    hybrid = counts.isel({n.RUN: taken}).drop_vars(n.RUN).expand_dims({n.RUN: [n.HYBRID]})
    return xr.concat([counts, hybrid.transpose(*counts[n.TP].dims)], n.RUN, join="exact")


def _facts(plan: _Plan) -> dict[str, Any]:
    """The runs, how they were trained, what the numbers rest on, and settings."""
    runs, digest = {one.name: one.run for one in plan.members}, require_split(plan.cohort)
    baseline, settings = plan.baseline.as_dict(), plan.settings.as_dict()
    facts = provenance(model=plan.start, baseline=baseline, settings=settings, split_digest=digest)
    trainings = {one.name: plan.cohort.run_attrs(one.run)[n.PROVENANCE].get("training", {}) for one in plan.members}
    return {
        "runs": runs,
        n.RESTS_ON: rests_on(plan.cohort, runs=runs.values(), tiles=tiles_in(plan.cohort, *PARTS), split=digest),
        "trainings": trainings,
        "left_out": plan.left_out,
        n.PROVENANCE: facts,
    }
