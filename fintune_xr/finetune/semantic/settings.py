"""What a training of a model of classes depends on besides its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from fintune_xr.finetune.settings import MOST_AT_ONCE, MOST_RATE, AugmentationSettings, FitSettings
from fintune_xr.models.mask2former.settings import Mask2FormerSize
from fintune_xr.models.sam2.settings import Sam2Architecture
from fintune_xr.settings import Settings
from fintune_xr.tasks.class_map import StatedClasses

Positive: TypeAlias = Annotated[float, Field(gt=0)]

# A network of SAM 2's kind under a million parameters, for where there are no weights to begin with.
SMALL_SAM2 = Sam2Architecture(
    width=16, depths=(1, 1, 2, 1), global_blocks=(3,), windows=(8, 4, 8, 4), image_px=256, features=64,
    decoder_width=256, decoder_heads=4,
)  # fmt: skip


class ColourAugmentationSettings(AugmentationSettings):
    """How much patches of stained tissue may differ; gain, offset and noise of single planes are not for colours."""

    rotation: Literal["any", "right_angles", "none"] = Field(
        default="right_angles", description="Angles; all but `any` leave pixels where they are, unless scaled or bent."
    )
    scale: tuple[float, float] = Field(default=(1.0, 1.0), description="Smallest and largest magnification.")
    gain: float = Field(default=0.0, ge=0, le=0, description="Not for colours; see stain_alpha and colour.")
    offset: float = Field(default=0.0, ge=0, le=0, description="Not for colours; see stain_beta and colour.")
    noise: float = Field(default=0.0, ge=0, le=0, description="Not for colours.")
    elastic: float = Field(
        default=30.0, ge=0, description="Height in px of the uniform noise that, smoothed, bends a patch; 0: none."
    )
    elastic_sigma: float = Field(default=4.0, gt=0, description="Smoothing of that noise in px.")
    stain_alpha: float = Field(default=0.3, ge=0, lt=1, description="Stains are multiplied by 1 +- this.")
    stain_beta: float = Field(
        default=0.3, ge=0, description="And shifted by +- this, in natural logarithms of optical density."
    )
    colour: float = Field(default=0.2, ge=0, lt=1, description="Brightness, contrast, saturation: times 1 +- this.")
    blur: tuple[float, float] = Field(default=(0.1, 2.0), description="Smallest and largest sigma of a blur in px.")
    blur_probability: float = Field(default=0.3, ge=0, le=1, description="Part of the patches that is blurred.")


class LossSettings(Settings):
    """How parts of the loss are weighted; IoU and presence are what SAM 2's decoder says of its own masks."""

    mask: float = Field(default=5.0, ge=0, description="Weight of the focal loss.")
    dice: float = Field(default=2.0, ge=0, description="Weight of the Dice loss.")
    iou: float = Field(default=1.0, ge=0, description="Weight of the squared error of the predicted IoU.")
    presence: float = Field(default=1.0, ge=0, description="Weight of the loss of whether an image holds a class.")
    gamma: float = Field(default=2.0, ge=0, description="How little pixels that are right already count.")


class SemanticTrainSettings(FitSettings):
    """Training of any model of classes."""

    classes: StatedClasses = Field(
        default=None, description="Classes and the codes that they are made of; default: those agreed on for the data."
    )
    competition: Literal["softmax", "sigmoid"] = Field(
        default="softmax", description="Whether classes share one probability, or each is asked for by itself."
    )
    class_weights: Literal["auto", "sqrt", "none"] | tuple[Positive, ...] = Field(
        default="sqrt", description="By how much rare classes count more: inverse frequency, its root, none, or a list."
    )
    class_pixels: tuple[int, ...] | None = Field(
        default=None, description="Pixels of each class in the training tiles; counted there unless given."
    )
    loss: LossSettings = LossSettings()
    patch_px: int = Field(default=256, ge=32, multiple_of=32, description="Edge of a training patch.")
    window_px: int = Field(
        default=1024, ge=64, multiple_of=32, description="Edge of the parts in which larger tiles are validated."
    )
    validate_every: int = Field(default=1, ge=1, description="Epochs between validations.")
    augmentation: ColourAugmentationSettings = ColourAugmentationSettings()


