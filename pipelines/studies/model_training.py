"""Trainings of a study, here or on workers, several at once; those that are finished are taken as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.inference.request import InferSettings
from fintune_xr.pipelines.steps.train import train, train_on_workers
from fintune_xr.pipelines.workers.devices import THREADS, device_on, profile_and_rest
from fintune_xr.settings import validate


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraining:
    """A model of a study by its `name`: the run and folder of it, what it starts from, and settings of its training."""

    name: str
    run: str
    start: str
    settings: Mapping[str, Any]
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where models of a study lie, the profile of the workers that make them (empty: this process), its overrides."""

    out: Path
    cluster: str
    overrides: Sequence[str]


def require_devices(place: Workplace, asked: Iterable[Mapping[str, Any]]) -> None:
    """Raises DeviceError where settings of runs ask for a device that the workers lack, before anything is trained."""
    profile, _ = profile_and_rest(place.cluster or THREADS, place.overrides)
    for settings in asked:
        device_on(profile, validate(InferSettings, settings).device)


def trained_folders(store: str, models: Sequence[ModelTraining], place: Workplace) -> dict[str, Path]:
    """The folder of each model by its name, once all are trained."""
    calls: list[dict[str, Any]] = [
        {"store": store, "run_name": one.run, "model": one.start, "out": place.out, "config": one.settings,
         "markers": one.markers}
        for one in models
    ]  # fmt: skip
    if place.cluster:
        folders = train_on_workers(place.cluster, [{**call, "overrides": place.overrides} for call in calls])
        return {one.name: folder for one, folder in zip(models, folders, strict=True)}
    found = {}
    for one, call in zip(models, calls, strict=True):
        say(f"benchmark: {one.name}")
        found[one.name] = train(**call)
    return found
