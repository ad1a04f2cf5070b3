"""Everything that a training depends on besides its tiles."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from fintune_xr.models.channels import ChannelSettings
from fintune_xr.settings import Settings

ALL_BLOCKS: Final = "all"


class AugmentationSettings(Settings):
    """How much training patches may differ from the tiles that they are cut from."""

    rotation: Literal["any", "right_angles", "none"] = Field(
        default="any", description="Angles; all but `any` leave pixels where they are, unless scaled."
    )
    flip: bool = Field(default=True, description="Mirror half of the patches.")
    scale: tuple[float, float] = Field(default=(0.8, 1.25), description="Smallest and largest magnification.")
    gain: float = Field(default=0.2, ge=0, lt=1, description="Each plane is multiplied by 1 +- this.")
    offset: float = Field(default=0.05, ge=0, description="Each plane is shifted by +- this.")
    noise: float = Field(default=0.0, ge=0, description="Largest standard deviation of added noise.")


class FitSettings(ChannelSettings):
    """How any network is fitted to patches of annotated tiles."""

    epochs: int = Field(default=20, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(default=96, ge=0, description="Patches per epoch; 0: one of every tile.")
    patch_px: int = Field(default=128, ge=32, multiple_of=16, description="Edge of a training patch.")
    batch_size: int = Field(default=4, ge=1, description="Patches that the network is shown at once.")
    accumulate_batches: int = Field(
        default=1, ge=1, description="Batches to one step: as if the batch were so many times as large."
    )
    learning_rate: float = Field(default=3e-3, gt=0, description="Largest learning rate.")
    encoder_learning_rate: float | None = Field(
        default=None, gt=0, description="Largest learning rate of the encoder; default: learning_rate."
    )
    freeze_encoder_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0, description="First blocks of the encoder that do not learn, or all."
    )
    unfreeze_at_epoch: int | None = Field(
        default=None, ge=1, description="Epoch, counted from 0, from which frozen blocks learn; default: never."
    )
    final_rate: float = Field(default=0.01, ge=0, le=1, description="Last learning rate as part of it.")
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_epochs: float = Field(default=1, ge=0, description="Linear rise of the learning rate.")
    gradient_clip: float = Field(default=0.0, ge=0, description="Largest gradient norm; 0: any.")
    seed: int = Field(default=0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: int = Field(default=10, ge=1, description="Validations without a better score before stopping.")
    validate_every: int = Field(default=2, ge=1, description="Epochs between validations.")
    device: str = Field(default="cpu", description="cpu, cuda, cuda:N or auto.")
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0: its own choice.")
    workers: int = Field(default=0, ge=0, description="Processes that prepare patches.")
    filters: tuple[int, ...] = Field(
        default=(16, 32, 64, 128), min_length=3, description="Feature maps per level of a new U-Net."
    )
    augmentation: AugmentationSettings = AugmentationSettings()

    @model_validator(mode="after")
    def _something_to_unfreeze(self) -> Self:
        if self.unfreeze_at_epoch is not None and self.freeze_encoder_blocks == 0:
            raise ValueError("unfreeze_at_epoch has nothing to unfreeze: freeze_encoder_blocks is 0")
        return self
