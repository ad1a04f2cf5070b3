"""Encoders and classifiers of volumes: how their files are known; free of network libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fintune_xr import names as n
from fintune_xr.models.checkpoints import Checkpoint, own_planes, read_state
from fintune_xr.models.kind import ModelKind, Recognises, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.models.vjepa2.checkpoint import encoders_in, open_inertly
from fintune_xr.models.vjepa2.settings import (
    VIT3D,
    VJEPA2,
    VOLUME_CLASSIFIER,
    ClassifierArchitecture,
    RandomEncoderSettings,
    VolumeClassifierSettings,
    VolumeEncoderSettings,
    check_patches,
)
from fintune_xr.tasks.product import SCORES


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:  # noqa: ARG001
    from fintune_xr.models.vjepa2.embedding import load_embedding_model

    return load_embedding_model(checkpoint, settings, device=device)


def _load_random(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:  # noqa: ARG001
    from fintune_xr.models.vjepa2.embedding import random_embedding_model

    return random_embedding_model(settings, device=device)


def _load_classifier(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:  # noqa: ARG001
    from fintune_xr.models.vjepa2.classifier import load_classifier

    return load_classifier(checkpoint, settings, device=device)


def _classifier_sizes(
    checkpoint: Checkpoint, settings: Any, shape: tuple[int, ...]  # noqa: ARG001
) -> Mapping[str, int | Sequence[str]]:  # fmt: skip
    from fintune_xr.models.vjepa2.adapter import check_grid

    stated = ClassifierArchitecture.model_validate(read_state(checkpoint)["architecture"])
    depth, height, width = shape
    check_grid(stated.encoder, (depth, height, width), stated.crop_px)
    return {n.FEATURE: stated.encoder.width, n.CLASS: list(stated.classes)}


def _sizes(checkpoint: Checkpoint, settings: Any, shape: tuple[int, ...]) -> Mapping[str, int]:
    """Length of the embedding, once volumes of this `shape` are known to fit."""
    from fintune_xr.models.vjepa2.adapter import check_grid, read_size

    size = read_size(checkpoint.path, settings)
    depth, height, width = shape
    check_grid(size, (depth, height, width), settings.crop_px if size.kind == VJEPA2 else 0)
    return {n.FEATURE: size.width}


def _random_sizes(checkpoint: Checkpoint, settings: Any, shape: tuple[int, ...]) -> Mapping[str, int]:  # noqa: ARG001
    check_patches(shape, settings.patch)
    return {n.FEATURE: settings.width}


def _is(kind: str) -> Recognises:
    """Recognises files that hold an encoder of three-dimensional patches, with learned positions or without."""

    def recognises(entries: Mapping[str, Any]) -> bool:
        found = [inside for inside in encoders_in(entries).values() if _patches_are_3d(inside)]
        return bool(found) and (VIT3D if "pos_embed" in found[0] else VJEPA2) == kind

    return recognises


def _patches_are_3d(entries: Mapping[str, Any]) -> bool:
    kernels = [entries.get(name) for name in ("patch_embed.proj.weight", "embeddings.patch_embeddings.proj.weight")]
    return any(getattr(kernel, "ndim", 0) == 5 for kernel in kernels)


_WEIGHTS: Final = "an encoder of volumes (patch_embed.proj with depth)"
VIT3D_KIND: Final = ModelKind(
    VIT3D, SCORES, VolumeEncoderSettings, load=_load, recognises=_is(VIT3D), weights=_WEIGHTS, pools=True,
    opens=open_inertly, sizes=_sizes,
)  # fmt: skip
VJEPA2_KIND: Final = ModelKind(
    VJEPA2, SCORES, VolumeEncoderSettings, load=_load, recognises=_is(VJEPA2), weights=_WEIGHTS, pools=True,
    opens=open_inertly, sizes=_sizes,
)  # fmt: skip
RANDOM_KIND: Final = ModelKind(
    "vit3d_random", SCORES, RandomEncoderSettings, load=_load_random, pools=True, has_weights=False,
    sizes=_random_sizes,
)  # fmt: skip
CLASSIFIER_KIND: Final = ModelKind(
    VOLUME_CLASSIFIER, SCORES, VolumeClassifierSettings, load=_load_classifier, recognises=says_kind(VOLUME_CLASSIFIER),
    planes=own_planes, pools=True, sizes=_classifier_sizes,
)  # fmt: skip
