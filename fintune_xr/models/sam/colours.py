"""From planes of a tile to the colours that SAM looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.protocol import Plane
from fintune_xr.models.sam.settings import SamInputSettings

# SAM looks at three colours.
N_INPUTS = 3


def sam_channels(available: Sequence[str], settings: SamInputSettings) -> ChannelChoice:
    """The planes that become colours. Raises UnknownNameError for one that is not among `available`."""
    return choose_channels(available, settings, n_inputs=N_INPUTS)


def composite(tile: Plane, choice: ChannelChoice, settings: SamInputSettings) -> NDArray[np.uint8]:
    """Colour image (y, x, 3) uint8 of raw counts (channel, y, x), each plane stretched between percentiles.

    One plane becomes grey; with two, blue is black.
    """
    planes = [_stretched(plane, settings.percentiles) for plane in choice.take(tile)]
    if len(planes) == 1:
        planes *= N_INPUTS
    planes += [np.zeros_like(planes[0])] * (N_INPUTS - len(planes))
    return np.stack(planes, axis=-1)


def _stretched(plane: Plane, percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    values = plane.astype(np.float32)
    low, high = np.percentile(values, percentiles)
    if high <= low:
        return np.zeros(plane.shape, np.uint8)
    scaled: NDArray[np.uint8] = np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return scaled
