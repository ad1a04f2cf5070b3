"""Pairs of tiles that look alike, side by side, for whoever has to decide whether they are copies."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from fintune_xr import names as n
from fintune_xr.analysis.figures.overlays import composite
from fintune_xr.execution.whole_file import whole_file
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.splits.assignment import Leak
from fintune_xr.store.split import PAIR_COLUMNS
from fintune_xr.text import texts

PAIRS_FILE: Final = "pairs.tsv"
# More pictures than these nobody looks through.
_MOST: Final = 100
_GAP_PX: Final = 8


def show_leaks(tiles: xr.Dataset, leaks: Sequence[Leak], folder: Path) -> str:
    """Writes a picture of each pair and a table of the pairs that look alike; what was written, in words.

    `tiles` are the images (tile) among which the pairs were found. The column `reason` of the table is empty.
    """
    place = {tile: at for at, tile in enumerate(texts(tiles[n.TILE]))}
    for number, leak in enumerate(leaks[:_MOST], start=1):
        with whole_file(folder / f"{number:03d}.png") as file:
            _side_by_side(tiles, *(place[tile] for tile in leak.tiles)).save(file, format="PNG")
    with whole_file(folder / PAIRS_FILE) as file, file.open("w", encoding="utf-8", newline="") as table:
        rows = csv.writer(table, delimiter="\t", lineterminator="\n")
        rows.writerow([*PAIR_COLUMNS, "why", "picture"])
        for number, leak in enumerate(leaks, start=1):
            if leak.by_looks:
                rows.writerow([*leak.tiles, "", leak.why, f"{number:03d}.png" if number <= _MOST else ""])
    return f"\nWritten to {folder}: {min(len(leaks), _MOST)} pictures and {PAIRS_FILE}"


def _side_by_side(tiles: xr.Dataset, one: int, other: int) -> Image.Image:
    pictures = [(255 * composite(picture_of(tiles, at))).round().astype(np.uint8) for at in (one, other)]
    height = max(len(picture) for picture in pictures)
    padded = [np.pad(picture, ((0, height - len(picture)), (0, _GAP_PX), (0, 0))) for picture in pictures]
    return Image.fromarray(np.concatenate(padded, axis=1))


def picture_of(tiles: xr.Dataset, at: int) -> NDArray[Any]:
    """The image (channel, y, x) of a tile without its padding, of a volume its middle plane."""
    pixels = tile_pixels(tiles, at)
    return pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels
