"""Fine-tuning on the annotated tiles of the train part, judged on the val part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fintune_xr import names as n
from fintune_xr.cluster.profile import Profile
from fintune_xr.finetune.engine import is_finished
from fintune_xr.finetune.engine import train as fit
from fintune_xr.finetune.progress import EpochRecord, Report
from fintune_xr.finetune.registry import TRAINERS, is_new, train_settings, trainer_named
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.registry import kind_named, model_names, resolve_checkpoint
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.tasks import steps_of
from fintune_xr.pipelines.workers.devices import HERE, profile_and_rest
from fintune_xr.pipelines.workers.remote_calls import results_from_workers, settings_there, shared_path
from fintune_xr.settings import Config, load_settings
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.depends_on import truth_digest
from fintune_xr.store.lineage.learnt_scale import learnt_sides, mixed_sides
from fintune_xr.store.lineage.training_exposure import training_exposure
from fintune_xr.store.lineage.unfinished_annotations import unfinished_lines
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.store.split import allowed_facts, allowed_pairs, require_split, without_part_lines


def train(
    store: str | Path,
    *,
    run_name: str,
    model: str = FLOW_UNET.name,
    out: str | Path = "models",
    config: Config = None,
    markers: Sequence[str] = (),
    overrides: Sequence[str] = (),
    cluster: str = HERE,
) -> Path:
    """Folder `out/run_name` with the checkpoint that is best on the val part: by AP50 of masks, or F1 of particles.

    `model` is flow_unet or particle_unet (small networks from random weights, for masks and for particles) or a
    checkpoint to fine-tune. `markers` limits training and validation to tiles of these markers. Run it again to
    continue after an interruption. `cluster` is the profile of a worker that does the training; by default this process
    does.

    Raises SplitError without a valid split or without tiles in a part, UnknownNameError for a marker.
    """
    if cluster:
        said = {"model": model, "config": config, "overrides": overrides}
        (folder,) = train_on_workers(
            cluster, [{**said, "store": store, "run_name": run_name, "out": out, "markers": markers}]
        )
        return folder
    cohort = open_cohort(store).opened_once()
    check_run_name(run_name)
    kind, start = model_to_train(model)
    require_annotations_for(cohort, kind)
    digest = require_split(cohort)
    settings = load_settings(train_settings(kind), config, overrides)
    parts, settings = steps_of(cohort).training_tiles(cohort, settings, start, markers)
    folder = Path(out) / run_name
    learned, judged = parts[n.TRAIN].names, parts[n.VAL].names
    truth = truth_digest(cohort, [*learned, *judged])
    seen = training_exposure(cohort, learned=learned, judged=judged, start=start)
    told = {**allowed_facts(allowed_pairs(cohort)), **_sides(cohort, learned)}
    say(f"train {run_name}: {len(learned)} tiles, {len(judged)} for validation")
    made = fit(
        parts[n.TRAIN],
        parts[n.VAL],
        settings=settings,
        out=folder,
        start=start,
        facts={
            n.SPLIT_DIGEST: digest,
            n.ANNOTATIONS_DIGEST: truth,
            n.SEEN: seen,
            **told,
        },
        report=epoch_lines(trainer_named(kind).score),
        beside=partial(steps_of(cohort).after_training, cohort),
    )
    return Path(made.path).parent


def _sides(cohort: Cohort, learned: Sequence[str]) -> dict[str, list[float]]:
    """Sides of the pixels that are learnt from; says where they are of several magnifications."""
    found = learnt_sides(cohort, learned)
    if mixed := mixed_sides(found):
        say(f"train: {mixed}")
    return found


def train_on_workers(cluster: str, calls: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The folders of several trainings, each with the arguments of `train`, several at once on workers of a profile.

    What can be wrong with the commands is found before there is a worker; finished trainings are checked and need none.
    """
    placed = [_placed(cluster, **call) for call in calls]
    found = {
        number: train(**call)
        for number, (_, call) in enumerate(placed)
        if is_finished(Path(call["out"]) / call["run_name"])
    }
    left = [number for number in range(len(calls)) if number not in found]
    if left:
        profile = placed[left[0]][0]
        for which, folder in results_from_workers(profile, train, [placed[number][1] for number in left]):
            found[left[which]] = folder
    return [found[number] for number in range(len(calls))]


def _placed(
    cluster: str, *, model: str, config: Config, overrides: Sequence[str], **rest: Any
) -> tuple[Profile, dict[str, Any]]:
    """A profile, and the arguments of `train` as its workers find them."""
    profile, training = cluster_training(cluster, model=model, config=config, overrides=overrides)
    require_annotations_for(open_cohort(rest["store"]), model_to_train(model)[0])
    check_run_name(rest["run_name"])
    there = {"store": shared_path(rest["store"]), "out": shared_path(Path(rest["out"]).absolute())}
    return profile, {**rest, **training, **there}


def cluster_training(
    cluster: str, *, model: str, config: Config, overrides: Sequence[str]
) -> tuple[Profile, dict[str, Any]]:
    """A profile, and what a training on its workers is given: model, config and overrides as they find them.

    Raises UnknownNameError or SettingsError for a profile, DeviceError for a device that its workers lack.
    """
    profile, rest = profile_and_rest(cluster, overrides)
    kind, start = model_to_train(model)
    device = load_settings(train_settings(kind), config, rest).device
    config, rest = settings_there(config, rest, device=device, profile=profile)
    # A folder that happens to have the name of a model is not meant.
    there = model if start is None or model in model_names() else shared_path(model)
    return profile, {"model": there, "config": config, "overrides": rest}


def model_to_train(model: str) -> tuple[str, Checkpoint | None]:
    """Kind of model, and the checkpoint to begin with: none for a new network of a kind that can be had so.

    Raises CheckpointNotFoundError for what is neither.
    """
    if is_new(model):
        kind = kind_named(model)
        if model in kind.former:
            say(f"--model {model} is called {kind.name} now")
        return kind.name, None
    start = resolve_checkpoint(model, others=[name for name, trainer in TRAINERS.items() if trainer.is_new])
    return kind_named(start.kind).name, start


def require_annotations_for(cohort: Cohort, kind: str) -> None:
    """Says which annotations of the cohort are unfinished, and which are in no part of its split.

    Raises FintuneValueError where it does not have those that a kind of model learns from.
    """
    for line in [*unfinished_lines(cohort), *without_part_lines(cohort)]:
        say(f"train: {line}")
    cohort.require(f"a training of {kind}", tasks=(trainer_named(kind).task,))


def epoch_lines(score: str) -> Report:
    """Says what became of each epoch, the measure that the best one is chosen by under the name `score`."""

    def line(epoch: EpochRecord) -> None:
        told = "" if math.isnan(epoch.score) else f", {score} {epoch.score:.3f}"
        best = " (best so far)" if epoch.is_best else ""
        collapsed = " (collapsed)" if epoch.is_collapsed else ""
        say(f"epoch {epoch.epoch + 1}: loss {epoch.loss:.3f}{told}{best}{collapsed}, {epoch.seconds:.1f} s")

    return line
