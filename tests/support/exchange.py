"""A small store with a run, annotations, a tile of another size and one that is lost, as other tools are given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fintune_xr import names as n
from fintune_xr.pixels.cell_measurement import measure_cells
from fintune_xr.seeds import stream
from fintune_xr.store.cohort import Cohort, create_cohort
from fintune_xr.store.ingest.viewer_metadata import describe_images
from fintune_xr.store.runs.run import run_creation, run_grid
from fintune_xr.store.runs.run_shard import write_run_shard
from fintune_xr.store.runs.writer import writing_run
from fintune_xr.store.zarr_io import appendable as growing
from fintune_xr.store.zarr_io import shards
from fintune_xr.tasks.records import ShardReceipt, TileResult

TILES = ("d1/GFAP/t1", "d1/GFAP/t 2", "d2/IBA1/t1", "d2/IBA1/t4")
SIZES = ((61, 75), (64, 80), (64, 80), (64, 80))
LOST = 3
RUN = "base"


def cells(name: str, size: tuple[int, int]) -> NDArray[np.uint32]:
    """Discs that touch and overlap each other, with gaps in their labels; made from the name."""
    rng = stream(11, name)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, np.uint32)
    for label in (1, 2, 5, 6, 9, 40):
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        mask[(y - cy) ** 2 + (x - cx) ** 2 <= rng.uniform(20, 90)] = label
    return mask


MASKS = tuple(cells(tile, size) for tile, size in zip(TILES, SIZES, strict=True))
TRUTH = {tile: cells(f"truth of {tile}", size) for tile, size in list(zip(TILES, SIZES, strict=True))[:2]}
IMAGES = tuple(
    (stream(3, tile).normal(100, 5, (2, *size)) + 400 * (mask > 0)).astype(np.uint16)
    for tile, size, mask in zip(TILES, SIZES, MASKS, strict=True)
)


def exchange_store(where: Path) -> Cohort:
    """The store, with the run `base`, of which the last tile is lost, and annotations of the first two tiles."""
    cohort = create_cohort(where, kind="if", channels=["DAPI", "marker"], tile_shape=(64, 80), dtype="uint16")
    target = cohort.images_group()
    for _ in growing.append(
        target, ((_labels(at), shards.encode_tile(_full(IMAGES[at]), target.grid)) for at in range(4))
    ):
        pass
    describe_images(cohort)
    store_run(cohort, RUN, MASKS, lost=(LOST,))
    truth = cohort.annotations_group()
    growing.create_growing(truth, dtype="uint32", tile_shape=(64, 80), constants={}, attrs={})
    rows = (
        ({n.TILE: tile, n.SOURCE: f"{tile}.tif", n.SHA256: "0"}, shards.encode_tile(_full(mask), truth.grid))
        for tile, mask in TRUTH.items()
    )
    for _ in growing.append(truth, rows):
        pass
    return cohort


def store_run(
    cohort: Cohort, run: str, masks: Any, *, lost: tuple[int, ...] = (), identity: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Stores `masks` (y, x), one for each tile, as a finished run; `training` is the record of its model."""
    facts = {n.TRAINING: training} if training else {}
    with writing_run(cohort, run, identity=identity or {"checkpoint": "0"}, facts=facts) as writer:
        for plan in writer.plans():
            grid = run_grid(cohort.location, run)
            here = range(plan.first, plan.first + plan.n_slots)
            encoded = (shards.encode_tile(_full(masks[at]), grid) for at in here)
            write_run_shard(cohort.location, run, plan, encoded, creation=run_creation(cohort.location, run))
            writer.commit([ShardReceipt(plan, tuple(_result(masks, at, at in lost) for at in here))])
        writer.finish()


def _result(masks: Any, at: int, is_lost: bool) -> TileResult:
    if is_lost:
        return TileResult(n.QUARANTINED, 0.1, "out of memory")
    found = measure_cells(masks[at], IMAGES[at])
    return TileResult(n.DONE, 0.1, values=found.of_tile, objects=found)


def _labels(at: int) -> dict[str, Any]:
    donor, marker, _ = TILES[at].split("/")
    return {
        n.TILE: TILES[at], n.DONOR: donor, n.MARKER: marker, n.SPLIT: "", n.HEIGHT: SIZES[at][0],
        n.WIDTH: SIZES[at][1], n.SOURCE: ["a", "b"], n.SHA256: ["0", "1"],
    }  # fmt: skip


def _full(pixels: NDArray[Any]) -> NDArray[Any]:
    """`pixels` (…, y, x) in the frame of the store."""
    missing = [(0, 64 - pixels.shape[-2]), (0, 80 - pixels.shape[-1])]
    return np.pad(pixels, [*[(0, 0)] * (pixels.ndim - 2), *missing])
