"""Settings of encoders of volumes, free of the libraries that the networks need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field, model_validator

from fintune_xr.errors import SettingsError
from fintune_xr.pixels.normalisations import NORMALISATIONS, ZSCORE
from fintune_xr.settings import Settings

VIT3D: Final = "vit3d"
VJEPA2: Final = "vjepa2"
VOLUME_CLASSIFIER: Final = "volume_classifier"
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


class ClassifierArchitecture(Settings):
    """What must be known to build a classifier of volumes, and to apply it, before its weights can be filled in."""

    channels: tuple[str, ...] = Field(min_length=1, max_length=1, description="Plane of the input.")
    encoder: VolumeArchitecture = Field(description="Sizes of the encoder.")
    epsilon: float | None = Field(default=None, gt=0, description="Of the norm layers; default: as the kind has it.")
    crop_px: int = Field(default=0, ge=0, description="Square that rotary positions are counted in.")
    normalisation: Literal[NORMALISATIONS] = Field(  # type: ignore[valid-type]
        default=ZSCORE, description="Of a volume's values."
    )
    clip_percentile: float | None = Field(default=None, gt=50, lt=100, description="Values above are cut off first.")
    classes: tuple[str, ...] = Field(min_length=2, description="Names of the classes, in the order of the labels.")
    hidden: int = Field(default=0, ge=0, description="Width of the head's hidden layer; 0: a linear head.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the head's inputs that training drops.")


class VolumeClassifierSettings(Settings):
    """How a trained classifier of volumes is applied."""

    volumes_per_batch: int = Field(default=2, ge=1, description="Volumes that the network sees at once.")
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="bfloat16 is faster on GPUs that have it, and slower on most CPUs."
    )


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


class VolumeEncoderSettings(VolumeSettings):
    """How a pretrained encoder of volumes is applied."""

    # What pretraining has seen makes no other embedding of it.
    seen: str = Field(
        default="", exclude=True, description="File with the participants whose images pretraining saw, an id a line."
    )
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


def check_patches(grid: Sequence[int], patch: Sequence[int]) -> None:
    """Raises SettingsError where patches do not divide a grid."""
    if len(grid) != len(patch) or any(length % edge for length, edge in zip(grid, patch, strict=False)):
        raise SettingsError(f"patch: expected divisors of the grid {by_x(grid)}, got {by_x(patch)}")


def by_x(shape: Sequence[int]) -> str:
    """A shape for people: 64 x 384 x 384."""
    return " x ".join(str(length) for length in shape)
