"""Small stores of volumes with labels and a split, made without raw files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.seeds import stream
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.split import split_column
from fintune_xr.store.zarr_io import appendable, shards
from fintune_xr.tasks.classification import LABELS

GRID = (8, 16, 16)
CLASSES = ("healthy", "pre_diabetes", "oral_medication", "insulin_dependent")
DEVICES = ("maestro", "spectralis")
# Participants of a class in train, val and test.
LETTERS = {n.TRAIN: "r", n.VAL: "v", n.TEST: "t"}
COUNTS = {n.TRAIN: 8, n.VAL: 4, n.TEST: 5}


def participants(counts: dict[str, int] = COUNTS, classes: Sequence[str] = CLASSES) -> dict[str, tuple[int, str]]:
    """Label and part of each participant, by id: the letter of the part, the label, a number."""
    found = {}
    for part, number in counts.items():
        for label in range(len(classes)):
            for one in range(number):
                found[f"{LETTERS[part]}{label}{one:02d}"] = (label, part)
    return found


def volume(tile: str, label: int, grid: tuple[int, int, int] = GRID) -> NDArray[np.uint8]:
    """Values (1, z, y, x): a layer whose depth goes with the class, under noise that depends on the id."""
    rng = stream(3, tile)
    values = rng.normal(90, 18, (1, *grid))
    depth = int(rng.integers(1, 3)) + 3 * label
    values[:, :, depth : depth + 3] += 60
    return values.clip(0, 255).astype(np.uint8)


def make_volumes(where: Path, people: dict[str, tuple[int, str]], *, scans: int = 2, constant: str = "") -> Cohort:
    """A cohort with `scans` scans of each participant, sides in turn, labelled and split as `people` says.

    The scan `constant` holds one value alone.
    """
    cohort = create_cohort(where, kind="oct", channels=["oct"], tile_shape=GRID, dtype="uint8", title="Small")
    target = cohort.images_group()
    tiles = [f"{who}/{scan}" for who in people for scan in range(scans)]

    def items() -> Any:
        for at, tile in enumerate(tiles):
            who = tile.partition("/")[0]
            pixels = np.full((1, *GRID), 7, np.uint8) if tile == constant else volume(tile, people[who][0])
            labels = {
                n.TILE: tile, n.DONOR: who, n.MARKER: DEVICES[at // 2 % 2], n.SPLIT: "", n.HEIGHT: GRID[1],
                n.WIDTH: GRID[2], n.DEPTH: GRID[0], n.SOURCE: [f"{tile}.npy"], n.SHA256: [f"{at:064x}"],
                n.LATERALITY: "RL"[at % 2], n.PIXELS_SHA256: pixels_sha256(pixels),
            }  # fmt: skip
            yield (
                {key: labels.get(key, _unknown(target, key)) for key in target.labels},
                shards.encode_tile(pixels, target.grid),
            )

    for _ in appendable.append(target, items()):
        pass
    write_labels(cohort, {tile: people[tile.partition("/")[0]][0] for tile in tiles})
    write_split(cohort, {tile: people[tile.partition("/")[0]][1] for tile in tiles})
    return cohort


def _unknown(target: appendable.Growing, key: str) -> Any:
    return "" if target.labels[key].dtype == "str" else 0


def write_labels(cohort: Cohort, labels: dict[str, int], classes: Sequence[str] = CLASSES) -> None:
    """Stores the class of each tile."""
    attrs = {"flag_values": list(range(len(classes))), "flag_meanings": " ".join(classes)}
    values = np.array(list(labels.values()), np.int8)
    dataset = xr.Dataset({n.LABEL: (n.TILE, values, attrs)}, {n.TILE: list(labels)})
    cohort.write(n.ANNOTATIONS, dataset, LABELS)


def write_split(cohort: Cohort, parts: dict[str, str]) -> None:
    """Stores the part of each tile as a split that was checked."""
    column = split_column(cohort)
    column[:] = np.array(list(parts.values()), np.dtypes.StringDType())
    column.attrs[n.DIGEST] = split_digest({tile: part for tile, part in parts.items() if part})
