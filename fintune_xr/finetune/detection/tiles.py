"""Micrographs that a network learns from: annotated with particles, or labelled by another network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.models.protocol import Plane
from fintune_xr.pixels.discs import disc_target
from fintune_xr.tasks.detection import Points

Target: TypeAlias = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class PseudoLabels:
    """Labels of one tile by a network: row `index` of `target` (tile, y, x), which is anything that can be sliced."""

    target: Any
    index: int


Truth: TypeAlias = Points | PseudoLabels


@dataclass(frozen=True, eq=False)
class ParticleTiles:
    """Micrographs with what is known of their particles, read one at a time.

    `image` (tile, channel, y, x) is anything that can be sliced; of each tile `height` x `width` pixels are real.
    """

    names: Sequence[str]
    channels: tuple[str, ...]
    image: Any
    truth: Sequence[Truth]
    height: Sequence[int]
    width: Sequence[int]

    def __post_init__(self) -> None:
        n_tiles, (n_image, n_channels, *_) = len(self.names), self.image.shape
        lengths = (n_image, len(self.truth), len(self.height), len(self.width))
        if any(length != n_tiles for length in lengths) or n_channels != len(self.channels):
            raise FintuneValueError(
                f"micrographs do not fit together: {n_tiles} names and {len(self.channels)} channels, but image "
                f"{tuple(self.image.shape)}, {lengths[1]} truths, {lengths[2]} heights and {lengths[3]} widths"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Plane:
        """Raw counts (channel, y, x) of one tile, cropped to its real size."""
        return np.asarray(self.image[index, :, : int(self.height[index]), : int(self.width[index])])

    def target(self, index: int, *, disc_fraction: float, rim_px: float = 0.0) -> Target:
        """Labels (y, x) int8 of one tile, cropped to its real size: 1 particle, 0 background, -1 unknown.

        Annotated particles become discs of `disc_fraction` of their diameter, in a ring of unknown pixels.
        """
        truth, shape = self.truth[index], (int(self.height[index]), int(self.width[index]))
        if isinstance(truth, PseudoLabels):
            return np.asarray(truth.target[truth.index, : shape[0], : shape[1]], np.int8)
        return disc_target(truth.yx, truth.diameter_px * disc_fraction, shape, rim_px=rim_px)

    def particles(self, index: int) -> Points:
        """Annotated particles of one tile.

        Raises FintuneValueError for a tile that a network labelled: nothing is ever judged by that.
        """
        truth = self.truth[index]
        if isinstance(truth, PseudoLabels):
            raise FintuneValueError(
                f"{self.names[index]} has pseudo-labels, which nothing is measured against. Annotate it, or leave "
                "it out of the validation."
            )
        return truth
