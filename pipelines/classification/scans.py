"""Scans that have a class, with what a run stores of each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.errors import FintuneValueError, SplitError
from fintune_xr.finetune.classification.features import Labelled
from fintune_xr.store.cohort import Cohort
from fintune_xr.store.lineage.labelled_classes import labelled_classes, require_labelled_classes
from fintune_xr.store.runs.columns import stored_columns
from fintune_xr.store.runs.run import finish_command, require_once
from fintune_xr.store.split import ALL, annotated_tiles
from fintune_xr.tasks.product import SCORES
from fintune_xr.text import text_array, texts


@dataclass(frozen=True, slots=True, eq=False)
class Scans:
    """Scans with a class: ids `tile`, `label` from 0, and what they are of, each (scan,); names of the `classes`."""

    tile: NDArray[Any]
    label: NDArray[np.int64]
    participant: NDArray[Any]
    device: NDArray[Any]
    laterality: NDArray[Any]
    part: NDArray[Any]
    classes: tuple[str, ...]

    def only(self, chosen: NDArray[Any]) -> Scans:
        """The scans at `chosen`, which is numbers or booleans."""
        return Scans(
            self.tile[chosen], self.label[chosen], self.participant[chosen], self.device[chosen],
            self.laterality[chosen], self.part[chosen], self.classes,
        )  # fmt: skip

    def within(self, *parts: str) -> Scans:
        """The scans of these parts of the split; of `all` parts, and none, where that is named."""
        return self.only(np.isin(self.part, parts) | (ALL in parts))

    @property
    def eye(self) -> NDArray[Any]:
        """Participant and side of each scan; scans of an eye whose side is not known count as one."""
        return np.array([f"{who} {side}".strip() for who, side in zip(self.participant, self.laterality, strict=True)])

    def with_values(self, value: NDArray[Any]) -> Labelled:
        """The same as a head is fitted to."""
        return Labelled(value, self.label, self.participant, self.classes)


def labelled_scans(cohort: Cohort, *parts: str) -> Scans:
    """Scans with a class in these parts of the split; of `all` parts, and none, where that is named.

    Raises SplitError where there is none.
    """
    labels = cohort.annotations(lazy=False)[n.LABEL]
    classes = labelled_classes(cohort)
    images = annotated_tiles(cohort)
    tiles = text_array(images[n.TILE])
    of_tile = dict(zip(text_array(labels[n.TILE]).tolist(), labels.values.tolist(), strict=True))
    label = np.array([of_tile[tile] for tile in tiles.tolist()], np.int64)
    part = text_array(images[n.SPLIT])
    side = text_array(images[n.LATERALITY]) if n.LATERALITY in images else np.full(tiles.shape, "")
    whole = Scans(tiles, label, text_array(images[n.DONOR]), text_array(images[n.MARKER]), side, part, classes)
    return require_scans(cohort, whole.only(label >= 0).within(*parts), *parts)


def require_scans(cohort: Cohort, scans: Scans, *parts: str) -> Scans:
    """`scans`, which are those of these parts of the split. Raises SplitError where there is none."""
    if not scans.tile.size:
        raise SplitError(f"{cohort.url}: no scan with a class in part {' or '.join(parts)}")
    return scans


def with_vectors(cohort: Cohort, run: str, column: str, scans: Scans) -> tuple[Scans, NDArray[np.float32]]:
    """Those of `scans` that are done in `run`, and their row of its `column` (scan, …).

    Raises FintuneValueError where the run stores no such column, has not come to an end on these scans, or has logits
    of other classes than the participants.
    """
    require_column(cohort, run, column)
    stored = cohort.run(run, lazy=False)
    if column == n.LOGITS and n.CLASS in stored:
        require_labelled_classes(cohort, texts(stored[n.CLASS]), of=f"run {run!r}")
    at = {tile: row for row, tile in enumerate(text_array(stored[n.TILE]).tolist())}
    unknown = [tile for tile in scans.tile.tolist() if tile not in at]
    rows = np.array([at[tile] for tile in scans.tile.tolist() if tile in at], np.int64)
    states = stored[n.STATE].values[rows]
    if unknown or (states == n.PENDING).any():
        raise FintuneValueError(
            f"run {run!r} is not done on {len(unknown) + int((states == n.PENDING).sum())} of {len(scans.tile)} scans. "
            f"Finish it: {finish_command(cohort, run)}"
        )
    done = states == n.DONE
    return scans.only(done), np.asarray(stored[column].values[rows[done]], np.float32)


def has_column(cohort: Cohort, run: str, column: str) -> bool:
    """Whether a run stores this column of each tile."""
    product = cohort.run_product(run)
    return product is SCORES and column in stored_columns(cohort.location, f"{n.RUNS}/{run}", product)


def require_column(cohort: Cohort, run: str, column: str) -> None:
    """Raises UnknownNameError for a run that is not there, FintuneValueError for one without the column."""
    cohort.require_run(run)
    if not has_column(cohort, run, column):
        known = ", ".join(name for name in cohort.run_names() if has_column(cohort, name, column)) or "none yet"
        raise FintuneValueError(
            f"run {run!r} of {cohort.url} stores no {column}; runs that do: {known}. Embeddings are made by "
            "fintune-xr infer --model with an encoder, logits by fintune-xr probe or a fine-tuned classifier."
        )


def runs_with(cohort: Cohort, column: str, named: Sequence[str] = ()) -> list[str]:
    """The runs that are `named`, or else all that store this column.

    Raises FintuneValueError where there is none, and as `require_column`.
    """
    require_once(named)
    for run in named:
        require_column(cohort, run, column)
    runs = list(named) or [run for run in cohort.run_names() if has_column(cohort, run, column)]
    if not runs:
        raise FintuneValueError(
            f"{cohort.url} has no run with {column}. Embeddings are made by fintune-xr infer --model with an encoder, "
            "logits by fintune-xr probe or a fine-tuned classifier."
        )
    return runs


def parts_of(scans: Scans) -> xr.Dataset:
    """Participants and scans (class, part)."""
    parts = [part for part in n.SPLITS if part in set(scans.part.tolist())]
    table = {n.N_UNITS: np.zeros((len(scans.classes), len(parts)), np.int64)}
    table[n.N_TILES] = table[n.N_UNITS].copy()
    for column, part in enumerate(parts):
        one = scans.within(part)
        for label in range(len(scans.classes)):
            mine = one.label == label
            table[n.N_UNITS][label, column] = len(set(one.participant[mine].tolist()))
            table[n.N_TILES][label, column] = int(mine.sum())
    coords = {n.CLASS: list(scans.classes), n.PART: parts}
    return xr.Dataset({name: ((n.CLASS, n.PART), values) for name, values in table.items()}, coords)
