"""One tile's mask out of files of which each holds a single cell."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import TileReadError
from fintune_xr.store.raw.pairing import PlaneFile
from fintune_xr.store.raw.readers import read_mask
from fintune_xr.store.raw.sources import Place, place_in


def joined_masks(source: Place, files: Sequence[PlaneFile]) -> tuple[NDArray[np.uint32], str]:
    """Labels (y, x), cell k + 1 being what file k marks, and the SHA-256 of the files' SHA-256 in their order.

    Raises TileReadError naming the file: sizes that differ, several values in one file, or a pixel that two files mark.
    """
    joined: NDArray[np.uint32] | None = None
    together = hashlib.sha256()
    for k, file in enumerate(files, start=1):
        labels, digest = read_mask(place_in(source, file.path), page=file.page)
        together.update(digest.encode())
        if joined is None:
            joined = np.zeros(labels.shape, np.uint32)
        _add(joined, labels, k, str(file))
    return np.zeros((0, 0), np.uint32) if joined is None else joined, together.hexdigest()


def _add(joined: NDArray[np.uint32], labels: NDArray[Any], number: int, file: str) -> None:
    if labels.shape != joined.shape:
        raise TileReadError(f"wrong shape: {file} is of another size than the first mask of its tile")
    marked = labels != 0
    if np.unique(labels[marked]).size > 1:
        raise TileReadError(f"wrong values: expected one cell in {file}, found several labels; leave --join out")
    twice = int(np.count_nonzero(joined[marked]))
    if twice:
        raise TileReadError(f"overlap: {twice} px of {file} belong to another cell of the tile as well")
    joined[marked] = number
