"""SAM 2 as a classifier of pixels: built on SAM 2's weights, applied to tiles, and its weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fintune_xr.models.checkpoints import Checkpoint, load_strictly, read_state
from fintune_xr.models.classes.mapper import ClassMapper, class_mapper, whole_or_blended
from fintune_xr.models.classes.settings import ClassSettings
from fintune_xr.models.dynunet import save_own
from fintune_xr.models.sam2.adapter import Sam2Prompts
from fintune_xr.models.sam2.keys import published_size, published_state, transformers_state
from fintune_xr.models.sam2.settings import STRIDE_PX
from fintune_xr.models.sam2_semantic.network import Sam2Semantic
from fintune_xr.models.sam2_semantic.settings import KIND, Sam2SemanticArchitecture
from fintune_xr.settings import validate


def from_published(checkpoint: Checkpoint, **chosen: Any) -> Sam2Semantic:
    """A new classifier of pixels on the published SAM 2 weights of `checkpoint`; `chosen` is what else it is built of.

    Raises CheckpointError for weights that do not fit, SettingsError for `chosen` that do not.
    """
    state = published_state(read_state(checkpoint), source=checkpoint.path)
    built = {"sam2": published_size(state, source=checkpoint.path), **chosen}
    network = Sam2Semantic(validate(Sam2SemanticArchitecture, built))
    load_strictly(network.sam2, transformers_state(state), source=checkpoint.path)
    return network


def sam2_mapper(network: Sam2Semantic, settings: ClassSettings, *, channels: Sequence[str]) -> ClassMapper:
    """What applies `network` to tiles of a store with these `channels`.

    Raises UnknownNameError for a colour that the store lacks.
    """
    return class_mapper(network, settings, channels, whole_or_blended(settings, stride=STRIDE_PX))


def trained_network(checkpoint: Checkpoint) -> Sam2Semantic:
    """The network of a checkpoint of this kind, on the CPU.

    Raises CheckpointError for weights that do not fit.
    """
    entries = read_state(checkpoint)
    network = Sam2Semantic(validate(Sam2SemanticArchitecture, entries["architecture"], where=checkpoint.path))
    load_strictly(network, entries["state"], source=checkpoint.path)
    return network.eval()


def load_sam2_semantic(
    checkpoint: Checkpoint, settings: ClassSettings, *, channels: Sequence[str], device: str
) -> ClassMapper:
    """The trained network on `device`, ready for tiles of a store with these `channels`.

    Raises CheckpointError for weights that do not fit, UnknownNameError for a colour that the store lacks.
    """
    return sam2_mapper(trained_network(checkpoint).to(device), settings, channels=channels)


def promptable(checkpoint: Checkpoint, *, device: str) -> Sam2Prompts:
    """SAM 2 as it was fine-tuned, without what was put on it, to be asked by points and boxes.

    Raises CheckpointError for weights that do not fit.
    """
    return Sam2Prompts(trained_network(checkpoint).sam2.to(device).eval())


def save_sam2_semantic(network: Sam2Semantic, settings: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint that holds everything needed to build the network again."""
    save_own(KIND, network, network.architecture.as_dict(), settings, path)
