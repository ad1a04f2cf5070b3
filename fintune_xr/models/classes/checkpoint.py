"""Which classes a trained network gives, asked of its weights file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError
from fintune_xr.models.checkpoints import Checkpoint, load_weights_file
from fintune_xr.settings import validate
from fintune_xr.tasks.class_map import ClassMap


@functools.lru_cache(maxsize=16)
def trained_classes(checkpoint: Checkpoint) -> ClassMap:
    """The class map that the network of `checkpoint` was trained on, in the order of its outputs.

    Kept by what tells a checkpoint from another, its digest among it: a file is read once, and another one anew.

    Raises CheckpointError for a network that gives no classes.
    """
    architecture = load_weights_file(Path(checkpoint.path)).get("architecture")
    if not isinstance(architecture, dict) or "class_map" not in architecture:
        raise CheckpointError(f"{checkpoint.path}: expected a network of classes, found one that knows none")
    return validate(ClassMap, architecture["class_map"], where=checkpoint.path)


def class_sizes(checkpoint: Checkpoint, settings: Any, shape: tuple[int, ...]) -> Mapping[str, list[str]]:  # noqa: ARG001
    """Names of the classes along the columns of a run.

    Raises CheckpointError for a network that gives no classes.
    """
    return {n.CLASS: list(trained_classes(checkpoint).names)}


def class_attrs(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]]:
    """What the numbers in a run's maps of classes stand for.

    Raises CheckpointError for a network that gives no classes.
    """
    return {n.CLASSES: trained_classes(checkpoint).flags}
