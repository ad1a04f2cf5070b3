"""What a training of a model that finds instances depends on besides its tiles."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from fintune_xr.finetune.settings import MOST_AT_ONCE, MOST_RATE, FitSettings
from fintune_xr.models.flows.settings import DynamicsSettings


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
    batch_size: int = Field(default=1, ge=1, le=MOST_AT_ONCE, description="Patches that the network is shown at once.")
    activation_checkpointing: bool = Field(
        default=False, description="Far less memory for a third more computing; the same gradients."
    )
    learning_rate: float = Field(default=1e-5, gt=0, le=MOST_RATE, description="Largest learning rate.")
    weight_decay: float = Field(default=0.1, ge=0, le=MOST_RATE)
    warmup_epochs: float = Field(default=10, ge=0, description="Linear rise of the learning rate.")
    validate_every: int = Field(default=5, ge=1, description="Epochs between validations.")

    def no_part(self) -> Mapping[str, str]:
        """As for any training, and the sizes of a U-Net."""
        return {**super().no_part(), "filters": "Cellpose-SAM is as large as its weights"}
