"""Learning classes: each scan weighted, judged by the balanced accuracy of participants."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError, TileReadError
from fintune_xr.finetune.classification.features import Labelled, participants_balanced_accuracy, scan_weights
from fintune_xr.finetune.classification.loss import weighted_loss
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.finetune.classification.volumes import Values, VolumeSamples, VolumeTiles
from fintune_xr.finetune.encoders import Encoder, frozen_blocks
from fintune_xr.finetune.objective import Measure, Validation
from fintune_xr.models.vjepa2.classifier import VolumeClassifier
from fintune_xr.models.vjepa2.embedding import embed

LOGGER = logging.getLogger(__name__)

BALANCED: Final = "val_balanced_accuracy"

Embeddings = NDArray[np.float32]


class ClassObjective:
    """Weighted cross entropy of scans; the score is the balanced accuracy of val's participants.

    The head's standardisation is that of the train scans as the encoder gives them at the start.
    """

    score = BALANCED
    measures = (BALANCED,)

    def __init__(self, settings: ClassTrainSettings, network: VolumeClassifier, encoder: Encoder) -> None:
        self.settings, self.network = settings, network
        self.values = Values(network.architecture.normalisation, network.architecture.clip_percentile)
        self.wakes = _first_awake(settings, encoder)
        self.is_new = True
        # What the last validation saw: ids of its scans, and their logits.
        self.said: dict[str, Any] | None = None

    def samples(self, tiles: VolumeTiles, folder: Path) -> VolumeSamples:  # noqa: ARG002
        """Every train scan once an epoch; as embeddings as long as the encoder rests and nothing is varied.

        Raises FintuneValueError for a class without scans.
        """
        sound, embedding = self._sound(tiles)
        weight = self._weights(sound)
        if self.is_new:
            self.network.standardise(embedding)
        augmentation = self.settings.volume_augmentation
        stored = embedding if augmentation.is_off else None
        return VolumeSamples(
            sound, weight, self.values, augmentation, seed=self.settings.seed, embedding=stored, wakes=self.wakes
        )

    def loss(self, output: torch.Tensor, target: Sequence[torch.Tensor]) -> torch.Tensor:
        """Loss of a batch."""
        label, weight, _ = target
        return weighted_loss(output, label, weight.to(output.device, torch.float32))

    def held_out(self, tiles: VolumeTiles) -> Measure:
        """Loss and balanced accuracy on `tiles`, whose volumes are read again once the encoder has learned."""
        sound, at_rest = self._sound(tiles)
        n_classes = len(self.network.architecture.classes)
        present = np.unique(sound.label)
        weight = np.ones(len(sound))
        if present.size == n_classes:
            weight = self._weights(sound)
        began = self._fingerprint()

        def measure(_: bool) -> Validation:
            rests = self._fingerprint() == began
            return self._validation(sound, at_rest if rests else self._embedded(sound), weight)

        return measure

    def _weights(self, tiles: VolumeTiles) -> NDArray[np.float64]:
        classes = self.network.architecture.classes
        return scan_weights(
            tiles.label, tiles.participant, len(classes), self.settings.class_weights, classes=classes
        )  # fmt: skip

    def _validation(self, tiles: VolumeTiles, embedding: Embeddings, weight: NDArray[np.float64]) -> Validation:
        device = self.network.mean.device
        self.network.eval()
        with torch.inference_mode():
            logits = self.network.logits(torch.from_numpy(embedding).to(device)).float().cpu()
        self.said = {"tiles": list(map(str, tiles.names)), "logits": logits}
        loss = weighted_loss(logits, torch.from_numpy(tiles.label), torch.from_numpy(weight).float())
        scans = Labelled(logits.numpy(), tiles.label, tiles.participant)
        score = participants_balanced_accuracy(logits.numpy(), scans)
        return Validation(float(loss), score, {BALANCED: score})

    def _fingerprint(self) -> list[float]:
        """Numbers that change when the encoder learns, without a second copy of it."""
        return [float(one.detach().double().abs().sum()) for one in self.network.encoder.parameters()]

    def _sound(self, tiles: VolumeTiles) -> tuple[VolumeTiles, Embeddings]:
        """The scans that have an embedding, and these embeddings by the encoder as it is now."""
        if tiles.embedding is not None:
            return tiles, tiles.embedding
        sound = [index for index in range(len(tiles)) if self._is_sound(tiles, index)]
        if not sound:
            raise FintuneValueError(f"none of {len(tiles)} scans can be used: each holds one value alone")
        kept = VolumeTiles(
            [tiles.names[index] for index in sound], tiles.channels, tiles.image, tiles.row[sound], tiles.label[sound],
            tiles.participant[sound], tiles.classes,
        )  # fmt: skip
        return kept, self._embedded(kept)

    def _is_sound(self, tiles: VolumeTiles, index: int) -> bool:
        try:
            self.values.of(tiles.read(index))
        except TileReadError as error:
            LOGGER.warning("%s is left out: %s", tiles.names[index], error.reason)
            return False
        return True

    def _embedded(self, tiles: VolumeTiles) -> Embeddings:
        """Embeddings of all scans, in batches, by the encoder at rest."""
        encoder, size = self.network.encoder, self.settings.encoder.volumes_per_batch
        mode = encoder.training
        encoder.eval()
        try:
            stacks = (range(at, min(at + size, len(tiles))) for at in range(0, len(tiles), size))
            volumes = (np.stack([self.values.of(tiles.read(index)) for index in stack]) for stack in stacks)
            made = [embed(encoder, stack, self.settings.precision) for stack in volumes]
        finally:
            encoder.train(mode)
        return np.concatenate(made)


def _first_awake(settings: ClassTrainSettings, encoder: Encoder) -> int:
    """The first epoch in which any of the encoder learns; `settings.epochs` where none does."""
    n_blocks = len(encoder.blocks)
    for epoch in range(settings.epochs):
        if frozen_blocks(settings, encoder, epoch) < n_blocks:
            return epoch
    return settings.epochs
