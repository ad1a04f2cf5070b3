"""Settings of Cellpose-SAM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from fintune_xr.models.flows.settings import NITER, FlowSettings


class CpsamSettings(FlowSettings):
    """How Cellpose-SAM is applied; defaults are those of Cellpose, but for float32."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"scales_niter": True}

    diameter_px: float | None = Field(
        default=None, gt=0, description="Rescales tiles so that this diameter becomes 30 px; default: as they are."
    )
    scales_niter: bool = Field(
        default=False,
        description=f"Scale any dynamics.niter with diameter_px, and not {NITER} alone: what releases did that did not "
        "say which.",
    )

    @model_serializer(mode="wrap")
    def _without_what_was_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Said only where it makes a difference, so that all other runs are those of before."""
        values: dict[str, Any] = handler(self)
        is_told = self.diameter_px is not None and self.dynamics.niter != NITER and not self.scales_niter
        return values if is_told else {key: value for key, value in values.items() if key not in self.BEFORE}
