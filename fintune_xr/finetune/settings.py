"""Everything that a training depends on besides its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from fintune_xr.models.channels import ChannelSettings
from fintune_xr.settings import Settings

ALL_BLOCKS: Final = "all"

# A score must rise by this much to count as better.
MIN_GAIN: Final = 0.001

# More than any machine has: a number that was mistyped would take it down before anything is learnt.
MOST_PROCESSES: Final = 1024
_MOST_THREADS: Final = 4096
_MOST_READY: Final = 1024
# No optimiser learns by larger steps, and no memory takes larger batches.
MOST_RATE: Final = 10.0
MOST_AT_ONCE: Final = 65_536


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


class View(Settings):
    """What patches show from an epoch on."""

    from_epoch: int = Field(ge=0, description="First epoch, counted from 0.")
    patch_px: int = Field(ge=32, multiple_of=16, description="Edge of a patch.")
    scale: float = Field(default=1.0, gt=0, description="Magnification, times that of the augmentation.")


class Unfreezing(Settings):
    """What of the encoder learns from an epoch on, and how fast; `blocks` or `stages` says it, without them all."""

    from_epoch: int = Field(ge=0, description="First epoch, counted from 0.")
    blocks: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        default=None, description="First blocks of the encoder that do not learn, or all."
    )
    stages: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None, min_length=1, description="Stages that learn, counted from 1: the last ones."
    )
    encoder_learning_rate: float | None = Field(
        default=None, gt=0, le=MOST_RATE, description="Constant learning rate of the encoder; default: as without this."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.blocks is not None and self.stages is not None:
            raise ValueError("expected blocks or stages, got both")
        return self


class FitSettings(ChannelSettings):
    """How any network is fitted to patches of annotated tiles."""

    epochs: int = Field(default=20, ge=1, description="Passes; the best one is kept.")
    patches_per_epoch: int = Field(
        default=96, ge=0, description="Patches per epoch, in whole steps; 0: one of every tile."
    )
    patch_px: int = Field(default=128, ge=32, multiple_of=16, description="Edge of a training patch.")
    batch_size: int = Field(default=4, ge=1, le=MOST_AT_ONCE, description="Patches that the network is shown at once.")
    accumulate_batches: int = Field(
        default=1, ge=1, le=MOST_AT_ONCE, description="Batches to one step, as if the batch were that much larger."
    )
    learning_rate: float = Field(default=3e-3, gt=0, le=MOST_RATE, description="Largest learning rate.")
    encoder_learning_rate: float | None = Field(
        default=None, gt=0, le=MOST_RATE, description="Largest learning rate of the encoder; default: learning_rate."
    )
    freeze_encoder_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = Field(
        default=0, description="First blocks of the encoder that do not learn, or all."
    )
    unfreeze_at_epoch: int | None = Field(
        default=None, ge=1, description="Epoch, counted from 0, from which frozen blocks learn; default: never."
    )
    unfreezing: tuple[Unfreezing, ...] = Field(
        default=(), description="What of the encoder learns from which epoch on, in more than two steps."
    )
    final_rate: float = Field(default=0.01, ge=0, le=1, description="Last learning rate as part of it.")
    weight_decay: float = Field(default=1e-4, ge=0, le=MOST_RATE)
    warmup_epochs: float = Field(default=1, ge=0, description="Linear rise of the learning rate.")
    warmup_steps: int | None = Field(
        default=None, ge=0, description="Steps of that rise; default: as warmup_epochs says."
    )
    views: tuple[View, ...] = Field(default=(), description="Patches from which epoch on; default: patch_px always.")
    gradient_clip: float = Field(default=0.0, ge=0, description="Largest gradient norm; 0: any.")
    seed: int = Field(default=0, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: int = Field(default=10, ge=1, description="Validations without a better score before stopping.")
    min_gain: float = Field(default=MIN_GAIN, ge=0, description="What a score must rise by to count as better.")
    validate_every: int = Field(default=2, ge=1, description="Epochs between validations.")
    device: str = Field(default="cpu", description="cpu, cuda, cuda:N, tpu or auto.")
    threads: int = Field(default=0, ge=0, le=_MOST_THREADS, description="CPU threads of torch; 0: its own choice.")
    workers: int = Field(default=0, ge=0, le=MOST_PROCESSES, description="Processes that prepare patches.")
    prefetch: int = Field(
        default=2, ge=1, le=_MOST_READY, description="Batches that each of these processes has ready in advance."
    )
    pin_memory: bool = Field(
        default=True, description="Batches for a GPU lie in page-locked memory, from where it fetches them meanwhile."
    )
    filters: tuple[int, ...] = Field(
        default=(16, 32, 64, 128), min_length=3, description="Feature maps per level of a new U-Net."
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    deterministic: bool = Field(
        default=False, description="Only algorithms of torch that give the same each time, where a GPU has others."
    )

    # Where a log goes makes no other training of it.
    wandb: bool = Field(default=False, exclude=True, description="Send the log to Weights & Biases, too.")
    wandb_project: str = Field(default="fintune-xr", exclude=True, description="Project there.")
    wandb_entity: str | None = Field(default=None, exclude=True, description="User or team there; default: its own.")

    @property
    def n_processes(self) -> int:
        """Processes that train together."""
        return 1

    def no_part(self) -> Mapping[str, str]:
        """Whole names of settings that change nothing in a training with these, and what does instead.

        They are refused where they are others than by default; whatever a kind of training adds to this class has its
        part, or is named here.
        """
        steps = {
            "warmup_epochs": f"the rate rises for warmup_steps={self.warmup_steps}; warmup_steps=null counts epochs"
        }
        return {} if self.warmup_steps is None else steps

    @model_validator(mode="after")
    def _plays_a_part(self) -> Self:
        idle, by_default = self.no_part(), dict(_flat(type(self).model_construct()))
        for name, value in _flat(self):
            instead = next((told for one, told in idle.items() if f"{name}.".startswith(f"{one}.")), "")
            if instead and value != by_default[name]:
                raise ValueError(f"{name} plays no part in this training: {instead}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_was_added(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what later releases added where it says nothing, so that digests stay, inside of others too."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key not in _ADDED or getattr(self, key) != _ADDED[key]}

    @model_validator(mode="after")
    def _something_to_unfreeze(self) -> Self:
        if self.unfreeze_at_epoch is not None and self.freeze_encoder_blocks == 0:
            raise ValueError("unfreeze_at_epoch has nothing to unfreeze: freeze_encoder_blocks is 0")
        if self.unfreezing and self.freeze_encoder_blocks != 0:
            raise ValueError("expected unfreezing or freeze_encoder_blocks, got both")
        for name, steps in (("unfreezing", self.unfreezing), ("views", self.views)):
            epochs = [step.from_epoch for step in steps]
            if epochs and (epochs[0] != 0 or any(late <= early for early, late in pairwise(epochs))):
                raise ValueError(f"{name}: expected from_epoch 0 first and then later ones, got {epochs}")
        return self


def _flat(settings: Settings, above: str = "") -> list[tuple[str, Any]]:
    """Whole names and values of all settings, those of records within with dots."""
    found: list[tuple[str, Any]] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        found += _flat(value, f"{above}{name}.") if isinstance(value, Settings) else [(above + name, value)]
    return found


_ADDED: Final[dict[str, Any]] = {
    "unfreezing": (),
    "warmup_steps": None,
    "views": (),
    "min_gain": MIN_GAIN,
    "deterministic": False,
    "prefetch": 2,
    "pin_memory": True,
    "devices": 1,
}
