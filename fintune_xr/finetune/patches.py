"""The patches that a network is shown, each at its address.

Processes that load patches import this module and so must not need the model libraries, which start slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from fintune_xr.finetune.augmentation import Cut, Geometry, Planes, cut_patch, draw_geometry, vary_intensity
from fintune_xr.finetune.schedules import view_at
from fintune_xr.finetune.settings import AugmentationSettings, FitSettings
from fintune_xr.seeds import stream

Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int], int, AugmentationSettings], Geometry]
"""Which part of a tile of a shape (y, x) a patch of so many pixels shows."""

Vary: TypeAlias = Callable[[np.random.Generator, Planes, AugmentationSettings], Planes]
"""Network input of the planes of a patch, with values that differ at random."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a patch comes about: `draw` its place, `cut` planes and target there, `vary` the planes' values."""

    draw: Draw = draw_geometry
    cut: Cut = cut_patch
    vary: Vary = vary_intensity


@dataclass(frozen=True, slots=True)
class PreparedTile:
    """A tile made ready for training, in two files that processes map into memory."""

    name: str
    image_path: Path
    target_path: Path

    def open(self) -> tuple[Planes, Planes]:
        """Planes (input, y, x) and target (map, y, x), each in the type that it was prepared in."""
        return np.load(self.image_path, mmap_mode="r"), np.load(self.target_path, mmap_mode="r")


def patches_per_epoch(n_tiles: int, settings: FitSettings) -> int:
    """Patches of an epoch, in whole steps: a remainder would be a step with less to learn from than others."""
    wanted = settings.patches_per_epoch or n_tiles
    per_step = settings.batch_size * settings.accumulate_batches
    return -(-wanted // per_step) * per_step


class PatchDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random patches with an address: (epoch, index) gives the same patch in any process and order."""

    def __init__(self, tiles: Sequence[PreparedTile], settings: FitSettings, *, recipe: Recipe | None = None) -> None:
        self.recipe = Recipe() if recipe is None else recipe
        self.tiles = list(tiles)
        self.settings = settings
        self.n_samples = patches_per_epoch(len(self.tiles), settings)

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = address
        settings = self.settings
        rng = stream(settings.seed, "patch", epoch, index)
        planes, target = self.tiles[self._tile(epoch, index)].open()
        shape = (planes.shape[1], planes.shape[2])
        patch_px, augmentation = view_at(settings, epoch)
        geometry = self.recipe.draw(rng, shape, patch_px, augmentation)
        image, moved = self.recipe.cut(planes, target, geometry, patch_px)
        image = self.recipe.vary(rng, image, augmentation)
        return torch.from_numpy(image), torch.from_numpy(moved)

    def tile_at(self, epoch: int, index: int) -> str:
        """Name of the tile that a patch shows."""
        return self.tiles[self._tile(epoch, index)].name

    def _tile(self, epoch: int, index: int) -> int:
        return (epoch * self.n_samples + index) % len(self.tiles)


class AddressSampler(Sampler[tuple[int, int]]):
    """Addresses of the `n_samples` of an epoch, in an order drawn for the epoch."""

    def __init__(self, n_samples: int, seed: int) -> None:
        self.n_samples = n_samples
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that is iterated over next; called by the trainer."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.n_samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self._epoch, index) for index in self.order(self._epoch)])

    def order(self, epoch: int) -> list[int]:
        """Samples of an epoch in the order that they are shown in."""
        return [int(index) for index in stream(self._seed, "order", epoch).permutation(self.n_samples)]
