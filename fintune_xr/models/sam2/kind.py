"""SAM 2: how its weights are known and had; free of network libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.models.sam.kind import TORCH_HOME_VARIABLE, sam_folder
from fintune_xr.models.sam2.settings import BACKBONE, SAM2_SIZES, STATE_ENTRY, TRUNK, Sam2Settings
from fintune_xr.models.weights_cache import Published
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.tasks.task import SEMANTIC

ADDRESS: Final = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"


def _recognises(entries: Mapping[str, Any]) -> bool:
    state = entries.get(STATE_ENTRY)
    if isinstance(state, Mapping):
        return any(key.startswith(TRUNK) for key in state)
    return any(key.startswith((f"{TRUNK}blocks.", f"{BACKBONE}blocks.")) for key in entries)


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from fintune_xr.models.sam2.adapter import load_sam2_segmenter

    return load_sam2_segmenter(checkpoint, settings, channels=channels, device=device)


def _promptable(checkpoint: Checkpoint, device: str) -> Any:
    from fintune_xr.models.sam2.adapter import Sam2Prompts, load_sam2

    return Sam2Prompts(load_sam2(checkpoint, device=device))


def _published(name: str) -> Published:
    file = f"{name}.pt"
    return Published(name, file, sam_folder, TORCH_HOME_VARIABLE, lambda: ADDRESS + file)


SAM2: Final = ModelKind(
    "sam2", INSTANCES, Sam2Settings, load=_load, recognises=_recognises, weights="SAM 2 (no entry model)",
    published=MappingProxyType({name: _published(name) for name in SAM2_SIZES}), promptable=_promptable,
    # Its masks know no classes; `classify` gives them some.
    steps_for=(SEMANTIC,),
)  # fmt: skip
