"""Heads on stored features: chosen inside train, fitted to all of it, and applied as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fintune_xr.finetune.classification.features import (
    Floats,
    Labelled,
    folds_of,
    participants_balanced_accuracy,
    scan_weights,
)
from fintune_xr.finetune.classification.probe_settings import KNN, LINEAR, LOGISTIC, MLP, ProbeSettings

# Share that is added to what neighbours vote, so that a class without a vote is improbable and not impossible.
_SMALLEST_VOTE: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A fitted head: what was `chosen` inside train, and `arrays` that tell everything.

    `mean` and `sd` (feature,) standardise first. `linear` has `weight` (class, feature) and `bias` (class,); an MLP
    also `hidden_weight` and `hidden_bias`; neighbours have `neighbours` (scan, feature) and their `votes`
    (scan, class).
    """

    name: str
    chosen: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def logits(self, value: NDArray[Any]) -> Floats:
        """Logits (scan, class) of features (scan, feature)."""
        arrays = self.arrays
        x = standardise(value, arrays["mean"], arrays["sd"])
        if self.name == KNN:
            return _votes(x, arrays["neighbours"], arrays["votes"], int(self.chosen["k"]))
        if self.name == MLP:
            x = np.maximum(x @ arrays["hidden_weight"].T + arrays["hidden_bias"], 0)
        return np.asarray(x @ arrays["weight"].T + arrays["bias"])


class Fit(Protocol):
    """Fits one head with one choice to standardised scans; `val`, standardised too, may end it early."""

    def __call__(
        self, train: Labelled, weights: Floats, val: Labelled | None, choice: Any, settings: ProbeSettings,
        n_classes: int,
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:  # fmt: skip
        """Arrays of the head, and what else is known of its fit."""
        ...


def fit_head(
    name: str, train: Labelled, val: Labelled | None, settings: ProbeSettings, *, n_classes: int
) -> Head:  # fmt: skip
    """A head fitted to `train`; `val` only says when `linear` and `mlp` have learnt enough, and nothing to others.

    What is to be chosen (c, k or weight_decay) is chosen by folds inside `train`: the highest mean balanced accuracy
    of held-out participants, of equals the stronger penalty.

    Raises FintuneValueError for a class that train lacks or that has fewer participants than there are folds.
    """
    choice, tried = _chosen(name, train, settings, n_classes)
    arrays, facts = _fitted(name, train, val, choice, settings, n_classes)
    key = _CHOICES[name]
    return Head(name, {key: choice, "tried": tried, **facts}, arrays)


def standardise(value: NDArray[Any], mean: Floats, sd: Floats) -> Floats:
    """(value - mean) / sd in float64."""
    return np.asarray((np.asarray(value, np.float64) - mean) / sd)


def standardisation(value: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean and standard deviation (feature,) of features (scan, feature); 1 for a feature that is constant."""
    values = np.asarray(value, np.float64)
    sd = values.std(0)
    return values.mean(0), np.where(sd > 0, sd, 1.0)


def _held_out_score(
    name: str, learnt: Labelled, held_out: Labelled, choice: Any, settings: ProbeSettings, n_classes: int
) -> float:
    """Balanced accuracy of a head with this choice, fitted to `learnt`, on `held_out`."""
    arrays, _ = _fitted(name, learnt, None, choice, settings, n_classes)
    logits = Head(name, {_CHOICES[name]: choice}, arrays).logits(held_out.value)
    return participants_balanced_accuracy(logits, held_out)


def _chosen(name: str, train: Labelled, settings: ProbeSettings, n_classes: int) -> tuple[Any, dict[str, float]]:
    """The best of the choices, and the mean score of each; the only one where there is one."""
    options = _ordered(name, settings)
    if len(options) == 1:
        return options[0], {}
    fold = folds_of(train.label, train.participant, settings.inner_folds, settings.seed, train.classes)
    scores = []
    for choice in options:
        splits = ((train.only(fold != one), train.only(fold == one)) for one in range(settings.inner_folds))
        of_folds = [_held_out_score(name, *split, choice, settings, n_classes) for split in splits]
        scores.append(float(np.mean(of_folds)))
    # The first of equals, and options come with the strongest penalty first.
    return options[int(np.argmax(scores))], {f"{one:g}": score for one, score in zip(options, scores, strict=True)}


def _ordered(name: str, settings: ProbeSettings) -> Sequence[Any]:
    if name == LOGISTIC:
        return sorted(settings.c)
    return sorted(settings.k if name == KNN else settings.weight_decay, reverse=True)


def _fitted(
    name: str, train: Labelled, val: Labelled | None, choice: Any, settings: ProbeSettings, n_classes: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    weights = scan_weights(
        train.label, train.participant, n_classes, settings.class_weights, classes=train.classes
    )  # fmt: skip
    mean, sd = standardisation(train.value)

    def scaled(scans: Labelled) -> Labelled:
        return Labelled(standardise(scans.value, mean, sd), scans.label, scans.participant, scans.classes)

    fit = _fit_of(name)
    arrays, facts = fit(scaled(train), weights, None if val is None else scaled(val), choice, settings, n_classes)
    return {"mean": mean, "sd": sd, **arrays}, facts


def _fit_of(name: str) -> Fit:
    """The function that fits; its library is imported here."""
    if name == LOGISTIC:
        from fintune_xr.finetune.classification.logistic import fit_logistic

        return fit_logistic
    if name == KNN:
        return _fit_knn
    from fintune_xr.finetune.classification.gradient import fit_linear, fit_mlp

    return fit_linear if name == LINEAR else fit_mlp


def _fit_knn(
    train: Labelled, weights: Floats, val: Labelled | None, choice: Any, settings: ProbeSettings, n_classes: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:  # fmt: skip
    del weights, val, choice, settings
    return {"neighbours": np.asarray(train.value), "votes": np.eye(n_classes)[train.label]}, {}


def _votes(x: Floats, neighbours: Floats, votes: Floats, k: int) -> Floats:
    """log of the shares of the k nearest, each weighed by 1 / distance; those at distance 0 alone, where there are."""
    k = min(k, len(neighbours))
    distance = np.sqrt(np.maximum((x**2).sum(1)[:, None] + (neighbours**2).sum(1) - 2 * x @ neighbours.T, 0))
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(distance, nearest, 1)
    # The square root of a rounding error of float64 is what no distance is told from.
    is_same = near <= 1e-7 * np.sqrt(x.shape[1])
    weight = np.where(is_same.any(1, keepdims=True), is_same, 1 / np.where(is_same, 1, near))
    share = (weight[..., None] * votes[nearest]).sum(1) / weight.sum(1, keepdims=True)
    return np.asarray(np.log(share + _SMALLEST_VOTE))


_CHOICES: Final = {LOGISTIC: "c", LINEAR: "weight_decay", MLP: "weight_decay", KNN: "k"}
