"""Encoders of volumes in the stages of a run: values, embeddings in batches, vectors to store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fintune_xr import names as n
from fintune_xr.errors import CheckpointError
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.patch_batches import PatchLimit
from fintune_xr.models.protocol import Maps, Plane, Scores
from fintune_xr.models.vjepa2.adapter import VolumeEncoder, load_vjepa2_encoder, random_encoder
from fintune_xr.models.vjepa2.settings import RandomEncoderSettings, Shape, VolumeEncoderSettings
from fintune_xr.pixels.volume_values import normalise
from fintune_xr.provenance import file_sha256


class EmbeddingModel:
    """Gives each volume (1, z, y, x) its embedding (feature,); `encoder_for` has the encoder for volumes of a grid."""

    def __init__(self, encoder_for: Callable[[Shape], VolumeEncoder], settings: VolumeEncoderSettings) -> None:
        self.encoder_for = encoder_for
        self.settings = settings
        self._limit = PatchLimit(settings.volumes_per_batch)

    def normalise(self, tile: Plane) -> Maps:
        """Values (1, z, y, x) as the settings say. Raises TileReadError for a volume of one value."""
        volume: Any = tile
        return normalise(volume, self.settings.normalisation, clip_percentile=self.settings.clip_percentile)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Embeddings (feature,) of volumes of one grid; fewer at once from the moment on when memory was full."""
        return list(self._limit.run(self._embeddings, as_batch(batch)))

    def reconstruct(self, maps: Maps) -> Scores:
        """The embedding as it is stored."""
        return Scores({n.EMBEDDING: maps})

    def _embeddings(self, volumes: Maps) -> Maps:
        depth, height, width = volumes.shape[2:]
        encoder = self.encoder_for((depth, height, width))
        return embed(encoder, volumes, self.settings.precision)


def as_batch(volumes: Sequence[Maps]) -> Maps:
    """Volumes of one grid as (volume, 1, z, y, x); a single one, which is large enough, is not copied."""
    return volumes[0][None] if len(volumes) == 1 else np.stack(volumes)


def embed(network: torch.nn.Module, volumes: Maps, precision: str) -> Maps:
    """What `network`, at rest, gives for `volumes` (volume, 1, z, y, x); sums and norms stay in float32."""
    device = next(network.parameters()).device
    with torch.inference_mode(), autocast(device.type, precision):
        found = network(torch.from_numpy(volumes).to(device))
    return np.asarray(found.float().cpu().numpy())


def autocast(device_type: str, precision: str) -> torch.autocast:
    """Matrix products in bfloat16, where `precision` is that."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16")


def load_embedding_model(checkpoint: Checkpoint, settings: VolumeEncoderSettings, *, device: str) -> EmbeddingModel:
    """The encoder of a weights file on `device`.

    Raises CheckpointError where the file is another one than the run refers to, or does not fit.
    """
    found = file_sha256(Path(checkpoint.path))
    if found != checkpoint.sha256:
        raise CheckpointError(
            f"{checkpoint.path} holds other weights than the run refers to: expected SHA-256 {checkpoint.sha256}, "
            f"found {found}. Restore the file, or start a run of another name."
        )
    encoder = load_vjepa2_encoder(checkpoint.path, settings=settings).to(device)
    return EmbeddingModel(lambda _: encoder, settings)


def random_embedding_model(settings: RandomEncoderSettings, *, device: str) -> EmbeddingModel:
    """An encoder with random weights, made when the first volume says how many positions it has."""
    made: dict[Shape, VolumeEncoder] = {}

    def encoder_for(grid: Shape) -> VolumeEncoder:
        if grid not in made:
            made[grid] = random_encoder(settings, grid).to(device)
        return made[grid]

    return EmbeddingModel(encoder_for, settings)
