"""The toy at work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from fintune_xr.models.protocol import Maps, Mask, Plane


class ToySegmenter:
    """Connected pixels above a level."""

    def __init__(self, level: int) -> None:
        self.level = level

    def normalise(self, tile: Plane) -> Maps:
        return tile[:1].astype(np.float32)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        return list(batch)

    def reconstruct(self, maps: Maps) -> Mask:
        labels, _ = ndimage.label(maps[0] > self.level)
        return labels.astype(np.uint32)
