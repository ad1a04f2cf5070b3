"""Settings of every kind of model, free of the libraries that the models need."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from fintune_xr.errors import unknown_name
from fintune_xr.models.channels import ChannelSettings
from fintune_xr.models.checkpoints import CPSAM_KIND, FLOW_UNET_KIND, MODEL_KINDS, SAM_KIND, THRESHOLD_KIND, UNET_KIND
from fintune_xr.models.sam.kind import SamSettings
from fintune_xr.pixels.peaks import SEPARATION
from fintune_xr.settings import Settings

# Kinds whose network is shown parts of tiles of one size, so that parts of several tiles fit into one batch.
POOLING_KINDS: Final = (FLOW_UNET_KIND, CPSAM_KIND, UNET_KIND)


class ThresholdSettings(Settings):
    """How a tile is thresholded and cut into instances."""

    channel: str = Field(default="", description="Plane to segment; empty: the first.")
    sigma_px: float = Field(default=1.0, ge=0.5, description="Gaussian smoothing.")
    background_px: int = Field(default=64, ge=0, description="Width of what counts as background; 0: no correction.")
    min_contrast: float = Field(
        default=4.0,
        ge=0,
        description="Least height of foreground, in standard deviations of the noise and of the background.",
    )
    split_px: float = Field(default=5.0, ge=1, description="Least distance between centres of touching instances.")
    min_area_px: int = Field(default=40, ge=1, description="Smaller instances are dropped.")
    fill_holes_px: int = Field(default=64, ge=0, description="Holes up to this area are filled.")


class DynamicsSettings(Settings):
    """Mask reconstruction; names and defaults are Cellpose's."""

    cellprob_threshold: float = Field(default=0.0, description="Pixels with a larger cell logit are followed.")
    flow_threshold: float = Field(default=0.4, ge=0, description="Largest flow error kept; 0: no check.")
    niter: int = Field(default=200, ge=1, description="Steps along the flows.")
    min_size_px: int = Field(default=15, ge=0, description="Smaller instances are dropped.")
    max_size_fraction: float = Field(default=0.4, gt=0, le=1, description="Larger shares of the tile are dropped.")


class FlowSettings(ChannelSettings):
    """Settings that any model predicting flows understands."""

    dynamics: DynamicsSettings = DynamicsSettings()
    patch_batch: int = Field(default=8, ge=1, description="Patches that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )


class FlowUnetArchitecture(Settings):
    """What must be known to build the network before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, description="Planes of the input, in order.")
    filters: tuple[int, ...] = Field(default=(16, 32, 64, 128), min_length=3, description="Feature maps per level.")


class FlowUnetSettings(FlowSettings):
    """How a trained U-Net is applied."""


class CpsamSettings(FlowSettings):
    """How Cellpose-SAM is applied; defaults are those of Cellpose, but for float32."""

    diameter_px: float | None = Field(
        default=None, gt=0, description="Rescales tiles so that this diameter becomes 30 px; default: as they are."
    )


class UnetArchitecture(Settings):
    """What must be known to build a particle U-Net, and to pick with it, before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, description="Planes of the input, in order.")
    filters: tuple[int, ...] = Field(min_length=3, description="Feature maps per level.")
    diameter_px: float = Field(gt=0, description="Diameter of a particle in pixels of the stored micrographs.")
    disc_fraction: float = Field(gt=0, le=1, description="Diameter of the discs learnt, as a part of the particle's.")


class UnetSettings(ChannelSettings):
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


def model_settings(kind: str) -> type[Settings]:
    """The settings class of models of this kind.

    Raises UnknownNameError for a kind that does not exist.
    """
    kinds: dict[str, type[Settings]] = {
        THRESHOLD_KIND: ThresholdSettings,
        FLOW_UNET_KIND: FlowUnetSettings,
        CPSAM_KIND: CpsamSettings,
        SAM_KIND: SamSettings,
        UNET_KIND: UnetSettings,
    }
    if kind not in kinds:
        raise unknown_name("kind of model", kind, MODEL_KINDS)
    return kinds[kind]
