"""Comparison of encoders of volumes: embed, probe, fine-tune what is best on val, and rank all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import xarray as xr
import yaml
from pydantic import Field, model_validator

from fintune_xr import names as n
from fintune_xr.errors import SettingsError
from fintune_xr.finetune.classification.probe_settings import LOGISTIC, ProbeSettings
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.models.registry import kind_named, resolve_checkpoint
from fintune_xr.models.vjepa2.kind import RANDOM_KIND
from fintune_xr.models.volume_profile.kind import VOLUME_PROFILE
from fintune_xr.pipelines.classification.leaderboard import judge, scored_parts, write_leaderboard
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.steps.infer import infer
from fintune_xr.pipelines.steps.train import train
from fintune_xr.pipelines.studies.probe import Probed, probe, probed_name
from fintune_xr.pipelines.studies.study import Study, carry_out
from fintune_xr.pipelines.task_parts.requests import ExportRequest
from fintune_xr.pipelines.workers.devices import THREADS
from fintune_xr.settings import Config, Settings, load_settings, require_each_once, shipped_config, validate
from fintune_xr.store.cohort import Cohort, open_cohort
from fintune_xr.store.runs.run import check_run_name
from fintune_xr.store.split import require_split
from fintune_xr.tasks.product import SCORES

FINETUNE: Final = "oct_finetune"
TUNED: Final = "-ft"


class EncoderBenchmarkSettings(Settings):
    """Which encoders are compared, and how each step is done."""

    models: tuple[str, ...] = Field(min_length=1, description="Weights files of encoders, or names of such models.")
    finetune: Literal["best", "all", "none"] = Field(
        default="best",
        description="Encoders that are fine-tuned: the one best on val by probe, all, or none.",
    )
    infer: dict[str, Any] = Field(default_factory=dict, description="Settings of runs, as for `infer`.")
    probe: dict[str, Any] = Field(default_factory=dict, description="Settings of heads, as for `probe`.")
    train: dict[str, Any] = Field(
        default_factory=dict, description=f"Settings of fine-tuning, as for `train`, on top of {FINETUNE}."
    )
    random: dict[str, Any] | None = Field(
        default_factory=dict, description="Settings of the encoder with random weights; null: without that floor."
    )
    profile: bool = Field(default=True, description="Whether the profile of volumes is a floor.")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        require_each_once(self, "models")
        return self


@dataclass(frozen=True, slots=True)
class _Member:
    """An encoder by its run, with the settings that its run is made with; `is_floor` where nothing was learned."""

    run: str
    model: str
    infer: Mapping[str, Any]
    is_floor: bool = False


def benchmark_encoders(
    store: str | Path, *, out: str | Path = "models", cluster: str = "", config: Config = None,
    overrides: Sequence[str] = (),
) -> xr.Dataset:  # fmt: skip
    """Scores of the judging part of every encoder by every head, of the floors and of what was fine-tuned.

    Each model is a run of its file's name; so are its heads, and the classifier `<run>-ft` where it is fine-tuned. What
    is stored or trained already is not made again. `leaderboard.csv`, `.md` and `.png` are written into `out`.

    Raises SettingsError before anything is made, where a setting is wrong or two models would have one name; and what
    the steps raise; RunBusyError where another process compares.
    """
    cohort = open_cohort(store).opened_once()
    settings = load_settings(EncoderBenchmarkSettings, config, overrides)
    require_split(cohort)
    members = _members(settings)
    heads = _checked(settings)

    def compared(_: xr.Dataset | None) -> tuple[xr.Dataset, ...]:
        runs = _runs_compared(cohort, settings, members, heads, Path(out), cluster)
        # Scores of both parts are stored as they are made.
        write_leaderboard(cohort, ExportRequest(to="leaderboard", out=Path(out), runs=runs))
        return ()

    path = f"{n.METRICS}/{judge(cohort, scored_parts(cohort))}"
    return carry_out(Study(cohort=cohort, path=path, lock=n.BENCHMARK, what="comparing encoders"), compared)


def _runs_compared(
    cohort: Cohort, settings: EncoderBenchmarkSettings, members: Sequence[_Member], heads: Sequence[str], out: Path,
    cluster: str,
) -> tuple[str, ...]:  # fmt: skip
    """Runs of every head, and of what was fine-tuned; those that are stored already are taken as they are."""
    for member in members:
        infer(cohort.url, run=member.run, model=member.model, cluster=cluster or THREADS, config=member.infer)
    probed = probe(
        cohort.url, runs=[member.run for member in members], config={**settings.probe, "head": list(heads)}, out=out
    )
    tuned = [_tuned(cohort, member, settings, out, cluster) for member in _to_tune(settings, members, probed)]
    return (*(one.run for one in probed), *tuned)


def _members(settings: EncoderBenchmarkSettings) -> list[_Member]:
    """Encoders and floors. Raises SettingsError for two of one name or what is no encoder of volumes."""
    members = [_Member(Path(model).stem, model, settings.infer) for model in settings.models]
    without = {key: value for key, value in settings.infer.items() if key != "model"}
    if settings.profile:
        members.append(_Member(VOLUME_PROFILE.name, VOLUME_PROFILE.name, without, is_floor=True))
    if settings.random is not None:
        members.append(_Member(RANDOM_KIND.name, RANDOM_KIND.name, {**without, "model": settings.random}, True))
    names = [member.run for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"models: expected files of different names, got several {', '.join(twice)}")
    for member in members:
        _check(member)
    return members


def _check(member: _Member) -> None:
    check_run_name(member.run)
    kind = kind_named(resolve_checkpoint(member.model).kind)
    if kind.product is not SCORES:
        raise SettingsError(f"models: {member.model} is a model of kind {kind.name}, and no encoder of volumes")
    validate(kind.settings, member.infer.get("model", {}), where=f"settings of {member.model}")


def _checked(settings: EncoderBenchmarkSettings) -> tuple[str, ...]:
    """The heads of each encoder, once all settings are known to be right; `logistic`, which ranks are by, is one."""
    asked = validate(ProbeSettings, {"head": [LOGISTIC, "linear"], **settings.probe}, where="settings of probe")
    validate(ClassTrainSettings, _training(settings), where="settings of train")
    return tuple(dict.fromkeys((LOGISTIC, *asked.head)))


def _training(settings: EncoderBenchmarkSettings) -> dict[str, Any]:
    """Settings of the shipped fine-tuning with those of the study over them; the encoder as its run is applied."""
    shipped = yaml.safe_load((shipped_config(FINETUNE) or Path()).read_text(encoding="utf-8"))
    encoder = {"encoder": settings.infer["model"]} if settings.infer.get("model") else {}
    return {**shipped, **encoder, **settings.train}


def _to_tune(
    settings: EncoderBenchmarkSettings, members: Sequence[_Member], probed: Sequence[Probed]
) -> list[_Member]:  # fmt: skip
    learned = [member for member in members if not member.is_floor]
    if settings.finetune == "all":
        return learned
    if settings.finetune == "none":
        return []
    score = {one.run: one.val_balanced_accuracy for one in probed}
    of_logistic = [score[probed_name(member.run, LOGISTIC)] for member in learned]
    best = learned[int(np.argmax(np.nan_to_num(of_logistic, nan=-1)))]
    say(f"benchmark: {best.run} is fine-tuned, whose probe is best on val")
    return [best]


def _tuned(cohort: Cohort, member: _Member, settings: EncoderBenchmarkSettings, out: Path, cluster: str) -> str:
    """The run of the fine-tuned encoder."""
    name = f"{member.run}{TUNED}"
    folder = train(
        cohort.url, run_name=name, model=member.model, out=out, config=_training(settings), cluster=cluster
    )  # fmt: skip
    without = {key: value for key, value in settings.infer.items() if key != "model"}
    infer(cohort.url, run=name, model=str(folder), cluster=cluster or THREADS, config=without)
    return name
