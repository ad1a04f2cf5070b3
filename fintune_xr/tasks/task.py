"""What is learned and measured: the names of the tasks, and what a cohort of each holds as its annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import xarray as xr

from fintune_xr import names as n
from fintune_xr.provenance import settings_digest
from fintune_xr.schema import DatasetSchema
from fintune_xr.text import texts

INSTANCE: Final = "instance"
SEMANTIC: Final = "semantic"
DETECTION: Final = "detection"
CLASSIFICATION: Final = "classification"

Digest: TypeAlias = Callable[[xr.Dataset, Sequence[str]], str]
"""SHA-256 of what is annotated in some tiles, of the opened annotations and the ids of the tiles in ascending order."""


def files_digest(annotations: xr.Dataset, tiles: Sequence[str]) -> str:
    """A digest of the digests of the files that the tiles' annotations came from.

    Raises KeyError for a tile without an annotation.
    """
    files = dict(zip(texts(annotations[n.TILE]), texts(annotations[n.SHA256]), strict=True))
    return settings_digest({tile: files[tile] for tile in tiles})


@dataclass(frozen=True, slots=True)
class Task:
    """A task by its name, which is that of its folder in every room, and what annotations are in it.

    `annotations` is their schema, with the annotated tiles along `tile`; `array` the variable of it that holds pixels,
    or nothing; `source` what `fintune-xr annotate` takes; `digest` what makes other annotations other results.
    """

    name: str
    annotations: DatasetSchema
    source: str
    array: str = ""
    digest: Digest = files_digest
