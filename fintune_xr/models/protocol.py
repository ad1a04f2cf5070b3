"""The protocol that every model follows: stages that can run at the same time on different tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fintune_xr.tasks.detection import CandidateTable
from fintune_xr.tasks.records import ClassTile

Plane = NDArray[np.generic]
Maps = NDArray[np.float32]
Mask = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Where objects may be: `probability` (y, x) uint16, PROBABILITY_STEPS times its value; and its peaks."""

    probability: NDArray[np.uint16]
    candidates: CandidateTable


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a tile as a whole is: named vectors float32, such as logits (class,) or an embedding (feature,)."""

    columns: Mapping[str, NDArray[np.float32]]


Made: TypeAlias = Mask | Detections | ClassTile | Scores
"""What a model gives for one tile."""

M_co = TypeVar("M_co", bound=Made, covariant=True)


class Stages(Protocol[M_co]):
    """Turns tiles into what it finds in them, in stages, so that a device never waits for reading or reconstruction.

    A tile arrives cropped to its real height and width; a model of volumes gets (channel, z, y, x), cropped to its
    real depth too. `normalise` and `reconstruct` run on CPU threads and must be safe to call from several at once;
    `predict` runs on one thread, the device's.
    """

    def normalise(self, tile: Plane) -> Maps:
        """Network input (channel, y, x) float32 of raw counts (channel, y, x)."""
        ...

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Network output maps of each input: (map, y, x) float32 of its height and width, or what has no pixels."""
        ...

    def reconstruct(self, maps: Maps) -> M_co:
        """What the maps of one tile say."""
        ...


@runtime_checkable
class Segmenter(Stages[Mask], Protocol):
    """Gives instance masks (y, x) uint32 with labels 1..N without gaps."""


@runtime_checkable
class Detector(Stages[Detections], Protocol):
    """Gives the probability (y, x) of an object at each pixel, and the candidates picked from it."""


Model: TypeAlias = Stages[Made]
"""A model of any kind."""


def segment(segmenter: Segmenter, tiles: Sequence[Plane]) -> list[Mask]:
    """Masks of `tiles`, all stages one after another; for tests, notebooks and training-time validation."""
    maps = segmenter.predict([segmenter.normalise(tile) for tile in tiles])
    return [segmenter.reconstruct(one) for one in maps]
