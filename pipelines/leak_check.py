"""Whether what a model learns from shows what it is judged on: donors, files, and looks of the annotated tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import SplitError
from fintune_xr.pixels.real_part import tile_pixels
from fintune_xr.splits.assignment import find_leaks
from fintune_xr.splits.image_hash import looks
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.split import By, annotated_tiles, stored_by, unit_of
from fintune_xr.text import text_array, texts

_OTHERS: Final = "without a part"


def refuse_leaks(cohort: Cohort, parts: Sequence[str] | None = None, *, by: By = n.DONOR) -> None:
    """Raises SplitError naming annotated tiles that leak across `parts`, by default the stored split and its `by`."""
    tiles = annotated_tiles(cohort)
    if parts is None:
        parts = texts(tiles[n.SPLIT])
        by = stored_by(cohort)
    leaks = find_leaks(
        texts(tiles[n.TILE]),
        parts,
        donor=texts(tiles[unit_of(by)]),
        digest=[" ".join(row) for row in text_array(tiles[n.SHA256])],
        seen=looks(_pictures(tiles), texts(tiles[n.CHANNEL])),
    )
    if leaks:
        listed = "\n  ".join(str(leak) for leak in leaks[:20])
        raise SplitError(
            f"{cohort.url}: {len(leaks)} pair(s) of tiles would leak across the split:\n  {listed}\n"
            "Give both tiles the same donor (names or --pattern of a new ingest), also if two fields only look alike, "
            f"or leave one out: fintune-xr annotate MASKS {cohort.url} --restart, from a folder without its mask."
        )


def copies_of_judges(cohort: Cohort, among: NDArray[np.bool_]) -> dict[str, str]:
    """Tiles `among` (tile,) those of the store that show what a val or test tile shows, and what each of them copies.

    The same file or nearly the same image, as in the leak check, which sees annotated tiles only.
    """
    images = cohort.images(lazy=False)
    parts = text_array(images[n.SPLIT])
    chosen = np.flatnonzero(among | np.isin(parts, [n.VAL, n.TEST]))
    tiles, sides = images.isel({n.TILE: chosen}), np.where(among, _OTHERS, parts)[chosen]
    names = texts(tiles[n.TILE])
    digests = [" ".join(row) for row in text_array(tiles[n.SHA256])]
    seen = looks(_pictures(tiles), texts(tiles[n.CHANNEL]))
    leaks = find_leaks(names, sides.tolist(), donor=names, digest=digests, seen=seen)
    among_names = {f"{name} ({_OTHERS})": name for name in names}
    found = {among_names.get(told): leak for leak in leaks for told in (leak.first, leak.second)}
    return {name: str(leak) for name, leak in found.items() if name is not None}


def _pictures(tiles: xr.Dataset) -> Iterator[NDArray[np.generic]]:
    """The image (channel, y, x) of each tile without its padding, of a volume its middle plane; one at a time."""
    for i in range(tiles.sizes[n.TILE]):
        pixels = tile_pixels(tiles, i)
        yield pixels[:, pixels.shape[1] // 2] if pixels.ndim == 4 else pixels
