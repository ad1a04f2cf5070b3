"""How a classifier of volumes is fine-tuned; free of the libraries that do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from fintune_xr.finetune.classification.probe_settings import ClassWeights
from fintune_xr.finetune.settings import MOST_AT_ONCE, MOST_PROCESSES, MOST_RATE, FitSettings
from fintune_xr.models.vjepa2.settings import VolumeEncoderSettings
from fintune_xr.settings import Settings


class VolumeAugmentation(Settings):
    """How much training volumes may differ from the scans. Depth into the retina is never mirrored."""

    flip_x: bool = Field(default=False, description="Mirror half of the volumes along x: a left eye for a right.")
    flip_z: bool = Field(default=False, description="Turn the order of the B-scans of half of the volumes.")
    gain: float = Field(default=0.0, ge=0, lt=1, description="Values are multiplied by 1 +- this.")
    gamma: float = Field(default=0.0, ge=0, lt=1, description="Values, from 0 to 1, to the power of 1 +- this.")
    crop: float = Field(default=1.0, gt=0.5, le=1, description="Smallest part of each side that is kept and stretched.")
    noise: float = Field(default=0.0, ge=0, description="Largest sd of added noise, in stored values.")

    @property
    def is_off(self) -> bool:
        """Whether volumes are shown as they are."""
        return self == VolumeAugmentation()


# What only networks that learn from patches are told, and what does the same for volumes.
_OF_PATCHES: Final = {
    "patches_per_epoch": "every train scan is shown once an epoch",
    "patch_px": "volumes are shown whole",
    "views": "volumes are shown whole",
    "filters": "the encoder's own weights say how it is made",
    "augmentation": "write volume_augmentation",
    "encoder.precision": "write precision",
}


class ClassTrainSettings(FitSettings, ClassWeights):
    """How an encoder of volumes and a head are fitted to labels; those of patches are refused, as they play no part."""

    epochs: int = Field(default=60, ge=1, description="Passes over the train scans; the best one is kept.")
    batch_size: int = Field(default=2, ge=1, le=MOST_AT_ONCE, description="Volumes that the network is shown at once.")
    learning_rate: float = Field(default=5e-4, gt=0, le=MOST_RATE, description="Largest learning rate of the head.")
    encoder_learning_rate: float | None = Field(
        default=1e-5, gt=0, le=MOST_RATE, description="Largest learning rate of the encoder."
    )
    freeze_encoder_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default="all",
        description="First blocks of the encoder, its last norm being the last, that do not learn; or all.",
    )
    warmup_epochs: float = Field(default=2, ge=0, description="Linear rise of the learning rate.")
    gradient_clip: float = Field(default=1.0, ge=0, description="Largest gradient norm; 0: any.")
    validate_every: int = Field(default=1, ge=1, description="Epochs between validations.")
    encoder: VolumeEncoderSettings = Field(
        default=VolumeEncoderSettings(), description="How the pretrained encoder is read from its file and applied."
    )
    hidden: int = Field(default=0, ge=0, description="Width of the head's hidden layer; 0: a linear head.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of the head's inputs that training drops.")
    volume_augmentation: VolumeAugmentation = VolumeAugmentation()
    activation_checkpointing: bool = Field(
        default=False, description="Keep less of each block for the backward pass, and compute it once more."
    )
    overfit: int = Field(
        default=0, ge=0, description="So many scans of each class for training and validation alike; 0: all of train."
    )
    fail_above: float | None = Field(
        default=None, gt=0, description="Training loss of the last epoch from which the training counts as failed."
    )
    devices: int = Field(
        default=1,
        ge=1,
        le=MOST_PROCESSES,
        description="Processes of this machine that share each batch, with GPUs one on each.",
    )
    classes: tuple[str, ...] = Field(default=(), description="Names of the classes; told by the labels.")

    @property
    def n_processes(self) -> int:
        """Processes that train together."""
        return self.devices

    def no_part(self) -> Mapping[str, str]:
        """As for any training, and whatever is about patches."""
        return {**super().no_part(), **_OF_PATCHES}

    @model_validator(mode="after")
    def _can_be_shared(self) -> Self:
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size counts the volumes of all devices: expected a multiple of devices={self.devices}, "
                f"got {self.batch_size}"
            )
        if self.devices > 1 and self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"devices={self.devices} are the first GPUs, or processes of the CPU: expected device auto, cuda or "
                f"cpu, got {self.device}. On TPUs only one process was ever thought of."
            )
        return self
