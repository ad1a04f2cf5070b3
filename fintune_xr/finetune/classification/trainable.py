"""An encoder of volumes with a head, made ready for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fintune_xr.errors import FintuneValueError, SettingsError
from fintune_xr.finetune.classification.features import check_class_weights
from fintune_xr.finetune.classification.objective import ClassObjective
from fintune_xr.finetune.classification.settings import ClassTrainSettings
from fintune_xr.finetune.encoders import Encoder
from fintune_xr.finetune.trainable import Trainable
from fintune_xr.models.channels import ChannelChoice, choose_channels
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.vjepa2.adapter import VolumeEncoder, load_vjepa2_encoder
from fintune_xr.models.vjepa2.classifier import VolumeClassifier, load_classifier, save_classifier
from fintune_xr.models.vjepa2.settings import VOLUME_CLASSIFIER, ClassifierArchitecture, VolumeClassifierSettings
from fintune_xr.models.vjepa2.vit3d import Vit3d
from fintune_xr.text import with_numbers


@dataclass(slots=True)
class _Shown:
    """The plane that the network is shown."""

    choice: ChannelChoice


def volume_classifier(
    settings: ClassTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """The encoder of `start` with a new head, or the classifier that `start` is, to be trained on these `channels`.

    Raises SettingsError where nothing says the classes, or a trained classifier has others, FintuneValueError for
    another number of weights than classes.
    """
    if start is None or not settings.classes:
        raise SettingsError("a classifier of volumes needs an encoder to begin with, and the names of its classes")
    # Before all scans are embedded, which may take hours.
    check_class_weights(settings.class_weights, len(settings.classes), settings.classes)
    choice = choose_channels(channels, settings, n_inputs=1)
    network = (
        _trained(settings, start, device) if start.kind == VOLUME_CLASSIFIER else _new(settings, start, choice, device)
    )
    network.requires_grad_(True)
    encoder = encoder_of(network.encoder)
    if settings.activation_checkpointing:
        encoder.recompute()
    objective = ClassObjective(settings, network, encoder)
    objective.is_new = start.kind != VOLUME_CLASSIFIER
    inside: Any = network.encoder.network
    positions = (inside.pos_embed,) if isinstance(inside, Vit3d) else ()
    stored = {**settings.as_dict(), "zero_channels": []}
    return Trainable(
        settings, network, encoder, _Shown(choice), objective,
        lambda path: save_classifier(network, stored, path, held_out=objective.said),
        undecayed=positions, accept=lambda loss: _accept(loss, settings.fail_above),
    )  # fmt: skip


def encoder_of(encoder: VolumeEncoder) -> Encoder:
    """Patches and positions as the stem; the blocks, of which the last norm is one more."""
    return Encoder((*encoder.blocks, encoder.last_norm), encoder.stem)


def _new(
    settings: ClassTrainSettings, start: Checkpoint, choice: ChannelChoice, device: str
) -> VolumeClassifier:  # fmt: skip
    chosen = settings.encoder
    encoder = load_vjepa2_encoder(start.path, freeze=False, settings=chosen)
    architecture = ClassifierArchitecture(
        channels=choice.names,
        encoder=encoder.size,
        epsilon=chosen.epsilon,
        crop_px=encoder.crop_px,
        normalisation=chosen.normalisation,
        clip_percentile=chosen.clip_percentile,
        classes=settings.classes,
        hidden=settings.hidden,
        dropout=settings.dropout,
    )
    return VolumeClassifier(encoder, architecture).to(device)


def _trained(settings: ClassTrainSettings, start: Checkpoint, device: str) -> VolumeClassifier:
    network = load_classifier(start, VolumeClassifierSettings(), device=device).network
    stated = network.architecture
    if stated.classes != settings.classes:
        raise SettingsError(
            f"{start.name!r} tells {with_numbers(stated.classes)} apart, and the labels are "
            f"{with_numbers(settings.classes)}. Start from its encoder's own weights, or annotate with its classes."
        )
    _require_same_network(stated, settings, start.name)
    return network


def _require_same_network(stated: ClassifierArchitecture, settings: ClassTrainSettings, name: str) -> None:
    """What was asked for and a trained classifier is not made of would otherwise be ignored."""
    made = {**stated.as_dict(), **{f"encoder.{key}": value for key, value in stated.as_dict().items()}}
    made["encoder.heads"] = stated.encoder.heads
    asked = {key: getattr(settings, key) for key in settings.model_fields_set & {"hidden", "dropout"}}
    asked |= {f"encoder.{key}": getattr(settings.encoder, key) for key in settings.encoder.model_fields_set}
    other = [key for key in sorted(asked) if key in made and asked[key] not in (made[key], None)]
    if other:
        told = ", ".join(f"{key}={made[key]!r}" for key in other)
        raise SettingsError(f"{name!r} is a classifier with {told}, which cannot be changed; leave it out.")


def _accept(loss: float, fail_above: float | None) -> None:
    if fail_above is not None and not loss < fail_above:
        raise FintuneValueError(
            f"the training loss ended at {loss:.4g}: expected less than {fail_above:g}. The scans cannot be told apart "
            "by these features, or the encoder gives the same for all of them; look at the ingest's pictures."
        )
