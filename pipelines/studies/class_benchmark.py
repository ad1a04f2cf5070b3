"""Comparison of models of classes: trained on the same patches, run on the same patches, none of which they learnt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import xarray as xr
from pydantic import Field

from fintune_xr import names as n
from fintune_xr.analysis.report.semantic.benchmark import BASELINE, ZERO_SHOT, class_benchmark_table
from fintune_xr.errors import SettingsError, unknown_name
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.finetune.registry import train_settings, trainer_named
from fintune_xr.finetune.semantic.settings import SemanticTrainSettings
from fintune_xr.models.mask2former.kind import MASK2FORMER
from fintune_xr.models.registry import kind_named, resolve_checkpoint
from fintune_xr.models.sam2.kind import SAM2
from fintune_xr.models.sam2_semantic.kind import SAM2_SEMANTIC
from fintune_xr.models.semantic_unet.kind import SEMANTIC_UNET
from fintune_xr.models.swin_unetr.kind import SWIN_UNETR
from fintune_xr.pipelines.inference.request import InferSettings
from fintune_xr.pipelines.semantic.evaluate import evaluate_classes, run_class_map
from fintune_xr.pipelines.semantic.patches import stated_class_map
from fintune_xr.pipelines.semantic.regions import ClassifySettings
from fintune_xr.pipelines.steps.classify import classify
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.train import model_to_train
from fintune_xr.pipelines.studies.model_training import ModelTraining, Workplace, require_devices, trained_folders
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pipelines.task_parts.requests import EvaluateRequest
from fintune_xr.pipelines.workers.devices import THREADS, of_cluster
from fintune_xr.provenance import provenance
from fintune_xr.settings import Config, Settings, load_settings, validate
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.lineage.annotated_legend import annotated_legend
from fintune_xr.store.lineage.training_exposure import require_unseen_by
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.store.split import part_to_score, require_split
from fintune_xr.tasks.class_map import ClassMap
from fintune_xr.tasks.coarser import CoarserClasses, coarser_classes
from fintune_xr.tasks.task import SEMANTIC
from fintune_xr.text import texts

COARSER_PATH: Final = f"{n.BENCHMARK_PATH}_{n.COARSER}"


class ZeroShotSettings(Settings):
    """The automatic baseline that was shown no label: regions found by SAM 2, named by sentences."""

    model: str = Field(description="Weights of SAM 2, or of SAM, that find regions.")
    clip: str = Field(description="Folder of a CLIP network.")
    prompts: str = Field(description="JSON file {class: [sentence, …]}.")
    infer: dict[str, Any] = Field(default_factory=dict, description="Settings of the run of regions, as for `infer`.")
    classify: dict[str, Any] = Field(default_factory=dict, description="Settings of the naming, as for `classify`.")


class ClassBenchmarkSettings(Settings):
    """Which models of classes are compared, and how each is trained and applied."""

    models: tuple[str, ...] = Field(
        default=(SEMANTIC_UNET.name, SWIN_UNETR.name, MASK2FORMER.name, SAM2_SEMANTIC.name),
        description="What trainings start from: kinds of network, or weights such as sam2.1_hiera_large.",
    )
    heads: tuple[Literal["prompts", "dense", "both"], ...] = Field(
        default=("prompts", "dense", "both"), min_length=1, description="Heads of SAM 2, each a model of its own."
    )
    train: dict[str, Any] = Field(default_factory=dict, description="Settings of every training, as for `train`.")
    train_of: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Further settings of the trainings of one of `models`, by its name."
    )
    infer: dict[str, Any] = Field(default_factory=dict, description="Settings of runs of the trained, as for `infer`.")
    zero_shot: ZeroShotSettings | None = Field(
        default=None, description="Regions of SAM 2 named by sentences, as a further model; null: without."
    )
    runs: tuple[str, ...] = Field(default=(), description="Runs of the store that stand beside.")
    coarser: dict[str, tuple[int | str, ...]] = Field(
        default_factory=dict,
        description="Coarser classes that all are also scored under, and rest, as for `evaluate --coarser`.",
    )
    coarser_models: tuple[str, ...] = Field(
        default=(), description="What trainings on the coarser classes alone start from; scored under these only."
    )
    baseline: str = Field(
        default="", description="Model that the others are compared to; empty: zero-shot, or else the first."
    )
    prefix: str = Field(default="e1-", description="What the names of runs and checkpoint folders begin with.")
    resamples: int = Field(default=1000, ge=1, description="Sign flips drawn for p beyond 14 donors.")
    seed: int = Field(default=0, ge=0, description="Seed of the sign flips.")


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is compared: trainings on the classes and on coarser ones alone, and runs that are there, by name."""

    cohort: Cohort
    settings: ClassBenchmarkSettings
    class_map: ClassMap
    coarser: CoarserClasses | None
    fine: tuple[ModelTraining, ...]
    coarse: tuple[ModelTraining, ...] = ()
    stored: Mapping[str, ClassMap] = field(default_factory=dict)

    @property
    def zero_shot_run(self) -> str:
        return f"{self.settings.prefix}{ZERO_SHOT}"

    @property
    def runs(self) -> dict[str, str]:
        """Run of each model that has the classes, by its name, the one without training first."""
        found = {} if self.settings.zero_shot is None else {ZERO_SHOT: self.zero_shot_run}
        found |= {one.name: one.run for one in self.fine}
        return found | {run: run for run, one in self.stored.items() if _same(one, self.class_map)}

    @property
    def all_runs(self) -> dict[str, str]:
        """Those, and the runs of coarser classes."""
        found = self.runs | {one.name: one.run for one in self.coarse}
        return found | {run: run for run in self.stored if run not in found}


