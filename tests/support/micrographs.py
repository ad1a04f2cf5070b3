"""Small cohorts of micrographs with dark discs for particles, made without raw files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.pixel_digest import pixels_sha256
from fintune_xr.seeds import stream
from fintune_xr.splits.assignment import split_digest
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.store.zarr_io.groups import open_column
from fintune_xr.tasks.detection import POINTS, Points, points_table

DIAMETER_PX = 12.0
PARTS = (n.TRAIN, n.TRAIN, n.TRAIN, n.VAL, n.TEST, "")


def particles(name: str, px: int) -> Points:
    """Centres at least a diameter apart, made from the name."""
    rng = stream(3, name)
    kept: list[NDArray[np.float64]] = []
    for centre in rng.uniform(6, px - 6, (200, 2)):
        if all(np.hypot(*(centre - other)) > 1.2 * DIAMETER_PX for other in kept):
            kept.append(centre)
    chosen = np.array(kept[: px * px // 700])
    return Points(chosen, np.full(len(chosen), DIAMETER_PX))


def micrograph(name: str, px: int, *, contrast: float = 30.0) -> NDArray[np.float32]:
    """Pixels (channel, y, x): dark discs of 12 px on noise."""
    image = stream(4, name).normal(140, 15, (px, px))
    y, x = np.mgrid[:px, :px]
    for cy, cx in particles(name, px).yx:
        image[(y - cy) ** 2 + (x - cx) ** 2 <= (DIAMETER_PX / 2) ** 2] -= contrast
    return image[np.newaxis].astype(np.float32)


def make_micrographs(
    where: Path, *, parts: Sequence[str] = PARTS, px: int = 96, contrast: float = 30.0, donors: Sequence[str] = ()
) -> Cohort:
    """A cohort with a micrograph for each of `parts` of the split; those without a part are not annotated.

    `donors` are the data sets that they take turns to belong to, by default one.
    """
    cohort = create_cohort(where, kind="em", channels=("micrograph",), tile_shape=(px, px), dtype="float32")
    donors = donors or ("grid",)
    names = [f"{donors[i % len(donors)]}/m{i}" for i in range(len(parts))]
    target = cohort.images_group()

    def items() -> list[tuple[growing.Labels, shards.Encoded]]:
        made = []
        for name in names:
            pixels = micrograph(name, px, contrast=contrast)
            labels = {
                n.TILE: name, n.DONOR: name.partition("/")[0], n.MARKER: "", n.SPLIT: "", n.HEIGHT: px, n.WIDTH: px,
                n.SOURCE: [f"{name}.mrc"], n.SHA256: [hashlib.sha256(pixels.tobytes()).hexdigest()],
                n.SOURCE_HEIGHT: px, n.SOURCE_WIDTH: px, n.PIXELS_SHA256: pixels_sha256(pixels),
            }  # fmt: skip
            made.append((labels, shards.encode_tile(pixels, target.grid)))
        return made

    for _ in growing.append(target, items()):
        pass
    known = {name: particles(name, px) for name, part in zip(names, parts, strict=True) if part}
    table = points_table(known, source=dict.fromkeys(known, "a.csv"), sha256=dict.fromkeys(known, "0"))
    cohort.write(n.ANNOTATIONS, table, POINTS)
    column = open_column(cohort.location, f"{n.IMAGES}/{n.SPLIT}")
    column[:] = np.array(list(parts), np.dtypes.StringDType())
    column.attrs["by"] = n.TILE
    column.attrs["digest"] = split_digest({name: part for name, part in zip(names, parts, strict=True) if part})
    return cohort
