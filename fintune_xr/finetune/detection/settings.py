"""What a training of a model that finds particles depends on besides its micrographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fintune_xr.finetune.settings import MOST_AT_ONCE, AugmentationSettings, FitSettings


class UnetTrainSettings(FitSettings):
    """Training of a U-Net that finds particles; defaults suit a GPU and micrographs of a few thousand pixels."""

    epochs: int = Field(default=60, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(default=512, ge=0, description="Patches per epoch; 0: one of every tile.")
    patch_px: int = Field(default=256, ge=32, multiple_of=16, description="Edge of a training patch.")
    batch_size: int = Field(default=8, ge=1, le=MOST_AT_ONCE, description="Patches that the network is shown at once.")
    filters: tuple[int, ...] = Field(
        default=(32, 64, 128, 256), min_length=3, description="Feature maps per level of a new U-Net."
    )
    augmentation: AugmentationSettings = AugmentationSettings(rotation="right_angles", scale=(1, 1), noise=0.1)
    diameter_px: float | None = Field(
        default=None, gt=0, description="Particle diameter in stored px; default: median of the annotated ones."
    )
    disc_fraction: float = Field(
        default=0.6, gt=0, le=1, description="Diameter of the discs learnt, as a part of the particle's."
    )
    rim_px: float = Field(default=0, ge=0, description="Ring around the discs that counts as unknown.")
    loss: Literal["combined", "cross_entropy"] = Field(
        default="combined", description="Focal and Dice together, or plain cross entropy."
    )
    focal_weight: float = Field(default=0.7, ge=0, description="Weight of the focal loss.")
    dice_weight: float = Field(default=0.3, ge=0, description="Weight of the Dice loss.")
    focal_alpha: float = Field(default=0.25, gt=0, lt=1, description="Weight of particle pixels; others: 1 minus it.")
    focal_gamma: float = Field(default=2, ge=0, description="How little pixels that are right already count.")
    pos_weight: float = Field(default=1, gt=0, description="Factor of the loss of particle pixels.")
    match_distance: float = Field(
        default=0.5, gt=0, description="Farthest that a pick may lie from its particle, in diameters; validation."
    )

    def no_part(self) -> Mapping[str, str]:
        """As for any training, and the parts of the combined loss where it is not learnt by."""
        parts = ("focal_weight", "dice_weight", "focal_alpha", "focal_gamma")
        told = dict.fromkeys(parts, "loss=cross_entropy has no such part") if self.loss == "cross_entropy" else {}
        return {**super().no_part(), **told}