def benchmark_classes(
    store: str | Path, *, out: str | Path = "models", cluster: str = "", config: Config = None,
    overrides: Sequence[str] = (),
) -> xr.Dataset:  # fmt: skip
    """Scores (run, class) on the test patches of every model of classes that the settings name.

    All are trained on the train patches, choose their best epoch on the val patches and are run on the test patches of
    one split; each into a folder of `out` and a run of the store. Scores as those of `evaluate_classes`, with intervals
    over donors and paired differences, are stored under `metrics/benchmark`; those under coarser classes, in which
    models stand that learnt nothing else, under `metrics/benchmark_coarser`; both in `out` as TSV. What is trained, run
    or named already is taken as it is: run it again to continue after an interruption.

    Raises SettingsError before anything is trained, where a setting is wrong, two models would have one name or classes
    do not fit; SplitError without a split; RunMismatchError where stored runs or folders hold other models, DeviceError
    for a device that the workers lack, RunBusyError where another process compares.
    """
    cohort = open_cohort(store).opened_once()
    workers, rest = of_cluster(overrides)
    plan = _plan(cohort, load_settings(ClassBenchmarkSettings, config, rest))
    place = Workplace(Path(out), cluster, workers)
    require_devices(place, [plan.settings.infer])

    def compared(_: xr.Dataset | None) -> Iterator[xr.Dataset]:
        _make_runs(plan, place)
        if plan.coarser is not None:
            cohort.write(COARSER_PATH, _scored(plan, plan.all_runs, coarser=plan.coarser.as_dict()))
        yield _scored(plan, plan.runs)

    study = Study(cohort=cohort, path=n.BENCHMARK_PATH, lock=n.BENCHMARK, what="comparing models of classes")
    result = carry_out(study, compared)
    written = {"benchmark": result} | ({} if plan.coarser is None else {"coarser": cohort.read(COARSER_PATH).load()})
    for name, scores in written.items():
        with whole_file(Path(out) / f"{plan.settings.prefix}{name}.tsv") as path:
            class_benchmark_table(scores).to_csv(path, sep="\t", index=False)
    return result


