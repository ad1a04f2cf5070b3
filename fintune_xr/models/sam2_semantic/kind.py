"""SAM 2 as a classifier of pixels: how it is built, and how its weights are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import Field

from fintune_xr.models.checkpoints import Checkpoint, own_planes
from fintune_xr.models.classes.checkpoint import class_attrs, class_sizes
from fintune_xr.models.classes.settings import ClassArchitecture, ClassSettings
from fintune_xr.models.kind import ModelKind, says_kind
from fintune_xr.models.protocol import Model
from fintune_xr.models.sam2.kind import Sam2Architecture
from fintune_xr.tasks.product import CLASSES

Head = Literal["prompts", "dense", "both"]


class Sam2SemanticArchitecture(ClassArchitecture):
    """What must be known to build the network before its weights can be filled in."""

    sam2: Sam2Architecture
    head: Head = Field(
        default="both",
        description="Learned prompts for SAM 2's mask decoder, convolutions of its pyramid, or the sum of both.",
    )
    tokens: int = Field(default=2, ge=1, description="Learned prompts of a class.")

    @property
    def has_prompts(self) -> bool:
        """Whether the mask decoder is part of it."""
        return self.head != "dense"

    @property
    def has_dense(self) -> bool:
        """Whether there are convolutions of the pyramid."""
        return self.head != "prompts"


def _load(checkpoint: Checkpoint, settings: Any, *, channels: Sequence[str], device: str) -> Model:
    from fintune_xr.models.sam2_semantic.adapter import load_sam2_semantic

    return load_sam2_semantic(checkpoint, settings, channels=channels, device=device)


def _promptable(checkpoint: Checkpoint, device: str) -> Any:
    from fintune_xr.models.sam2_semantic.adapter import promptable

    return promptable(checkpoint, device=device)


SAM2_SEMANTIC: Final = ModelKind(
    "sam2_semantic", CLASSES, ClassSettings, load=_load, recognises=says_kind("sam2_semantic"), planes=own_planes,
    pools=True, sizes=class_sizes, attrs=class_attrs, promptable=_promptable,
)  # fmt: skip
