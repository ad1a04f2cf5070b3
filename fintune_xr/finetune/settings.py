"""Everything that a training depends on besides its tiles."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from fintune_xr.errors import unknown_name
from fintune_xr.models.cellpose.kind import CPSAM
from fintune_xr.models.channels import ChannelSettings
from fintune_xr.models.flow_unet.kind import FLOW_UNET
from fintune_xr.models.flows.settings import DynamicsSettings
from fintune_xr.models.particle_unet.kind import PARTICLE_UNET
from fintune_xr.models.registry import kind_named
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


class TrainSettings(FitSettings):
    """Training of a flow model; defaults suit the small U-Net trained from nothing."""

    reconstruct_below: float = Field(
        default=0.6, gt=0, description="AP50 is computed once this part of the flows is unexplained, or less."
    )
    min_cells: int = Field(default=1, ge=0, description="Tiles with fewer annotated cells are left out.")
    dynamics: DynamicsSettings = DynamicsSettings()


class CpsamTrainSettings(TrainSettings):
    """Fine-tuning of Cellpose-SAM; learning rate, decay and warm-up are Cellpose's own."""

    epochs: int = Field(default=100, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(default=0, ge=0, description="Patches per epoch; 0: one of every tile.")
    patch_px: int = Field(default=256, ge=256, le=256, description="Edge of a patch; the network takes no other.")
    batch_size: int = Field(default=1, ge=1, description="Patches that the network is shown at once.")
    activation_checkpointing: bool = Field(
        default=False, description="Far less memory for a third more computing; the same gradients."
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="Largest learning rate.")
    weight_decay: float = Field(default=0.1, ge=0)
    warmup_epochs: float = Field(default=10, ge=0, description="Linear rise of the learning rate.")
    validate_every: int = Field(default=5, ge=1, description="Epochs between validations.")


class UnetTrainSettings(FitSettings):
    """Training of a U-Net that finds particles; defaults suit a GPU and micrographs of a few thousand pixels."""

    epochs: int = Field(default=60, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(default=512, ge=0, description="Patches per epoch; 0: one of every tile.")
    patch_px: int = Field(default=256, ge=32, multiple_of=16, description="Edge of a training patch.")
    batch_size: int = Field(default=8, ge=1, description="Patches that the network is shown at once.")
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


def train_settings(kind: str) -> type[FitSettings]:
    """The settings class for training models of this kind.

    Raises UnknownNameError for a kind that cannot be trained.
    """
    kinds: dict[str, type[FitSettings]] = {
        FLOW_UNET.name: TrainSettings,
        CPSAM.name: CpsamTrainSettings,
        PARTICLE_UNET.name: UnetTrainSettings,
    }
    name = kind_named(kind).name
    if name not in kinds:
        raise unknown_name("trainable kind of model", kind, kinds)
    return kinds[name]
