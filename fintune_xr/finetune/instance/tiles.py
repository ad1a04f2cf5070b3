"""Annotated tiles, and what is prepared from them once before a training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastremap
import numpy as np

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.augmentation import Planes
from fintune_xr.finetune.patches import PreparedTile
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.flows.field import instance_flows
from fintune_xr.models.flows.segmenter import normalise
from fintune_xr.models.protocol import Mask, Plane

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

    def chosen(self, positions: Sequence[int]) -> AnnotatedTiles:
        """The tiles at these positions, in this order, opened and not read."""
        at = list(positions)
        return replace(
            self,
            names=[self.names[i] for i in at],
            image=self.image[at],
            mask=self.mask[at],
            height=[self.height[i] for i in at],
            width=[self.width[i] for i in at],
        )


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
        np.save(tile.image_path, normalise(choice.take(image), n_planes=n_inputs))
        np.save(tile.target_path, flow_target(mask))
        prepared.append(tile)
    if not prepared:
        found = f"none of {len(tiles)} tiles has {min_cells} or more annotated cells"
        raise FintuneValueError(f"{found}. Lower min_cells, or annotate more.")
    return prepared


def flow_target(mask: Mask) -> Planes:
    """Unit flow along y, unit flow along x, and cell as 0 or 1, (3, y, x), of an instance mask (y, x)."""
    return np.concatenate([instance_flows(mask), mask[np.newaxis] > 0]).astype(np.float32)
