"""Micrographs as files: dark discs on noise, and MRCs of given rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from fintune_xr.pixels.discs import disc_target
from fintune_xr.seeds import stream

DIAMETER = 12.0


def centres(name: str, shape: tuple[int, int], *, most: int = 20) -> NDArray[np.float64]:
    """Centres (particle, 2) as (y, x), none within 1.2 diameters of another or of the edge."""
    rng = stream(3, name)
    found: list[NDArray[np.float64]] = []
    for _ in range(400):
        at = rng.uniform(1.2 * DIAMETER, np.array(shape) - 1.2 * DIAMETER)
        if len(found) < most and all(np.linalg.norm(at - one) > 1.2 * DIAMETER for one in found):
            found.append(at)
    return np.array(found).reshape(-1, 2)


def picture(name: str, shape: tuple[int, int] = (128, 144)) -> NDArray[np.float32]:
    """A micrograph (y, x) with its first row at the top; particles are dark."""
    at = centres(name, shape)
    inside = disc_target(at, np.full(len(at), DIAMETER), shape) == 1
    return (stream(4, name).normal(100, 4, shape) - 15 * inside).astype(np.float32)


def write_mrc(path: Path, pixels: NDArray[Any], *, pixel_size_a: float = 0.0) -> Path:
    """An MRC whose rows are those of `pixels` (y, x) as they are given, the first one first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(pixels)
        file.voxel_size = pixel_size_a
    return path
