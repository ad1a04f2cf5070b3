"""SAM 2 as a classifier of pixels: what it is called, and how it is built."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from fintune_xr.models.classes.settings import ClassArchitecture
from fintune_xr.models.sam2.settings import Sam2Architecture

KIND: Final = "sam2_semantic"
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
