"""SAM and micro-SAM: how their weights are known and had."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.models.sam.keys import sam_state
from fintune_xr.models.sam.settings import SamSettings
from fintune_xr.models.weights_cache import Published
from fintune_xr.tasks.product import INSTANCES
from fintune_xr.tasks.task import SEMANTIC

# SAM's published files; the end of a file's name is how its SHA-256 begins.
SAM_ADDRESS: Final = "https://dl.fbaipublicfiles.com/segment_anything/"
SAM_FILES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sam_vit_b": "sam_vit_b_01ec64.pth",
        "sam_vit_l": "sam_vit_l_0b3195.pth",
        "sam_vit_h": "sam_vit_h_4b8939.pth",
    }
)
TORCH_HOME_VARIABLE: Final = "TORCH_HOME"


def sam_folder() -> Path:
    """Folder in which torch keeps downloaded weights on this machine, SAM's among them."""
    chosen = os.environ.get(TORCH_HOME_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (Path(chosen) if chosen else cache / "torch") / "hub" / "checkpoints"


def _published(name: str, file: str) -> Published:
    digest = Path(file).stem.rpartition("_")[2]
    return Published(name, file, sam_folder, TORCH_HOME_VARIABLE, lambda: SAM_ADDRESS + file, digest)


def _recognises(entries: Mapping[str, Any]) -> bool:
    encoder = [key for key in sam_state(entries) if key.startswith("image_encoder.")]
    # SAM 2 calls its encoder the same, and has a trunk in it.
    return bool(encoder) and not any(key.startswith("image_encoder.trunk.") for key in encoder)


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Segmenter:
    from fintune_xr.models.sam.adapter import load_sam_segmenter

    return load_sam_segmenter(checkpoint, settings, channels=channels, device=device)


def _promptable(checkpoint: Checkpoint, device: str) -> Any:
    from fintune_xr.models.sam.adapter import load_sam
    from fintune_xr.models.sam.prompts import SamPrompts

    return SamPrompts(load_sam(checkpoint, device=device))


SAM: Final = ModelKind(
    "sam", INSTANCES, SamSettings, load=_load, recognises=_recognises, weights="SAM (no image_encoder)",
    published=MappingProxyType({name: _published(name, file) for name, file in SAM_FILES.items()}),
    promptable=_promptable,
    # Its masks know no classes; `classify` gives them some.
    steps_for=(SEMANTIC,),
)  # fmt: skip
