"""A run of masks as it is read again, tile by tile, by whoever measures its cells anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.store.zarr_io.groups import is_complete, read_column
from fintune_xr.store.zarr_io.location import Location
from fintune_xr.store.zarr_io.tile_reader import TileReader


@dataclass(frozen=True, slots=True, eq=False)
class MaskRun:
    """Masks and images of a run that is finished, without what fills smaller tiles up at their ends.

    `region_row` (tile,) is where the regions of each tile lie, -1 where they are not known.
    """

    location: Location
    name: str
    masks: TileReader
    images: TileReader
    sizes: NDArray[np.int32]
    region_masks: TileReader | None
    region_row: NDArray[np.int64]

    def mask(self, tile: int) -> NDArray[Any]:
        """Instances (y, x); of a tile that failed none at all."""
        height, width = self.sizes[tile]
        return self.masks[tile][:height, :width]

    def image(self, tile: int) -> NDArray[Any]:
        """Raw counts (channel, y, x)."""
        height, width = self.sizes[tile]
        return self.images[tile][:, :height, :width]

    def regions(self, tile: int) -> NDArray[np.uint8] | None:
        """Codes of regions (y, x); None where they are not known."""
        row = int(self.region_row[tile])
        if self.region_masks is None or row < 0:
            return None
        height, width = self.sizes[tile]
        return self.region_masks[row][:height, :width]

    def rows(self, which: slice) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
        """Position of the tile, and label, of these rows of the table of cells."""
        tile, label = (read_column(self.location, f"{n.CELLS}/{self.name}/{c}", which) for c in (n.TILE_INDEX, n.LABEL))
        return tile, label


def open_mask_run(location: Location, run: str) -> MaskRun:
    """The masks of `run`. Raises StoreDamagedError where an array of the store cannot be read."""
    sizes = np.stack([read_column(location, f"{n.IMAGES}/{side}") for side in (n.HEIGHT, n.WIDTH)], axis=1)
    masks = TileReader(location, f"{n.RUNS}/{run}/{n.MASK}")
    images = TileReader(location, f"{n.IMAGES}/{n.IMAGE}")
    if not is_complete(location, n.REGION_MASKS):
        return MaskRun(location, run, masks, images, sizes, None, np.full(len(sizes), -1))
    known, tiles = (
        read_column(location, f"{group}/{n.TILE}").astype(object).tolist() for group in (n.REGION_MASKS, n.IMAGES)
    )
    place = {tile: at for at, tile in enumerate(known)}
    rows = np.array([place.get(tile, -1) for tile in tiles], np.int64)
    regions = TileReader(location, f"{n.REGION_MASKS}/{n.REGION_MASK}")
    return MaskRun(location, run, masks, images, sizes, regions, rows)
