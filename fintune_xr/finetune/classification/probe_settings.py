"""How heads are fitted to stored features; free of the libraries that fit them."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from fintune_xr.settings import Settings, require_each_once

LOGISTIC: Final = "logistic"
LINEAR: Final = "linear"
MLP: Final = "mlp"
KNN: Final = "knn"
HeadName = Literal["logistic", "linear", "mlp", "knn"]
AUTO: Final = "auto"
NONE: Final = "none"


class ClassWeights(Settings):
    """How much classes and scans count in a loss."""

    class_weights: Literal["auto", "none"] | tuple[float, ...] = Field(
        default=AUTO, description="Weight of each class: auto counts classes alike, none participants; or numbers."
    )
    scans: Literal["all", "first"] = Field(
        default="all", description="Scans of a participant that count: all of them, or the first by name."
    )

    @field_validator("class_weights")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, tuple) and not all(one > 0 for one in value):
            raise ValueError(f"expected numbers above 0, got {value}")
        return value


class ProbeSettings(ClassWeights):
    """Which heads are fitted to the features of train, and how."""

    head: tuple[HeadName, ...] = Field(default=(LOGISTIC,), min_length=1, description="Heads; each becomes a run.")
    c: tuple[float, ...] = Field(
        default=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), min_length=1, description="Inverse penalties of `logistic`."
    )
    k: tuple[int, ...] = Field(default=(3, 7, 15), min_length=1, description="Neighbours of `knn`.")
    weight_decay: tuple[float, ...] = Field(
        default=(1e-4,), min_length=1, description="Decays of `linear` and `mlp`; several are chosen from by folds."
    )
    inner_folds: int = Field(default=5, ge=2, description="Folds of train that choose c, k and weight_decay.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Highest rate of `linear` and `mlp`.")
    epochs: int = Field(default=50, ge=1, description="Most epochs of `linear` and `mlp`.")
    warmup_epochs: float = Field(default=2, ge=0, description="Epochs over which the rate rises.")
    batch_size: int = Field(default=32, ge=1, description="Scans of a step.")
    patience: int = Field(default=10, ge=1, description="Epochs without gain on val before `linear` and `mlp` stop.")
    min_gain: float = Field(default=1e-3, ge=0, description="Least gain of balanced accuracy that counts as one.")
    hidden: int = Field(default=256, ge=1, description="Width of the hidden layer of `mlp`.")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="Share of the hidden layer that `mlp` drops.")
    folds: int = Field(default=0, ge=0, description="Folds over train and val together, beside the fit; 0: none.")
    seed: int = Field(default=0, ge=0, description="Seed of everything that is drawn.")

    @model_validator(mode="after")
    def _make_sense(self) -> ProbeSettings:
        require_each_once(self, "head", "c", "k", "weight_decay")
        for name in ("c", "k"):
            if not all(one > 0 for one in getattr(self, name)):
                raise ValueError(f"{name}: expected numbers above 0, got {getattr(self, name)}")
        if any(one < 0 for one in self.weight_decay):
            raise ValueError(f"weight_decay: expected numbers from 0, got {self.weight_decay}")
        if self.folds == 1:
            raise ValueError("folds: expected 0, or 2 and more, got 1")
        return self
