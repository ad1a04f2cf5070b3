"""Networks of classes made ready for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fintune_xr.errors import RunMismatchError, SettingsError
from fintune_xr.finetune.encoders import Encoder, unet_encoder
from fintune_xr.finetune.semantic.objective import ClassObjective, LossOfBatch, loss_rule
from fintune_xr.finetune.semantic.settings import (
    Mask2FormerTrainSettings,
    Sam2TrainSettings,
    SemanticTrainSettings,
    SemanticUnetTrainSettings,
    SwinUnetrTrainSettings,
)
from fintune_xr.finetune.trainable import Trainable, require_same_network
from fintune_xr.models.channels import choose_channels
from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.classes.mapper import ClassMapper
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.colours import N_COLOURS
from fintune_xr.models.sam2.kind import SAM2
from fintune_xr.settings import validate
from fintune_xr.tasks.class_map import ClassMap


@dataclass(frozen=True, eq=False)
class _Parts:
    """What differs between kinds of network: what applies and saves each, what it sees with, and its own loss."""

    mapper: Callable[..., ClassMapper]
    save: Callable[..., None]
    encoder: Encoder
    own_loss: LossOfBatch | None = None
    undecayed: tuple[torch.nn.Parameter, ...] = ()


def semantic_unet(
    settings: SemanticUnetTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """The U-Net of `start`, or a new one, to be trained on these `channels`.

    Raises RunMismatchError for a start with other classes, SettingsError for settings that do not fit.
    """
    from fintune_xr.models.semantic_unet import adapter
    from fintune_xr.models.semantic_unet.settings import SemanticUnetArchitecture

    network: Any = _network(
        adapter.SemanticUnet, SemanticUnetArchitecture, settings, start, channels, filters=settings.filters
    )
    parts = _Parts(adapter.unet_mapper, adapter.save_semantic_unet, unet_encoder(network.unet))
    return _trainable(settings, network, parts, channels, device)


def sam2_semantic(
    settings: Sam2TrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """SAM 2 as a classifier of pixels, on published weights of SAM 2, of a trained one, or new and small.

    Raises RunMismatchError for a start with other classes, SettingsError for settings that do not fit.
    """
    from fintune_xr.models.sam2.network import encoder_stem, stage_of_block
    from fintune_xr.models.sam2_semantic import adapter
    from fintune_xr.models.sam2_semantic.network import Sam2Semantic
    from fintune_xr.models.sam2_semantic.settings import Sam2SemanticArchitecture

    own = {"head": settings.head, "tokens": settings.tokens}
    network: Any
    if start is not None and start.kind == SAM2.name:
        network = adapter.from_published(start, **own, **_chosen(settings, channels))
        require_same_network(network.architecture, settings, start.name)
    else:
        network = _network(Sam2Semantic, Sam2SemanticArchitecture, settings, start, channels, sam2=settings.sam2, **own)
    blocks = tuple(network.sam2.vision_encoder.backbone.blocks)
    stages = tuple(stage_of_block(network.sam2, block) for block in range(len(blocks)))
    encoder = Encoder(blocks, encoder_stem(network.sam2), stages)
    if settings.activation_checkpointing:
        encoder.recompute()
    undecayed = () if network.tokens is None else (network.tokens,)
    parts = _Parts(adapter.sam2_mapper, adapter.save_sam2_semantic, encoder, undecayed=undecayed)
    return _trainable(settings, network, parts, channels, device)


def swin_unetr(
    settings: SwinUnetrTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """The network of `start`, or a new one, to be trained on these `channels`.

    Raises RunMismatchError for a start with other classes, SettingsError for settings that do not fit.
    """
    from fintune_xr.models.swin_unetr import adapter
    from fintune_xr.models.swin_unetr.settings import SwinUnetrArchitecture

    own = {"features": settings.features, "heads": settings.heads}
    network: Any = _network(adapter.SwinSemantic, SwinUnetrArchitecture, settings, start, channels, **own)
    encoder = _swin_encoder(network.encoder.swin)
    parts = _Parts(adapter.swin_mapper, adapter.save_swin_unetr, encoder)
    return _trainable(settings, network, parts, channels, device)


def mask2former(
    settings: Mask2FormerTrainSettings, start: Checkpoint | None, channels: Sequence[str], device: str
) -> Trainable:
    """The network of `start`, or a new one, to be trained on these `channels` by its own loss.

    Raises RunMismatchError for a start with other classes, SettingsError for settings that do not fit.
    """
    from fintune_xr.models.mask2former import adapter
    from fintune_xr.models.mask2former.network import Mask2FormerSemantic, matching_loss, weigh_classes
    from fintune_xr.models.mask2former.settings import Mask2FormerArchitecture, Mask2FormerSize

    own = {name: getattr(settings, name) for name in Mask2FormerSize.model_fields}
    network: Any = _network(Mask2FormerSemantic, Mask2FormerArchitecture, settings, start, channels, **own)
    weigh_classes(network, loss_rule(settings).class_weights)
    encoder = _swin_encoder(network.proposer.model.pixel_level_module.encoder.swin)
    parts = _Parts(
        adapter.mask2former_mapper, adapter.save_mask2former, encoder, own_loss=partial(matching_loss, network)
    )
    return _trainable(settings, network, parts, channels, device)


def _swin_encoder(swin: Any) -> Encoder:
    """The stages of a Swin transformer."""
    return Encoder(tuple(swin.encoder.layers), tuple(swin.embeddings.parameters()))


def _network(
    network: Callable[[Any], torch.nn.Module],
    architecture: type[Any],
    settings: SemanticTrainSettings,
    start: Checkpoint | None,
    channels: Sequence[str],
    **own: Any,
) -> torch.nn.Module:
    """The network of `start`, or a new one of what the settings choose and of its `own` settings."""
    chosen = _chosen(settings, channels)
    if start is None:
        return network(validate(architecture, {**chosen, **own}))
    entries = read_state(start)
    built = validate(architecture, entries["architecture"], where=start.path)
    _require_same_classes(built.class_map, chosen["class_map"], start.name)
    require_same_network(built, settings, start.name)
    found = network(built)
    load_strictly(found, entries["state"], source=start.path)
    return found


def _chosen(settings: SemanticTrainSettings, channels: Sequence[str]) -> dict[str, Any]:
    """What every new network of classes is built of."""
    if settings.classes is None:
        raise SettingsError("classes: expected the classes that the network shall learn, got none")
    choice = choose_channels(channels, settings, n_inputs=N_COLOURS)
    return {"class_map": settings.classes, "competition": settings.competition, "channels": choice.names}


def _require_same_classes(found: ClassMap, wanted: ClassMap, name: str) -> None:
    """What outputs stand for cannot be changed afterwards."""
    if (found.classes, found.rest) != (wanted.classes, wanted.rest):
        told = "; ".join(", ".join(f"{one} {list(codes)}" for one, codes in made.classes) for made in (found, wanted))
        raise RunMismatchError(
            f"{name} was trained on other classes than these (there and here: {told}). Give it the same classes, or "
            "begin with weights that know no classes yet."
        )


def _trainable(
    settings: SemanticTrainSettings, network: Any, parts: _Parts, channels: Sequence[str], device: str
) -> Trainable:
    settings = settings.model_copy(update={"competition": network.architecture.competition})
    # Weights that nobody has counted are found before anything is prepared.
    loss_rule(settings)
    network.to(device).train()
    applied = ClassSettings(
        channels=settings.channels, zero_channels=settings.zero_channels, window_px=settings.window_px,
        patch_batch=1, precision=settings.precision,
    )  # fmt: skip
    mapper = parts.mapper(network, applied, channels=channels)
    objective = ClassObjective(settings, mapper, network.architecture.class_map, parts.own_loss)
    model = Trainable(settings, network, parts.encoder, mapper, objective, lambda path: _save(path), parts.undecayed)
    stored = {**settings.as_dict(), "zero_channels": list(model.zeroed)}

    def _save(path: Path) -> None:
        parts.save(network, stored, path)

    return model
