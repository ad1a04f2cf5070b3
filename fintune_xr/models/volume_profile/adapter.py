"""The floor under every encoder of volumes: means and standard deviations along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.models.protocol import Maps, Plane, Scores
from fintune_xr.models.vjepa2.settings import VolumeSettings
from fintune_xr.pixels.volume_values import normalise


class VolumeProfile:
    """Gives each volume (1, z, y, x) its profile (feature,) in place of an embedding."""

    def __init__(self, settings: VolumeSettings) -> None:
        self.settings = settings

    def normalise(self, tile: Plane) -> Maps:
        """Values (1, z, y, x) as the settings say. Raises TileReadError for a volume of one value."""
        volume: Any = tile
        return normalise(volume, self.settings.normalisation, clip_percentile=self.settings.clip_percentile)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Profiles (feature,)."""
        return [volume_profile(volume) for volume in batch]

    def reconstruct(self, maps: Maps) -> Scores:
        """The profile as it is stored."""
        return Scores({n.EMBEDDING: maps})


def volume_profile(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean, then standard deviation, of the planes across z, across y and across x of `volume` (1, z, y, x).

    Shape (2 (z + y + x),): first all means, z before y before x, then all standard deviations.
    """
    (values,) = volume.astype(np.float64)
    axes = ((1, 2), (0, 2), (0, 1))
    means = [values.mean(axis) for axis in axes]
    spreads = [values.std(axis) for axis in axes]
    return np.concatenate([*means, *spreads]).astype(np.float32)
