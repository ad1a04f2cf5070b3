"""Annotated tiles, what is prepared from them once, and the patches that a network is shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastremap
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.augmentation import Planes, cut_patch, draw_geometry, vary_intensity
from fintune_xr.finetune.settings import TrainSettings
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.flow_field import instance_flows
from fintune_xr.models.flows import normalised
from fintune_xr.models.segmenter import Mask, Plane
from fintune_xr.seeds import stream

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AnnotatedTiles:
    """Tiles with their instance masks, read one at a time.

    `image` (tile, channel, y, x) and `mask` (tile, y, x) are anything that can be sliced: NumPy, Zarr or a
    lazily opened xarray variable. Of each tile `height` x `width` pixels are real.
    """

    names: Sequence[str]
    channels: tuple[str, ...]
    image: Any
    mask: Any
    height: Sequence[int]
    width: Sequence[int]

    def __post_init__(self) -> None:
        n_tiles, (n_image, n_channels, *image_yx) = len(self.names), self.image.shape
        n_mask, *mask_yx = self.mask.shape
        lengths = {"image": n_image, "mask": n_mask, "height": len(self.height), "width": len(self.width)}
        wrong = {what: length for what, length in lengths.items() if length != n_tiles}
        if wrong or n_channels != len(self.channels) or image_yx != mask_yx:
            raise FintuneValueError(
                f"annotated tiles do not fit together: {n_tiles} names and {len(self.channels)} channels, "
                f"but image {tuple(self.image.shape)}, mask {tuple(self.mask.shape)}, "
                f"{len(self.height)} heights and {len(self.width)} widths"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[Plane, Mask]:
        """Raw counts (channel, y, x) and mask (y, x) of one tile, cropped to its real size."""
        rows, columns = slice(0, int(self.height[index])), slice(0, int(self.width[index]))
        image = np.asarray(self.image[index, :, rows, columns])
        mask = np.asarray(self.mask[index, rows, columns]).astype(np.uint32)
        return image, np.asarray(fastremap.renumber(mask)[0], dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class PreparedTile:
    """A tile made ready for training, in two files that processes map into memory."""

    name: str
    image_path: Path
    target_path: Path

    def open(self) -> tuple[Planes, Planes]:
        """Network input (input, y, x) and target (flow y, flow x, cell), both float32."""
        return np.load(self.image_path, mmap_mode="r"), np.load(self.target_path, mmap_mode="r")


def prepare(
    tiles: AnnotatedTiles, folder: Path, *, choice: ChannelChoice, n_inputs: int, min_cells: int = 0
) -> list[PreparedTile]:
    """Normalised planes and flow targets of the tiles with at least `min_cells` cells, written to `folder`.

    Raises FintuneValueError if no tile is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prepared = []
    for index, name in enumerate(tiles.names):
        image, mask = tiles.read(index)
        if int(mask.max(initial=0)) < min_cells:
            LOGGER.info("%s is left out: it has fewer than %d cells", name, min_cells)
            continue
        tile = PreparedTile(name, folder / f"{index:05d}_image.npy", folder / f"{index:05d}_target.npy")
        np.save(tile.image_path, normalised(choice.take(image), n_planes=n_inputs))
        np.save(tile.target_path, flow_target(mask))
        prepared.append(tile)
    if not prepared:
        raise FintuneValueError(
            f"none of {len(tiles)} tiles has {min_cells} or more annotated cells. "
            "Lower min_cells, or annotate more."
        )
    return prepared


def flow_target(mask: Mask) -> Planes:
    """Unit flow along y, unit flow along x, and cell as 0 or 1, (3, y, x), of an instance mask (y, x)."""
    return np.concatenate([instance_flows(mask), mask[np.newaxis] > 0]).astype(np.float32)


def patches_per_epoch(n_tiles: int, settings: TrainSettings) -> int:
    """Patches of an epoch, in whole batches: a batch norm cannot learn from a remainder of one."""
    wanted = settings.patches_per_epoch or n_tiles
    return -(-wanted // settings.batch_size) * settings.batch_size


class PatchDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random patches with an address: (epoch, index) gives the same patch in any process and order."""

    def __init__(self, tiles: Sequence[PreparedTile], settings: TrainSettings) -> None:
        self.tiles = list(tiles)
        self.settings = settings
        self.n_patches = patches_per_epoch(len(self.tiles), settings)

    def __getitem__(self, address: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = address
        settings = self.settings
        rng = stream(settings.seed, "patch", epoch, index)
        planes, target = self.tiles[(epoch * self.n_patches + index) % len(self.tiles)].open()
        shape = (planes.shape[1], planes.shape[2])
        geometry = draw_geometry(rng, shape, settings.patch_px, settings.augmentation)
        image, moved = cut_patch(planes, target, geometry, settings.patch_px)
        image = vary_intensity(rng, image, settings.augmentation)
        return torch.from_numpy(image), torch.from_numpy(moved)


class PatchSampler(Sampler[tuple[int, int]]):
    """Addresses of the patches of an epoch: every tile equally often, in an order drawn for the epoch."""

    def __init__(self, n_tiles: int, settings: TrainSettings) -> None:
        self.n_patches = patches_per_epoch(n_tiles, settings)
        self._seed = settings.seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that is iterated over next; called by the trainer."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.n_patches

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = stream(self._seed, "order", self._epoch).permutation(self.n_patches)
        return iter([(self._epoch, int(index)) for index in order])
