"""Settings of the classical model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fintune_xr.settings import Settings


class ThresholdSettings(Settings):
    """How a tile is thresholded and cut into instances."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"level": "background", "odd_window": False}

    channel: str = Field(default="", description="Plane to segment; empty: the first.")
    sigma_px: float = Field(default=1.0, ge=0.5, description="Gaussian smoothing.")
    background_px: int = Field(default=64, ge=0, description="Width of what counts as background; 0: no correction.")
    min_contrast: float = Field(
        default=4.0,
        ge=0,
        description="Least height of foreground, in standard deviations of the noise and of the background.",
    )
    level: Literal["auto", "background"] = Field(
        default="auto",
        description="auto: Otsu's threshold where it parts two populations of pixels, else what the background hardly "
        "reaches; background: never below that, which fails where most of a tile is foreground.",
    )
    odd_window: bool = Field(
        default=True,
        description="A window of the background with an odd number of steps: that of a mirrored tile is mirrored.",
    )
    split_px: float = Field(default=5.0, ge=1, description="Least distance between centres of touching instances.")
    min_area_px: int = Field(default=40, ge=1, description="Smaller instances are dropped.")
    fill_holes_px: int = Field(default=64, ge=0, description="Holes up to this area are filled.")

    @model_serializer(mode="wrap")
    def _without_what_was_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value != self.BEFORE.get(key, values)}
