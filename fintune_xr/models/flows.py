"""What the flow models share: normalisation, overlapping patches, mask reconstruction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from cellpose import core, transforms

from fintune_xr.errors import DeviceError, FintuneValueError
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.dynamics import masks_from_flows
from fintune_xr.models.segmenter import Maps, Mask, Plane
from fintune_xr.models.settings import FlowSettings

LOGGER = logging.getLogger(__name__)

# Patches meet with this overlap, as in Cellpose.
OVERLAP = 0.1


class FlowNetwork(Protocol):
    """A torch module as cellpose.core.run_net wants it."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What its input must be."""
        ...

    def __call__(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (n, 3, y, x) and a style vector (n, 256) that nobody reads."""
        ...


class FlowSegmenter:
    """A network that predicts flows and cell probability, run on tiles of any size.

    `n_inputs` planes reach the network; where fewer are chosen the rest is zero.
    """

    patch_px = 256

    def __init__(
        self, network: FlowNetwork, settings: FlowSettings, *, choice: ChannelChoice, n_inputs: int
    ) -> None:
        self.network = network
        self.settings = settings
        self.choice = choice
        self.n_inputs = n_inputs
        self._patch_batch = settings.patch_batch

    def normalise(self, tile: Plane) -> Maps:
        """Chosen planes (n_inputs, y, x) with their 1st percentile at 0 and their 99th at 1."""
        return normalised(self.choice.take(tile), n_planes=self.n_inputs)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Flow along y, flow along x and cell logit (3, y, x) of each input."""
        return [self._predict_one(one) for one in batch]

    def reconstruct(self, maps: Maps) -> Mask:
        """Instances that the flows lead to."""
        return masks_from_flows(maps, self.settings.dynamics)

    def _predict_one(self, image: Maps) -> Maps:
        return self._run(np.moveaxis(image, 0, -1))

    def _run(self, image: Maps, rescale: float | None = None) -> Maps:
        """Maps (3, y, x) of `image` (y, x, input), by patches: fewer at once when memory is full."""
        while True:
            try:
                maps, _ = core.run_net(
                    self.network,
                    image[np.newaxis],
                    batch_size=self._patch_batch,
                    bsize=self.patch_px,
                    tile_overlap=OVERLAP,
                    rsz=rescale,
                )
            except torch.cuda.OutOfMemoryError as error:
                self._shrink(error)
            else:
                return np.ascontiguousarray(np.moveaxis(maps[0], -1, 0), dtype=np.float32)

    def _shrink(self, error: torch.cuda.OutOfMemoryError) -> None:
        if self._patch_batch == 1:
            raise DeviceError(
                f"out of memory on {self.network.device} with a single patch. "
                "Free its memory, or use a GPU that has more."
            ) from error
        self._patch_batch //= 2
        torch.cuda.empty_cache()
        LOGGER.warning("out of memory on %s: now %d patches at once", self.network.device, self._patch_batch)


def normalised(planes: Plane, *, n_planes: int = 0) -> Maps:
    """Cellpose's normalisation of `planes` (channel, y, x), padded with zero planes up to `n_planes`.

    Each plane is scaled so that its 1st percentile is 0 and its 99th is 1; a constant plane becomes 0.
    """
    if planes.ndim != 3 or min(planes.shape) < 1:
        raise FintuneValueError(f"tile: expected (channel, y, x) with pixels, got shape {planes.shape}")
    # Cellpose scales a float32 array in place, so it gets a copy.
    scaled: Any = transforms.normalize_img(np.array(planes, dtype=np.float32), axis=0)
    padded = np.zeros((max(n_planes, len(planes)), *planes.shape[1:]), dtype=np.float32)
    padded[: len(planes)] = scaled
    return padded
