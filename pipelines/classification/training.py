"""Scans of a cohort in the form that a classifier of volumes learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SettingsError, SplitError, unknown_name
from fintune_xr.finetune.classification.features import first_scans
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.finetune.classification.volumes import VolumeTiles
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.pipelines.classification.scans import Scans, has_column, labelled_scans, with_vectors
from fintune_xr.pipelines.console import say
from fintune_xr.pipelines.task_parts.requests import TrainingTiles
from fintune_xr.store.cohort import Cohort
from fintune_xr.text import text_array, texts, with_numbers

# What an encoder's embedding depends on besides its weights.
_OF_EMBEDDING: Final = ("which", "normalisation", "clip_percentile", "heads", "epsilon", "crop_px", "precision")


def _of_devices(scans: Scans, devices: Sequence[str]) -> Scans:
    """The scans of these devices, of all where none is named."""
    for device in devices:
        if device not in scans.device:
            raise unknown_name("device with labelled scans", device, sorted(set(scans.device.tolist())))
    return scans.only(np.isin(scans.device, list(devices))) if devices else scans


def volumes_for_training(
    cohort: Cohort, settings: ClassTrainSettings, start: Checkpoint | None, devices: Sequence[str]
) -> TrainingTiles:
    """Scans with a class of the parts train and val, of these devices or of all; settings with the names of classes.

    Embeddings that a run of the same weights and settings has stored come along. With `overfit` both parts are the
    same few scans of train.

    Raises UnknownNameError for a device without labelled scans, SplitError where a part has none, SettingsError for
    classes that are not those of the labels.
    """
    scans = _of_devices(labelled_scans(cohort, n.TRAIN, n.VAL), devices)
    if settings.classes not in ((), scans.classes):
        raise SettingsError(
            f"classes: expected those of the labels, {with_numbers(scans.classes)}, got "
            f"{with_numbers(settings.classes)}. Leave it out, or annotate with other classes: annotate --layout."
        )
    if settings.scans == "first":
        scans = scans.only(first_scans(scans.participant, scans.tile))
    parts = {part: scans.within(part) for part in (n.TRAIN, n.VAL)}
    if settings.overfit:
        parts = dict.fromkeys(parts, _few(parts[n.TRAIN], settings.overfit))
    if empty := [part for part, one in parts.items() if not one.tile.size]:
        raise SplitError(f"{cohort.url}: no scan with a class in part {' and '.join(empty)}")
    image = cohort.images_group().array
    run = _run_of(cohort, settings, start)
    made = {part: _tiles(cohort, one, image, run) for part, one in parts.items()}
    return made, settings.model_copy(update={"classes": scans.classes})


def _few(scans: Scans, number: int) -> Scans:
    """The first scans of each class by id.

    Raises FintuneValueError where a class has fewer.
    """
    order = np.argsort(scans.tile)
    chosen = []
    for label, name in enumerate(scans.classes):
        mine = order[scans.label[order] == label][:number]
        if mine.size < number:
            raise FintuneValueError(f"overfit: expected {number} train scans of class {label} {name}, got {mine.size}")
        chosen.append(mine)
    return scans.only(np.concatenate(chosen))


def _tiles(cohort: Cohort, scans: Scans, image: Any, run: str) -> VolumeTiles:
    """These scans of the stored volumes `image`, with the embeddings of `run` where one is named."""
    images = cohort.images(lazy=False)
    at = {tile: row for row, tile in enumerate(text_array(images[n.TILE]).tolist())}
    embedding: NDArray[np.float32] | None = None
    if run:
        scans, embedding = with_vectors(cohort, run, n.EMBEDDING, scans)
        say(f"train: embeddings of the encoder at rest are those of run {run}")
    made = VolumeTiles(
        names=scans.tile.tolist(),
        channels=tuple(texts(images[n.CHANNEL])),
        image=image,
        row=np.array([at[tile] for tile in scans.tile.tolist()], np.int64),
        label=scans.label,
        participant=scans.participant,
        classes=scans.classes,
    )
    return replace(made, embedding=embedding)


def _run_of(cohort: Cohort, settings: ClassTrainSettings, start: Checkpoint | None) -> str:
    """A finished run of embeddings by the same weights under the same settings; empty where there is none."""
    wanted = {**settings.encoder.as_dict(), "precision": settings.precision}
    for run in cohort.run_names() if start is not None and start.path else ():
        if not has_column(cohort, run, n.EMBEDDING):
            continue
        identity: dict[str, Any] = cohort.run_attrs(run)[n.IDENTITY]
        stored = identity.get("settings", {})
        is_same = start is not None and identity.get("checkpoint_sha256") == start.sha256
        is_same &= all(key in stored and stored[key] == wanted[key] for key in _OF_EMBEDDING)
        states = cohort.run(run, lazy=False)[n.STATE].values if is_same else np.zeros(0)
        if is_same and states.size == cohort.images(lazy=False).sizes[n.TILE] and not (states == n.PENDING).any():
            return run
    return ""
