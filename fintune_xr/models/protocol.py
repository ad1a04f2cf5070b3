"""The protocol that every segmenter follows: four stages that can run at the same time on different tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fintune_xr.tasks.records import CandidateTable

Plane = NDArray[np.generic]
Maps = NDArray[np.float32]
Mask = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Where objects may be: `probability` (y, x) uint16, PROBABILITY_STEPS times its value; and its peaks."""

    probability: NDArray[np.uint16]
    candidates: CandidateTable


@runtime_checkable
class Segmenter(Protocol):
    """Turns tiles into instance masks in stages, so that a device never waits for reading or reconstruction.

    A tile arrives cropped to its real height and width. `normalise` and `reconstruct` run on CPU threads and
    must be safe to call from several at once; `predict` runs on one thread, the device's.
    """

    def normalise(self, tile: Plane) -> Maps:
        """Network input (channel, y, x) float32 of raw counts (channel, y, x)."""
        ...

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Network output maps (map, y, x) float32 for each input, of the input's height and width."""
        ...

    def reconstruct(self, maps: Maps) -> Mask:
        """Instance mask (y, x) uint32 with labels 1..N without gaps."""
        ...


@runtime_checkable
class Detector(Protocol):
    """Turns tiles into maps of probability in the stages of a `Segmenter`, under the same rules."""

    def normalise(self, tile: Plane) -> Maps:
        """Network input (channel, y, x) float32 of raw counts (channel, y, x)."""
        ...

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Network output maps (map, y, x) float32 for each input, of the input's height and width."""
        ...

    def reconstruct(self, maps: Maps) -> Detections:
        """Probability (y, x) of the object at each pixel, and the candidates picked from it."""
        ...


Model: TypeAlias = Segmenter | Detector


def segment(segmenter: Segmenter, tiles: Sequence[Plane]) -> list[Mask]:
    """Masks of `tiles`, all stages one after another; for tests, notebooks and training-time validation."""
    maps = segmenter.predict([segmenter.normalise(tile) for tile in tiles])
    return [segmenter.reconstruct(one) for one in maps]
