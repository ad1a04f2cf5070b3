"""Mask2Former applied to tiles, and its weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.classes.mapper import ClassMapper, class_mapper, whole_or_blended
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.dynunet import save_own
from fintune_xr.models.mask2former.network import Mask2FormerSemantic
from fintune_xr.models.mask2former.settings import KIND, STRIDE_PX, Mask2FormerArchitecture
from fintune_xr.settings import validate


def mask2former_mapper(
    network: Mask2FormerSemantic, settings: ClassSettings, *, channels: Sequence[str]
) -> ClassMapper:
    """What applies `network` to tiles of a store with these `channels`.

    Raises UnknownNameError for a colour that the store lacks.
    """
    return class_mapper(network, settings, channels, whole_or_blended(settings, stride=STRIDE_PX))


def load_mask2former(
    checkpoint: Checkpoint, settings: ClassSettings, *, channels: Sequence[str], device: str
) -> ClassMapper:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a colour that the store lacks.
    """
    entries = read_state(checkpoint)
    built = validate(Mask2FormerArchitecture, entries["architecture"], where=checkpoint.path)
    network = Mask2FormerSemantic(built)
    load_strictly(network, entries["state"], source=checkpoint.path)
    return mask2former_mapper(network.to(device).eval(), settings, channels=channels)


def save_mask2former(network: Mask2FormerSemantic, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)
