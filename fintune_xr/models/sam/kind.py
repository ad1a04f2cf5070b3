"""SAM and micro-SAM: settings for one run and for a sweep, and how their weights are known and had."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, field_validator, model_validator

from fintune_xr import names as n
from fintune_xr.models.channels import ChannelSettings
from fintune_xr.models.checkpoints import Checkpoint
from fintune_xr.models.kind import ModelKind
from fintune_xr.models.protocol import Segmenter
from fintune_xr.models.weights_cache import Published
from fintune_xr.settings import require_each_once
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

# Training states of micro-SAM hold the network under this entry; SAM's own files are the bare network.
SAM_STATE_ENTRY: Final = "model_state"
SAM_OTHER_DECODER: Final = "decoder_state"
_SAM_PREFIXES: Final = ("module.", "sam.")

Share = Annotated[float, Field(ge=0, le=1)]
PointsPerSide = Annotated[int, Field(ge=1, le=256)]


class SamInputSettings(ChannelSettings):
    """What SAM is shown, and what is made of its masks; names and defaults of the generator are SAM's own."""

    channels: tuple[str, ...] | None = Field(
        default=(n.MARKER_CHANNEL, n.DAPI),
        min_length=1,
        max_length=3,
        description="Planes that become red, green and blue; one plane becomes grey, a third one missing is black.",
    )
    percentiles: tuple[float, float] = Field(
        default=(1.0, 99.8), description="Percentiles of a tile's plane that become 0 and 255."
    )
    stability_score_offset: float = Field(
        default=1.0, gt=0, description="Shift of the mask threshold, in logits, that a stable mask survives."
    )
    points_per_batch: int = Field(default=64, ge=1, description="Prompts that the decoder sees at once.")
    min_area_px: int = Field(default=15, ge=1, description="Instances with fewer visible pixels are dropped.")
    max_area_fraction: float = Field(
        default=0.25, gt=0, le=1, description="Masks over a larger share of the tile are background and dropped."
    )

    @field_validator("percentiles")
    @classmethod
    def _ascending(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"expected 0 <= low < high <= 100, got {low} and {high}")
        return percentiles


class SamSettings(SamInputSettings):
    """How SAM segments everything in a tile."""

    points_per_side: PointsPerSide = Field(default=32, description="Prompts along each side of a tile.")
    pred_iou_thresh: Share = Field(default=0.88, description="Masks must exceed this predicted IoU; 0: no filter.")
    stability_score_thresh: Share = Field(default=0.95, description="Masks must reach this stability; 0: no filter.")
    box_nms_thresh: Share = Field(default=0.7, description="Of masks whose boxes overlap more, the best one stays.")


class SamSweepSettings(SamInputSettings):
    """The grid of a sweep and the tiles that it runs on."""

    points_per_side: tuple[PointsPerSide, ...] = Field(default=(16, 32, 64), min_length=1)
    pred_iou_thresh: tuple[Share, ...] = Field(default=(0.7, 0.8, 0.88), min_length=1)
    stability_score_thresh: tuple[Share, ...] = Field(default=(0.8, 0.9, 0.95), min_length=1)
    box_nms_thresh: tuple[Share, ...] = Field(default=(0.7,), min_length=1)
    n_tiles: int = Field(default=10, ge=1, description="Annotated tiles drawn.")
    seed: int = Field(default=2024, ge=0, description="Seed of the draw.")

    @model_validator(mode="after")
    def _each_once(self) -> SamSweepSettings:
        require_each_once(self, n.POINTS_PER_SIDE, n.PRED_IOU_THRESH, n.STABILITY_SCORE_THRESH, n.BOX_NMS_THRESH)
        return self


def sam_folder() -> Path:
    """Folder in which torch keeps downloaded weights on this machine, SAM's among them."""
    chosen = os.environ.get(TORCH_HOME_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (Path(chosen) if chosen else cache / "torch") / "hub" / "checkpoints"


def sam_state(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The network of a SAM or micro-SAM weights file under SAM's own key names.

    The second decoder that micro-SAM adds for its own instance segmentation is left out.
    """
    nested = entries.get(SAM_STATE_ENTRY)
    state = nested if isinstance(nested, dict) else entries
    return {_sam_key(key): value for key, value in state.items() if key != SAM_OTHER_DECODER}


def _sam_key(key: str) -> str:
    for prefix in _SAM_PREFIXES:
        key = key.removeprefix(prefix)
    return key


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
