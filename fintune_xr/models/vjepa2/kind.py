"""Settings of encoders of volumes, free of the libraries that the networks need."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from fintune_xr.pixels.volume_values import NORMALISATIONS, ZSCORE
from fintune_xr.settings import Settings

VIT3D: Final = "vit3d"
VJEPA2: Final = "vjepa2"
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_SD: Final = (0.229, 0.224, 0.225)
# Small numbers under the root of the norm layers: those of networks with learned positions, and Meta's.
EPSILON: Final = {VIT3D: 1e-5, VJEPA2: 1e-6}

Shape = tuple[int, int, int]


class VolumeArchitecture(Settings):
    """What must be known to build an encoder of volumes before its weights can be filled in."""

    kind: Literal["vit3d", "vjepa2"] = Field(description="With learned positions, or with rotary ones.")
    width: int = Field(ge=1, description="Length of a token, and of the embedding.")
    depth: int = Field(ge=1, description="Transformer blocks.")
    heads: int = Field(ge=1, description="Heads of each block.")
    mlp_width: int = Field(ge=1, description="Hidden width of the blocks' perceptrons.")
    patch: Shape = Field(description="Voxels of a token along z, y and x.")
    channels: int = Field(default=1, ge=1, description="Channels of the input.")
    positions: int = Field(default=0, ge=0, description="Tokens that positions were learned for; 0: rotary positions.")

    @model_validator(mode="after")
    def _heads_fit(self) -> VolumeArchitecture:
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of the width {self.width}, got {self.heads}")
        return self


class VolumeSettings(Settings):
    """What any encoder of volumes understands."""

    normalisation: Literal[NORMALISATIONS] = Field(  # type: ignore[valid-type]
        default=ZSCORE,
        description="Of a volume's values: mean 0 and sd 1; Meta's for natural images; or clipped at the 99th "
        "percentile, scaled to 0 to 1, with gamma 0.8.",
    )
    clip_percentile: float | None = Field(
        default=None, gt=50, lt=100, description="Values above this percentile of a volume are cut off first."
    )


class VolumeProfileSettings(VolumeSettings):
    """How a volume is summed up by the means and standard deviations along its axes."""


class VolumeEncoderSettings(VolumeSettings):
    """How a pretrained encoder of volumes is applied."""

    which: str = Field(default="", description="Encoder of the file to take; empty: the first that is known.")
    heads: int | None = Field(default=None, ge=1, description="Heads of a block; default: as many as are 64 wide.")
    epsilon: float | None = Field(
        default=None, gt=0, description="Of the norm layers; default: 1e-5 with learned positions, 1e-6 without."
    )
    crop_px: int = Field(
        default=384, ge=1, description="Height and width that rotary positions are counted in; the volumes' own."
    )
    volumes_per_batch: int = Field(default=2, ge=1, description="Volumes that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )


class RandomEncoderSettings(VolumeEncoderSettings):
    """A `vit3d` with random weights, which any pretraining has to beat."""

    random: int = Field(default=0, ge=0, description="Seed of the weights.")
    width: int = Field(default=768, ge=1, description="Length of a token, and of the embedding.")
    depth: int = Field(default=12, ge=1, description="Transformer blocks.")
    patch: Shape = Field(default=(4, 16, 16), description="Voxels of a token along z, y and x.")
