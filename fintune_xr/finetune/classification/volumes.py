"""Labelled volumes as a training reads them: from the store, one at a time, each at its address.

Processes that load volumes import this module and so must not need the model libraries, which start slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.classification.settings import VolumeAugmentation
from fintune_xr.pixels.volume_values import normalise
from fintune_xr.seeds import stream

Volume = NDArray[np.uint8]
Target = tuple[int, float, int]


@dataclass(frozen=True, slots=True, eq=False)
class VolumeTiles:
    """Scans with a class: row `row` (scan,) of `image` (tile, 1, z, y, x), anything that can be sliced and pickled.

    `names`, `label` from 0 and `participant` are (scan,); `classes` the names of the labels. `embedding`
    (scan, feature) is what the encoder that the training starts from gives, where that is known already.
    """

    names: Sequence[str]
    channels: tuple[str, ...]
    image: Any
    row: NDArray[np.int64]
    label: NDArray[np.int64]
    participant: NDArray[Any]
    classes: tuple[str, ...]
    embedding: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        lengths = (len(self.names), len(self.row), len(self.label), len(self.participant))
        if len(set(lengths)) > 1 or not lengths[0] or len(self.channels) != 1:
            raise FintuneValueError(
                f"scans do not fit together: {lengths} names, rows, labels and participants, planes {self.channels}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Volume:
        """Values (1, z, y, x) of one scan."""
        return np.asarray(self.image[int(self.row[index])])


@dataclass(frozen=True, slots=True)
class Values:
    """How a volume's values are made for the encoder."""

    normalisation: str
    clip_percentile: float | None = None

    def of(self, volume: Volume) -> NDArray[np.float32]:
        """Raises TileReadError for a volume of one value."""
        return normalise(volume, self.normalisation, clip_percentile=self.clip_percentile)


class VolumeSamples(Dataset[tuple[torch.Tensor, Target]]):
    """Every scan once an epoch: its values, or before epoch `wakes` its stored embedding, with label, weight and index.

    (epoch, index) gives the same sample in any process and order. Values are normalised last.
    """

    def __init__(
        self, tiles: VolumeTiles, weight: NDArray[np.float64], values: Values, augmentation: VolumeAugmentation, *,
        seed: int, embedding: NDArray[np.float32] | None = None, wakes: int = 0,
    ) -> None:  # fmt: skip
        self.tiles, self.weight, self.values = tiles, weight, values
        self.augmentation, self.seed = augmentation, seed
        self.embedding, self.wakes = embedding, wakes

    @property
    def n_samples(self) -> int:
        """Scans of an epoch."""
        return len(self.tiles)

    def tile_at(self, epoch: int, index: int) -> str:  # noqa: ARG002 - a scan is the same in every epoch
        """Name of a scan."""
        return str(self.tiles.names[index])

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        epoch, index = address
        target = (int(self.tiles.label[index]), float(self.weight[index]), index)
        if self.embedding is not None and epoch < self.wakes:
            return torch.from_numpy(self.embedding[index]), target
        volume = self.tiles.read(index)
        if not self.augmentation.is_off:
            volume = vary(stream(self.seed, "volume", epoch, index), volume, self.augmentation)
        return torch.from_numpy(self.values.of(volume)), target


def vary(rng: np.random.Generator, volume: Volume, settings: VolumeAugmentation) -> Volume:
    """A volume (1, z, y, x) mirrored, cut, and with other values, as drawn from `rng`; of the same shape and type.

    As many numbers are drawn whatever the settings are, so that one of them changes nothing of the others.
    """
    mirrored, turned = rng.random(2) < 0.5
    kept, start = rng.uniform(settings.crop, 1, 3), rng.random(3)
    gain, gamma = 1 + rng.uniform(-1, 1, 2) * (settings.gain, settings.gamma)
    noise = rng.uniform(0, settings.noise) if settings.noise else 0.0
    if settings.flip_x and mirrored:
        volume = volume[..., ::-1]
    if settings.flip_z and turned:
        volume = volume[:, ::-1]
    if settings.crop < 1:
        volume = _stretched(volume, kept, start)
    if settings.gain or settings.gamma or noise:
        values = 255 * np.clip(volume / 255 * gain, 0, 1) ** gamma
        values += noise * rng.standard_normal(volume.shape)
        volume = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(volume)


def _stretched(volume: Volume, kept: NDArray[np.float64], start: NDArray[np.float64]) -> Volume:
    """The part `kept` of each side, beginning at `start` of what is left, stretched to the whole by three lines."""
    shape = volume.shape[1:]
    lengths = [max(2, round(part * side)) for part, side in zip(kept, shape, strict=True)]
    firsts = [int(at * (side - length + 1)) for at, side, length in zip(start, shape, lengths, strict=True)]
    z, y, x = (slice(first, first + length) for first, length in zip(firsts, lengths, strict=True))
    cut = torch.from_numpy(np.ascontiguousarray(volume[:, z, y, x])).float()[None]
    grown = torch.nn.functional.interpolate(cut, size=shape, mode="trilinear", align_corners=False)
    return np.asarray(np.rint(grown[0].clamp(0, 255).numpy()), np.uint8)
