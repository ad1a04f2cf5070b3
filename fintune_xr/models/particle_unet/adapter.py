"""A U-Net that gives each pixel of a micrograph the probability to be a particle's, and picks candidates from it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.errors import DeviceError, FintuneValueError
from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.dynunet import channels_last, channels_last_unet, save_own
from fintune_xr.models.particle_unet.settings import KIND, ParticleUnetArchitecture, ParticleUnetSettings
from fintune_xr.models.patch_batches import Cut, PatchLimit, map_patches
from fintune_xr.models.protocol import Detections, Maps, Plane
from fintune_xr.models.windows import seamless_cut
from fintune_xr.pixels.peaks import Peaks, pick_peaks
from fintune_xr.settings import validate
from fintune_xr.tasks.detection import PROBABILITY_STEPS, CandidateTable

LOGGER = logging.getLogger(__name__)

# Percentiles beyond which pixels say nothing about a micrograph's contrast: ice, gold, edges of the carbon.
TAILS = (0.5, 99.5)
LIMIT = 6.0
SMALLEST_WINDOW_PX = 64


class ParticleUnet(torch.nn.Module):
    """MONAI's DynUNet from the planes of a micrograph to one logit per pixel."""

    def __init__(self, architecture: ParticleUnetArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.unet = channels_last_unet(len(architecture.channels), 1, architecture.filters)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Logits (n, 1, y, x) of `patches` (n, channel, y, x) whose edges are multiples of the stride."""
        logits: torch.Tensor = self.unet(channels_last(patches))
        return logits


class UnetDetector:
    """The network applied to micrographs of any size, in windows that leave no seams."""

    def __init__(self, network: ParticleUnet, settings: ParticleUnetSettings, *, choice: ChannelChoice) -> None:
        self.network = network
        self.settings = settings
        self.choice = choice
        self._window_px, self._limit = settings.window_px, PatchLimit(settings.patch_batch)

    @property
    def n_inputs(self) -> int:
        """Planes that the network has inputs for."""
        return len(self.network.architecture.channels)

    @property
    def diameter_px(self) -> float:
        """Diameter of a particle in px."""
        return self.network.architecture.diameter_px

    def normalise(self, tile: Plane) -> Maps:
        """Chosen planes (channel, y, x) with mean 0 and standard deviation 1 of the middle 99 % of their pixels."""
        return np.stack([standardise(plane) for plane in self.choice.take(tile)])

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Logits (1, y, x) of each input; windows of all of them share batches, fewer and smaller when memory is full.

        Raises DeviceError where memory is too small for a single small window.
        """
        while True:
            try:
                return map_patches(batch, cut=self._cut, network=self._run, limit=self._limit)
            except torch.cuda.OutOfMemoryError as error:
                self._check_smaller(error)
            torch.cuda.empty_cache()
            self._window_px = max(SMALLEST_WINDOW_PX, self._window_px // 2)
            LOGGER.warning("out of memory: now windows of %d px", self._window_px)

    def reconstruct(self, maps: Maps) -> Detections:
        """Probability at each pixel and the candidates that reach the floor."""
        stored = np.rint(probability(maps) * PROBABILITY_STEPS).astype(np.uint16)
        # Picked from what is stored, so that anyone who picks from the store finds the same.
        return Detections(stored, _table(self.picked((stored / PROBABILITY_STEPS).astype(np.float32))))

    def picked(self, found: NDArray[np.float32]) -> Peaks:
        """Candidates in a map of probabilities (y, x), the most probable first.

        The network was taught discs smaller than the particle, and the score is the mean over such a disc.
        """
        part = self.network.architecture.disc_fraction
        return pick_peaks(
            found,
            diameter_px=self.diameter_px * part,
            floor=self.settings.floor,
            separation=self.settings.separation / part,
        )

    def _cut(self, image: Maps) -> Cut:
        return seamless_cut(image, self._window_px, n_levels=len(self.network.architecture.filters))

    def _run(self, patches: Maps) -> Maps:
        weight = next(self.network.parameters())
        is_training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode():
                logits = self.network(torch.from_numpy(patches).to(weight.device, weight.dtype))
        finally:
            self.network.train(is_training)
        return np.asarray(logits.float().cpu().numpy())

    def _check_smaller(self, error: torch.cuda.OutOfMemoryError) -> None:
        """Raises DeviceError where windows cannot be made any smaller."""
        if self._window_px <= SMALLEST_WINDOW_PX:
            raise DeviceError(
                f"out of memory with a single window of {self._window_px} px. Free the GPU's memory, or use one "
                "that has more."
            ) from error


def standardise(plane: Plane) -> NDArray[np.float32]:
    """`plane` (y, x) with mean 0 and standard deviation 1 of its middle 99 %, cut off at `LIMIT` both ways.

    A plane without contrast becomes 0. Each micrograph by itself: dose and ice differ between them.

    Raises FintuneValueError for a plane without pixels.
    """
    if plane.ndim != 2 or plane.size == 0:
        raise FintuneValueError(f"micrograph: expected (y, x) with pixels, got shape {plane.shape}")
    values = plane.astype(np.float32)
    low, high = np.percentile(values, TAILS)
    middle = values[(values >= low) & (values <= high)].astype(np.float64)
    spread = float(middle.std())
    if spread == 0:
        return np.zeros_like(values)
    scaled = (values - np.float32(middle.mean())) / np.float32(spread)
    return np.asarray(np.clip(scaled, -LIMIT, LIMIT), np.float32)


def probability(maps: Maps) -> NDArray[np.float32]:
    """Probability (y, x) of a particle, of the logits (1, y, x)."""
    logits = np.clip(maps[0], -60, 60)
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def load_unet(
    checkpoint: Checkpoint, settings: ParticleUnetSettings, *, channels: Sequence[str], device: str
) -> UnetDetector:
    """The trained network on `device`, ready for micrographs of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a plane that the store lacks.
    """
    entries = read_state(checkpoint)
    architecture = validate(ParticleUnetArchitecture, entries["architecture"], where=checkpoint.path)
    choice = choose_channels(
        channels, settings, trained=architecture.channels, zeroed=checkpoint.zeroed,
        n_inputs=len(architecture.channels),
    )  # fmt: skip
    network = ParticleUnet(architecture)
    load_strictly(network, entries["state"], source=checkpoint.path)
    network.to(device, dtype=getattr(torch, settings.precision))
    network.to(memory_format=torch.channels_last).eval()
    return UnetDetector(network, settings, choice=choice)


def save_unet(network: ParticleUnet, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)


def _table(peaks: Peaks) -> CandidateTable:
    labels = np.arange(1, len(peaks) + 1, dtype=np.uint32)
    return CandidateTable(labels, peaks.y, peaks.x, peaks.score)
