"""What the flow models share: normalisation, overlapping patches, mask reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from cellpose import transforms

from fintune_xr.errors import DeviceError, FintuneValueError
from fintune_xr.models.channels import ChannelChoice
from fintune_xr.models.flows.dynamics import masks_from_flows
from fintune_xr.models.flows.settings import FlowSettings
from fintune_xr.models.patch_batches import Cut, PatchLimit, map_patches
from fintune_xr.models.protocol import Maps, Mask, Plane

# Patches meet with this overlap, as in Cellpose.
OVERLAP = 0.1


class FlowNetwork(Protocol):
    """A torch module with Cellpose's outputs."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What its input must be."""
        ...

    def eval(self) -> object:
        """Makes it ready to be applied."""
        ...

    def __call__(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps (n, 3, y, x) and a style vector (n, 256) that nobody reads."""
        ...


class FlowSegmenter:
    """A network that predicts flows and cell probability, run on tiles of any size.

    `n_inputs` planes reach the network; where fewer are chosen the rest is zero.
    """

    patch_px = 256

    def __init__(self, network: FlowNetwork, settings: FlowSettings, *, choice: ChannelChoice, n_inputs: int) -> None:
        self.network = network
        self.settings = settings
        self.choice = choice
        self.n_inputs = n_inputs
        self._limit = PatchLimit(settings.patch_batch)

    def normalise(self, tile: Plane) -> Maps:
        """Chosen planes (n_inputs, y, x) with their 1st percentile at 0 and their 99th at 1."""
        return normalise(self.choice.take(tile), n_planes=self.n_inputs)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Flow along y, flow along x and cell logit (3, y, x) of each input; patches of all of them share batches.

        Raises DeviceError where memory is too small for a single patch.
        """
        try:
            return map_patches(batch, cut=self._cut, network=self._run, limit=self._limit)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {self.network.device} with a single patch. "
                "Free its memory, or use a GPU that has more."
            ) from error

    def reconstruct(self, maps: Maps) -> Mask:
        """Instances that the flows lead to."""
        return masks_from_flows(maps, self.settings.dynamics)

    def _cut(self, image: Maps) -> Cut:
        """Patches of `image` (input, y, x) as Cellpose cuts them, and how it averages them where they overlap."""
        height, width = image.shape[1:]
        top, bottom, left, right = transforms.get_pad_yx(height, width, min_size=(self.patch_px, self.patch_px))
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
        patches, spans_y, spans_x, *size = transforms.make_tiles(padded, bsize=self.patch_px, tile_overlap=OVERLAP)

        def join(found: Sequence[Maps]) -> Maps:
            maps = transforms.average_tiles(np.stack(found), spans_y, spans_x, *size)
            return np.ascontiguousarray(maps[:, top : top + height, left : left + width], dtype=np.float32)

        return Cut(len(spans_y), patches.reshape(-1, *patches.shape[2:]), join)

    def _run(self, patches: Maps) -> Maps:
        self.network.eval()
        with torch.inference_mode():
            maps, _ = self.network(torch.from_numpy(patches).to(self.network.device, self.network.dtype))
        return np.asarray(maps.float().cpu().numpy())


def normalise(planes: Plane, *, n_planes: int = 0) -> Maps:
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
