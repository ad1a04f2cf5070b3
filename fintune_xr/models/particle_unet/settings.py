"""The U-Net that finds particles: what it is called, how it is built and applied."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from fintune_xr.models.channels import ChannelSettings
from fintune_xr.pixels.peaks import SEPARATION
from fintune_xr.settings import Settings

KIND: Final = "particle_unet"


class ParticleUnetArchitecture(Settings):
    """What must be known to build a particle U-Net, and to pick with it, before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, description="Planes of the input, in order.")
    filters: tuple[int, ...] = Field(min_length=3, description="Feature maps per level.")
    diameter_px: float = Field(gt=0, description="Diameter of a particle in pixels of the stored micrographs.")
    disc_fraction: float = Field(gt=0, le=1, description="Diameter of the discs learnt, as a part of the particle's.")


class ParticleUnetSettings(ChannelSettings):
    """How a trained particle U-Net is applied."""

    window_px: int = Field(
        default=1024, ge=64, description="Edge of the parts that a larger micrograph is predicted in; memory only."
    )
    patch_batch: int = Field(default=2, ge=1, description="Parts that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )
    floor: float = Field(default=0.02, ge=0, le=1, description="Candidates that score less are not stored.")
    separation: float = Field(
        default=SEPARATION, ge=0, description="Least distance of two candidates, in particle diameters."
    )