# What only SAM 2's decoder gives.
_OF_DECODER: Final = dict.fromkeys(("loss.iou", "loss.presence"), "the network predicts no such thing")


class SemanticUnetTrainSettings(SemanticTrainSettings):
    """Training of the U-Net of classes; defaults suit small tiles and a CPU."""

    def no_part(self) -> Mapping[str, str]:
        """As for any training, and what only SAM 2's decoder gives."""
        return {**super().no_part(), **_OF_DECODER}


class Sam2TrainSettings(SemanticTrainSettings):
    """Fine-tuning of SAM 2 to classes; defaults are those of the third published experiment."""

    head: Literal["prompts", "dense", "both"] = Field(
        default="both", description="Learned prompts for the mask decoder, convolutions of the pyramid, or their sum."
    )
    tokens: int = Field(default=2, ge=1, description="Learned prompts of a class.")
    sam2: Sam2Architecture = Field(
        default=SMALL_SAM2, description="Network of a training without weights to begin with."
    )
    activation_checkpointing: bool = Field(
        default=False, description="Far less memory for a third more computing; the same gradients."
    )
    epochs: int = Field(default=40, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(default=512, ge=0, description="Patches per epoch; 0: one of every tile.")
    patch_px: int = Field(default=1024, ge=32, multiple_of=32, description="Edge of a training patch.")
    batch_size: int = Field(default=6, ge=1, le=MOST_AT_ONCE, description="Patches that the network is shown at once.")
    learning_rate: float = Field(default=8e-5, gt=0, le=MOST_RATE, description="Largest learning rate.")
    final_rate: float = Field(default=0.0125, ge=0, le=1, description="Last learning rate as part of it.")
    weight_decay: float = Field(default=0.02, ge=0, le=MOST_RATE)
    gradient_clip: float = Field(default=0.1, ge=0, description="Largest gradient norm; 0: any.")
    warmup_steps: int | None = Field(default=250, ge=0, description="Steps of the rise; null: by warmup_epochs.")

    def no_part(self) -> Mapping[str, str]:
        """As for any training, the sizes of a U-Net, and what only the prompts have where there are none."""
        bare = "head=dense has no prompts, and does not ask the mask decoder"
        dense = dict.fromkeys(("tokens", *_OF_DECODER), bare) if self.head == "dense" else {}
        return {**super().no_part(), "filters": "write sam2, as far as a network is new", **dense}


class SwinUnetrTrainSettings(SemanticTrainSettings):
    """Training of the U-shaped network with a transformer as encoder."""

    features: int = Field(default=24, ge=4, description="Features of the first level of a new network.")
    heads: tuple[int, int, int, int] = Field(default=(3, 6, 12, 24), description="Attention heads of each level.")
    learning_rate: float = Field(default=1e-3, gt=0, le=MOST_RATE, description="Largest learning rate.")

    def no_part(self) -> Mapping[str, str]:
        """As for any training, the sizes of a U-Net, and what only SAM 2's decoder gives."""
        return {**super().no_part(), "filters": "write features", **_OF_DECODER}


class Mask2FormerTrainSettings(SemanticTrainSettings, Mask2FormerSize):
    """Training of Mask2Former, by its own loss, in which `class_weights` weigh the classes of its queries."""

    learning_rate: float = Field(default=1e-4, gt=0, le=MOST_RATE, description="Largest learning rate.")
    weight_decay: float = Field(default=0.05, ge=0, le=MOST_RATE)
    gradient_clip: float = Field(default=0.01, ge=0, description="Largest gradient norm; 0: any.")

    def no_part(self) -> Mapping[str, str]:
        """As for any training, the sizes of a U-Net, and the losses of this package."""
        its_own = "Mask2Former learns by its own matching loss, weighted as published; class_weights weigh its classes"
        return {**super().no_part(), "filters": "write width and features", "loss": its_own}