def _plan(cohort: Cohort, settings: ClassBenchmarkSettings) -> _Plan:
    """Everything that can be wrong with names, settings and classes is found here, before the first training."""
    require_split(cohort)
    if "head" in settings.train:
        raise SettingsError("train.head: the heads of SAM 2 are compared; say which with heads=[…]")
    if strange := sorted(set(settings.train_of) - {*settings.models, *settings.coarser_models}):
        raise unknown_name("model in train_of", strange[0], [*settings.models, *settings.coarser_models])
    class_map = _stated(cohort, settings)
    stored = {run: run_class_map(cohort, run) for run in settings.runs}
    coarser = _coarser(cohort, settings, class_map, stored)
    fine = [one for model in settings.models for one in _trainings(cohort, settings, model, class_map)]
    coarse: list[ModelTraining] = []
    if coarser is not None:
        alone = coarser.class_map
        named = f"-{'-'.join(alone.names)}"
        coarse = [one for m in settings.coarser_models for one in _trainings(cohort, settings, m, alone, named)]
    plan = _Plan(cohort, settings, class_map, coarser, tuple(fine), tuple(coarse), stored)
    _require_names(plan)
    _require_zero_shot(plan)
    validate(InferSettings, settings.infer, where="settings of infer")
    return plan


def _stated(cohort: Cohort, settings: ClassBenchmarkSettings) -> ClassMap:
    """The classes of every training, once they fit the legend."""
    asked = {"classes": settings.train["classes"]} if "classes" in settings.train else {}
    return stated_class_map(cohort, validate(SemanticTrainSettings, asked, where="settings of train").classes)


def _coarser(
    cohort: Cohort, settings: ClassBenchmarkSettings, class_map: ClassMap, stored: Mapping[str, ClassMap]
) -> CoarserClasses | None:
    """The coarser classes; runs of other classes than those of the trainings can be compared under them alone."""
    other = [run for run, one in stored.items() if not _same(one, class_map)]
    if settings.coarser:
        return coarser_classes(settings.coarser, {"the trainings": class_map, **stored}, annotated_legend(cohort))
    if settings.coarser_models or other:
        what = f"run {other[0]} has other classes" if other else "coarser_models are given"
        raise SettingsError(f"{what}: say under which coarser classes all are compared, e.g. coarser={{tumor:[1]}}")
    return None


def _same(one: ClassMap, other: ClassMap) -> bool:
    return (one.classes, one.rest) == (other.classes, other.rest)


def _trainings(
    cohort: Cohort, settings: ClassBenchmarkSettings, model: str, class_map: ClassMap, suffix: str = ""
) -> list[ModelTraining]:
    """The trainings that start from `model`: one, or one for each head where it is SAM 2 that has none yet."""
    kind, start = model_to_train(model)
    if trainer_named(kind).task != SEMANTIC:
        raise SettingsError(f"models: {model} is a model of kind {kind}, which learns no classes of pixels")
    if start is not None:
        require_unseen_by(cohort, start, part_to_score(cohort, n.TEST).names)
    # Names of classes were looked at already, and coarser ones are called as their user likes.
    confirmed = sorted({code for _, codes in class_map.classes for code in codes}) if suffix else []
    classes = {**class_map.as_dict(), **({"confirm_codes": confirmed} if suffix else {})}
    shared = {**settings.train, **settings.train_of.get(model, {}), "classes": classes}
    name = (kind if start is None else start.name) + suffix
    has_heads = kind == SAM2.name or (kind == SAM2_SEMANTIC.name and start is None)
    told = {f"{name}-{head}": {**shared, "head": head} for head in settings.heads} if has_heads else {name: shared}
    made = []
    for called, chosen in told.items():
        validate(train_settings(kind), chosen, where=f"settings of the training of {called} (train, train_of.{model})")
        run = settings.prefix + re.sub(r"[^A-Za-z0-9_.-]", "-", called)
        check_run_name(run)
        made.append(ModelTraining(name=called, run=run, start=model, settings=chosen))
    return made


