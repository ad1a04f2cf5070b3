"""Raw tiles on disk in the layout of the IF cohort, made once in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from cells import grid_of_cells, image_of_cells

N_DONORS = 4
SIDE = 2048


def write_tiles(source: Path, n_tiles: int, *, compression: str | None = None) -> int:
    """Bytes of pixels of `n_tiles` two-channel tiles under `source`; four drawn images, rolled so that all differ."""
    drawn = [image_of_cells(grid_of_cells(1500, side=SIDE, seed=seed), seed=seed) for seed in range(4)]
    for tile in range(n_tiles):
        image = np.roll(drawn[tile % 4], 17 * tile, axis=-1)
        for channel, plane in enumerate(image):
            tifffile.imwrite(_path(source, tile, channel), plane, photometric="minisblack", compression=compression)
    return n_tiles * drawn[0].nbytes


def link_tiles(source: Path, few: Path, n_tiles: int, n_few: int) -> None:
    """`n_tiles` tiles under `source` that are links to the `n_few` under `few`: more tiles, no more disk."""
    for tile in range(n_tiles):
        for channel in range(2):
            _path(source, tile, channel).hardlink_to(_path(few, tile % n_few, channel))


def write_small_files(source: Path, n_tiles: int) -> None:
    """`n_tiles` pairs of files of 8 x 8 px, for what depends on the number of files alone."""
    plane = np.zeros((8, 8), np.uint16)
    first = _path(source, 0, 0)
    tifffile.imwrite(first, plane, photometric="minisblack")
    content = first.read_bytes()
    for tile in range(n_tiles):
        for channel in range(2):
            _path(source, tile, channel).write_bytes(content)


def tile_pairs(source: Path) -> list[tuple[Path, Path]]:
    """Files of both channels of every tile under `source`, as a user's script would find them."""
    nuclei = sorted(source.rglob("*_b0c0.tif"))
    return [(path, path.with_name(path.name.replace("_b0c0", "_b0c1"))) for path in nuclei]


def _path(source: Path, tile: int, channel: int) -> Path:
    folder = source / f"donor-{tile % N_DONORS:03d}" / "GFAP"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"tile-{tile:05d}_b0c{channel}.tif"
