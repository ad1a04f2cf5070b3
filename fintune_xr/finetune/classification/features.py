"""Scans by their features, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr.errors import FintuneValueError
from fintune_xr.finetune.classification.probe_settings import AUTO, NONE
from fintune_xr.metrics.classification import kernels
from fintune_xr.metrics.classification.units import by_unit, most_probable
from fintune_xr.seeds import stream
from fintune_xr.text import with_numbers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Scans of participants: `value` (scan, …), class `label` (scan,) from 0, `participant` (scan,) names; names of the
    `classes`, where they are told, for errors."""

    value: NDArray[Any]
    label: Ints
    participant: NDArray[Any]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = (len(self.value), len(self.label), len(self.participant))
        if len(set(lengths)) != 1 or not np.isfinite(self.value).all():
            raise FintuneValueError(
                f"scans do not fit together: expected finite values, labels and participants, got {lengths} of them"
            )

    def __len__(self) -> int:
        return len(self.label)

    def only(self, index: NDArray[Any]) -> Labelled:
        """The scans at `index`, which is numbers or booleans."""
        return Labelled(self.value[index], self.label[index], self.participant[index], self.classes)


def named_class(label: int, classes: Sequence[str] = ()) -> str:
    """A class for people: its number, and its name where `classes` tell it."""
    return f"{label} {classes[label]}" if classes else str(label)


def require_every_class(label: Ints, n_classes: int, classes: Sequence[str] = (), *, where: str = "train") -> None:
    """Raises FintuneValueError that names the classes without a scan."""
    missing = [named_class(one, classes) for one in range(n_classes) if one not in set(label.tolist())]
    if missing:
        raise FintuneValueError(
            f"{where} holds no scan of class {', '.join(missing)}: a head cannot learn what it never sees. Ingest more "
            "participants, or take a class map without it."
        )


def scan_weights(
    label: Ints, participant: NDArray[Any], n_classes: int, class_weights: str | tuple[float, ...] = AUTO, *,
    classes: Sequence[str] = (),
) -> Floats:  # fmt: skip
    """Weight of each scan (scan,), mean 1: c_k n / (P m_i), with n scans, P participants and m_i scans of its own.

    `auto`: c_k = P / (K P_k) with P_k participants of class k, so that classes count alike, and so do the
    participants of a class. `none`: c_k = 1, so that participants do. Numbers are taken as c_k, up to a factor.

    Raises FintuneValueError for a class without scans, or another number of weights than classes.
    """
    require_every_class(label, n_classes, classes)
    check_class_weights(class_weights, n_classes, classes)
    names, first, of_scan, n_own = np.unique(participant, return_index=True, return_inverse=True, return_counts=True)
    n_of_class = np.bincount(label[first], minlength=n_classes)
    if class_weights == AUTO:
        of_class = names.size / (n_classes * n_of_class)
    elif class_weights == NONE:
        of_class = np.ones(n_classes)
    else:
        of_class = np.asarray(class_weights, np.float64)
    weights = of_class[label] / n_own[of_scan]
    return np.asarray(weights / weights.mean())


def check_class_weights(class_weights: str | tuple[float, ...], n_classes: int, classes: Sequence[str] = ()) -> None:
    """Raises FintuneValueError for another number of weights than classes."""
    if not isinstance(class_weights, str) and len(class_weights) != n_classes:
        of = f", of {with_numbers(classes)}" if classes else ""
        raise FintuneValueError(f"class_weights: expected {n_classes} numbers{of}, got {len(class_weights)}")


def first_scans(participant: NDArray[Any], tile: NDArray[Any]) -> NDArray[np.bool_]:
    """Which scans are the first of their participant by the name of the tile."""
    order = np.lexsort((tile, participant))
    _, first = np.unique(participant[order], return_index=True)
    is_first = np.zeros(participant.size, np.bool_)
    is_first[order[first]] = True
    return is_first


def folds_of(
    label: Ints, participant: NDArray[Any], n_folds: int, seed: int, classes: Sequence[str] = ()
) -> Ints:  # fmt: skip
    """Fold of each scan (scan,): participants stay whole, and of each class every fold gets as many, give or take one.

    Raises FintuneValueError where a class has fewer participants than there are folds.
    """
    names, first, of_scan = np.unique(participant, return_index=True, return_inverse=True)
    of_name = label[first]
    fold, dealt = np.zeros(names.size, np.int64), 0
    for one in np.unique(of_name):
        members = stream(seed, "folds", int(one)).permutation(np.flatnonzero(of_name == one))
        if members.size < n_folds:
            raise FintuneValueError(
                f"{n_folds} folds: class {named_class(int(one), classes)} has {members.size} participant(s), and each "
                "fold needs one. Take fewer."
            )
        fold[members] = (dealt + np.arange(members.size)) % n_folds
        dealt += members.size
    return np.asarray(fold[of_scan], np.int64)


def participants_balanced_accuracy(logits: NDArray[Any], scans: Labelled) -> float:
    """Balanced accuracy of the participants of `scans`, over the classes that they have, of `logits` (scan, class)."""
    units, probability = by_unit(logits, scans.label, scans.participant)
    counts = kernels.confusion(units.truth, most_probable(probability), probability.shape[-1])
    return float(kernels.balanced_accuracy(counts))