def _require_names(plan: _Plan) -> None:
    """Raises SettingsError for several models of one name, or a baseline that is none of them."""
    settings = plan.settings
    names = [one.name for one in (*plan.fine, *plan.coarse)] + list(settings.runs)
    names += [] if settings.zero_shot is None else [ZERO_SHOT]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"models: expected different names, got several {', '.join(twice)}")
    if not plan.runs:
        raise SettingsError("models: nothing is compared; name a model, or runs that are there")
    if settings.baseline and settings.baseline not in plan.runs:
        raise unknown_name("model to compare with", settings.baseline, list(plan.runs))


def _require_zero_shot(plan: _Plan) -> None:
    """Raises SettingsError or what the steps raise, where regions cannot be found or named as asked."""
    asked = plan.settings.zero_shot
    if asked is None:
        return
    checkpoint = resolve_checkpoint(asked.model)
    if SEMANTIC not in kind_named(checkpoint.kind).steps_for:
        raise SettingsError(f"zero_shot.model: {asked.model} is of kind {checkpoint.kind}, which finds no regions")
    validate(InferSettings, asked.infer, where="settings of zero_shot.infer")
    validate(ClassifySettings, asked.classify, where="settings of zero_shot.classify")
    for what, path in (("clip", asked.clip), ("prompts", asked.prompts)):
        if not Path(path).exists():
            raise SettingsError(f"zero_shot.{what}: nothing at {path}")


def _make_runs(plan: _Plan, place: Workplace) -> None:
    """Trains and applies everything that is not there yet."""
    settings, url = plan.settings, plan.cohort.url
    applied: dict[str, Any] = {"cluster": place.cluster or THREADS, "overrides": place.overrides}
    trainings = (*plan.fine, *plan.coarse)
    folders = trained_folders(url, trainings, place)
    for one in trainings:
        infer(url, run=one.run, model=str(folders[one.name]), config=settings.infer, parts=(n.TEST,), **applied)
    if settings.zero_shot is not None:
        _name_regions(plan, settings.zero_shot, applied)


def _name_regions(plan: _Plan, asked: ZeroShotSettings, applied: Mapping[str, Any]) -> None:
    """The run of regions that were found and named without any label; all annotated patches are looked at."""
    regions, url = f"{plan.zero_shot_run}-regions", plan.cohort.url
    infer(url, run=regions, model=asked.model, config=asked.infer, parts=n.SPLITS, **applied)
    told = {**asked.classify, "classes": plan.class_map.as_dict()}
    classify(
        url, regions=regions, model=asked.clip, prompts=asked.prompts, name=plan.zero_shot_run,
        as_run=plan.zero_shot_run, config=told,
    )  # fmt: skip


def _scored(plan: _Plan, runs: Mapping[str, str], coarser: Mapping[str, Sequence[int]] | None = None) -> xr.Dataset:
    """Scores of runs on the test patches, by the names of the models, and what each came of."""
    settings = plan.settings
    request = EvaluateRequest(
        runs=tuple(runs.values()), split=n.TEST, resamples=settings.resamples, seed=settings.seed,
        coarser=coarser or {},
    )  # fmt: skip
    scores = evaluate_classes(plan.cohort, request)
    name_of = {run: name for name, run in runs.items()}
    called = {dim: [name_of[run] for run in texts(scores[dim])] for dim in (n.RUN, n.REFERENCE) if dim in scores.dims}
    trained = {one.name: one.run for one in (*plan.fine, *plan.coarse) if one.name in runs}
    facts = scores.attrs[n.PROVENANCE] | provenance(settings=settings.as_dict(), baseline=_baseline(plan))
    return scores.assign_coords(called).assign_attrs(
        {
            n.TASK: plan.cohort.task.name,
            "runs": dict(runs),
            "trainings": {
                name: plan.cohort.run_attrs(run)[n.PROVENANCE].get("training", {}) for name, run in trained.items()
            },
            BASELINE: _baseline(plan),
            n.PROVENANCE: facts,
        }
    )


def _baseline(plan: _Plan) -> str:
    return plan.settings.baseline or next(iter(plan.runs))
