"""An encoder of volumes with a head that gives each class a logit: built, applied, saved and loaded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.dynunet import save_own
from fintune_xr.models.patch_batches import PatchLimit
from fintune_xr.models.protocol import Maps, Plane, Scores
from fintune_xr.models.vjepa2.adapter import VolumeEncoder
from fintune_xr.models.vjepa2.embedding import as_batch, embed
from fintune_xr.models.vjepa2.settings import (
    EPSILON,
    VIT3D,
    VOLUME_CLASSIFIER,
    ClassifierArchitecture,
    VolumeClassifierSettings,
)
from fintune_xr.models.vjepa2.vit3d import Vit3d
from fintune_xr.pixels.volume_values import normalise
from fintune_xr.settings import validate

# Entry of a checkpoint with what the network said of the scans that judged it.
VALIDATION: Final = "validation"


class VolumeClassifier(nn.Module):
    """Logits (n, class) of volumes (n, 1, z, y, x), or of embeddings (n, feature) that the encoder gave before.

    The head sees features standardised by `mean` and `sd`, which do not learn, so that one learning rate means the same
    for every encoder.
    """

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, encoder: VolumeEncoder, architecture: ClassifierArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder = encoder
        self.register_buffer("mean", torch.zeros(encoder.width))
        self.register_buffer("sd", torch.ones(encoder.width))
        self.head = _head(encoder.width, architecture)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of volumes, or of embeddings."""
        return self.logits(self.encoder(inputs) if inputs.ndim > 2 else inputs)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (n, class) of embeddings (n, feature)."""
        out: torch.Tensor = self.head((embeddings - self.mean) / self.sd)
        return out

    def standardise(self, embeddings: Maps) -> None:
        """Takes mean and sd of `embeddings` (n, feature) for all features; an sd of 1 where one is constant."""
        values = embeddings.astype(np.float64)
        sd = values.std(0)
        for name, made in (("mean", values.mean(0)), ("sd", np.where(sd > 0, sd, 1.0))):
            getattr(self, name).copy_(torch.from_numpy(made.astype(np.float32)))


class ClassifierModel:
    """Gives each volume its embedding (feature,) and logits (class,)."""

    def __init__(self, network: VolumeClassifier, settings: VolumeClassifierSettings) -> None:
        self.network = network
        self.settings = settings
        self._limit = PatchLimit(settings.volumes_per_batch)

    def normalise(self, tile: Plane) -> Maps:
        """Values (1, z, y, x) as in training. Raises TileReadError for a volume of one value."""
        stated, volume = self.network.architecture, tile
        voxels: Any = volume
        return normalise(voxels, stated.normalisation, clip_percentile=stated.clip_percentile)

    def predict(self, batch: Sequence[Maps]) -> list[Maps]:
        """Embeddings and logits, one after the other, (feature + class,) of each volume."""
        return list(self._limit.run(self._run, as_batch(batch)))

    def reconstruct(self, maps: Maps) -> Scores:
        """Embedding and logits apart."""
        width = self.network.encoder.width
        return Scores({n.EMBEDDING: maps[:width], n.LOGITS: maps[width:]})

    def _run(self, volumes: Maps) -> Maps:
        embeddings = embed(self.network.encoder, volumes, self.settings.precision)
        device = self.network.mean.device
        with torch.inference_mode():
            logits = self.network.logits(torch.from_numpy(embeddings).to(device)).float().cpu().numpy()
        return np.concatenate([embeddings, logits], axis=1)


def save_classifier(
    network: VolumeClassifier, settings: Mapping[str, Any], path: Path, *, held_out: Mapping[str, Any] | None = None
) -> None:
    """Writes a checkpoint that holds everything needed to build the network again.

    `held_out` is what it said of the scans that judged it: their ids as `tiles`, and `logits` (scan, class).
    """
    further = {VALIDATION: dict(held_out)} if held_out is not None else {}
    save_own(VOLUME_CLASSIFIER, network, network.architecture.as_dict(), settings, path, **further)


def load_classifier(checkpoint: Checkpoint, settings: VolumeClassifierSettings, *, device: str) -> ClassifierModel:
    """The trained network on `device`, at rest. Raises CheckpointError for weights that do not fit."""
    entries = read_state(checkpoint)
    architecture = validate(ClassifierArchitecture, entries["architecture"], where=checkpoint.path)
    network = VolumeClassifier(_empty_encoder(architecture), architecture)
    load_strictly(network, entries["state"], source=checkpoint.path)
    return ClassifierModel(network.to(device).requires_grad_(False).eval(), settings)


def _empty_encoder(architecture: ClassifierArchitecture) -> VolumeEncoder:
    size, epsilon = architecture.encoder, architecture.epsilon
    if size.kind == VIT3D:
        with torch.device("meta"):
            network: nn.Module = Vit3d(size, epsilon)
    else:
        from fintune_xr.models.vjepa2.rotary import rotary_encoder

        network = rotary_encoder(size, epsilon=epsilon or EPSILON[size.kind], crop_px=architecture.crop_px)
    return VolumeEncoder(network, size, crop_px=architecture.crop_px)


def _head(width: int, architecture: ClassifierArchitecture) -> nn.Module:
    """A linear layer that begins at 0, alone or after a hidden layer."""
    n_classes = len(architecture.classes)
    last = nn.Linear(architecture.hidden or width, n_classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    if not architecture.hidden:
        return nn.Sequential(nn.Dropout(architecture.dropout), last)
    first = nn.Linear(width, architecture.hidden)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(architecture.dropout), last)
